"""The worker process: all stages, the most important first."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.accelerator import supervise
from benchmarks.accelerator.record import Record


def run(path: Path, deadline: float, seconds: float, dry: bool) -> int:
    """Measures until all is done or the deadline passes, continuing after the last point."""
    supervise.end_with(os.getppid())
    record = Record.load(path)
    record.begin("starting JAX", 120)

    import jax

    from benchmarks.accelerator import correctness, linear, machine, profile, speed
    from benchmarks.accelerator.run import BrokenDevice, Run

    # PyTorch and Flax are slow to import from a cold disk, so another process reads them first.
    reader = subprocess.Popen(
        [sys.executable, "-c", "import flax.nnx, torch"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    dry = dry or jax.default_backend() == "cpu"
    this = Run(record, deadline, seconds, dry)
    if not record.content["machine"]:
        record.content["machine"] = machine.machine()
        record.content["settings"] = {"minutes": seconds / 60, "dry_run": dry}
    record.save()
    this.say(f"{record.content['machine']}")
    batches = speed.batches(dry)

    def start_torch() -> None:
        record.begin("starting PyTorch", 120)
        with contextlib.suppress(subprocess.TimeoutExpired):
            reader.wait(60)
        record.content["machine"]["torch"] = machine.torch_settings()
        this.say(f"PyTorch: {record.content['machine']['torch']}")

    stages: dict[str, Callable[[], None]] = {
        "rate": lambda: speed.rates(this),
        "correctness": lambda: correctness.measure(this),
        "starting PyTorch": start_torch,
        "probe": lambda: speed.probe(this),
        "gradient, float32": lambda: speed.measure(this, batches[:2]),
        "profile": lambda: profile.measure(this),
        "command buffers by flag": lambda: profile.by_flag(this),
        "speed": lambda: speed.measure(this, batches[2:]),
        "linear": lambda: linear.measure(this),
        "certificate": lambda: correctness.certificates(this),
    }
    try:
        for name, stage in stages.items():
            start = time.perf_counter()
            try:
                stage()
            except BrokenDevice:
                raise
            except Exception as error:
                this.failed(f"stage {name}", error)
            record.stage(name, time.perf_counter() - start)
    except BrokenDevice as error:
        this.say(f"a new process is needed: {error}")
        os._exit(supervise.RESTART)
    this.say("done")
    # A return would wait for threads that still compile.
    os._exit(0)
