"""What does one time step launch, and where does its time go?

"counted" is the number of launches in the body of each loop of the compiled program. "measured" is
from a trace of one call by the device: the kernels, and the largest of them by time.
"""

import functools
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.accelerator import compiler, sides, speed
from benchmarks.accelerator.run import BrokenDevice, Run

CELLS = ("gru", "lstm")
SIDES = ("scan", "bptt", "bptt, command buffers", "fused")
LARGEST = 12  # kernels that are reported by name
SLOWDOWN = 1.2  # the largest ratio of the times of a call after and before a trace
CHILD_SECONDS = 90


def measure(run: Run) -> None:
    """Traces one call of each side."""
    if run.record.died("profile"):
        run.record.skip("profile", "an earlier worker died in it")
        return
    shape, mode = (speed.DRY_SHAPES if run.dry else speed.SHAPES)[0], sides.MODES[0]
    jobs: dict[Any, Callable[[], compiler.Job]] = {}
    for cell in CELLS:
        existing = [side for side in SIDES if side in sides.SIDES]
        waiting = [side for side in existing if not run.is_done(_key(cell, side))]
        if waiting:
            task = sides.make_task(cell, shape, mode, "gradient")
            jobs |= {(cell, s): functools.partial(sides.SIDES[s], task) for s in waiting}
    if not jobs or not run.has(40):
        return
    run.record.begin("profile/compiling", 120)
    for (cell, side), built in compiler.build(jobs, 90).items():
        key = _key(cell, side)
        if isinstance(built, sides.Absent):
            run.record.skip(key, str(built))
            continue
        run.record.begin(key, 45)
        try:
            row = {"cell": cell, "side": side, "shape": shape._asdict(), **_traced(built, shape.T)}
            run.record.add("profile", key, row)
            run.say(f"{key}: {row['measured'].get('kernels_a_step', 'no device')} kernels a step")
        except Exception as error:
            run.failed(key, error)
            continue
        if row["milliseconds_after"] > SLOWDOWN * row["milliseconds_before"] and not run.dry:
            raise BrokenDevice(f"{key}: calls are slower after they have been traced")


def _key(cell: str, side: str) -> str:
    return f"profile/{cell}/{side}"


def _traced(built: Any, steps: int) -> dict[str, Any]:
    program = compiler.require_built(built)
    before = _milliseconds(program)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 1
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(program())
        files = sorted(Path(folder).rglob("*.trace.json.gz"))
        events = json.loads(gzip.decompress(files[0].read_bytes()))["traceEvents"] if files else []
    return {
        "milliseconds_before": before,
        "milliseconds_after": _milliseconds(program),
        "counted": compiler.launches_of_loops(program.program),
        "measured": summarize_trace(events, steps),
    }


def _milliseconds(program: Callable[[], Any]) -> float:
    samples = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(program())
        samples.append((time.perf_counter() - start) * 1e3)
    return statistics.median(samples[1:])


def summarize_trace(events: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Summarizes a Chrome trace of one call: kernels and times on the device, per time step."""
    processes, threads = {}, {}
    for event in events:
        name = event.get("args", {}).get("name", "")
        if event.get("name") == "process_name":
            processes[event["pid"]] = name
        elif event.get("name") == "thread_name":
            threads[event["pid"], event["tid"]] = name
    durations_by_kernel: dict[str, list[float]] = defaultdict(list)
    copies: list[float] = []
    launched: dict[str, int] = defaultdict(int)
    spans = []
    for event in events:
        if event.get("ph") != "X":
            continue
        name, lane = event["name"], threads.get((event["pid"], event.get("tid")), "")
        if "/device:GPU" in processes.get(event["pid"], ""):
            # The other lanes show the same time again, by operation or by module.
            if lane.startswith("Stream"):
                is_copy = name.lower().startswith(("memcpy", "memset"))
                (copies if is_copy else durations_by_kernel[name]).append(event.get("dur", 0.0))
                spans.append((event["ts"], event["ts"] + event.get("dur", 0.0)))
        elif re.match(r"cu(da)?[A-Z]", name):
            launched[name] += 1  # a call of the CUDA API by the host
    result: dict[str, Any] = {"processes": sorted(set(processes.values())), "calls": launched}
    if not spans:
        return {**result, "missing": "no kernel of a GPU in the trace"}
    kernels = sum(map(len, durations_by_kernel.values()))
    largest = sorted(durations_by_kernel.items(), key=lambda item: -sum(item[1]))
    return {
        **result,
        "lanes": sorted({lane for lane in threads.values() if lane})[:20],
        "kernels": kernels,
        "kernels_a_step": kernels / steps,
        "copies_a_step": len(copies) / steps,
        "microseconds_a_step_busy": sum(map(sum, [*durations_by_kernel.values(), copies])) / steps,
        "microseconds_a_step_from_first_to_last": (
            (max(end for _, end in spans) - min(begin for begin, _ in spans)) / steps
        ),
        "largest": [
            {
                "kernel": name[:120],
                "a_step": len(durations) / steps,
                "microseconds_a_step": sum(durations) / steps,
                "microseconds_each": statistics.median(durations),
            }
            for name, durations in largest[:LARGEST]
        ],
    }


def by_flag(run: Run) -> None:
    """Checks whether command buffers as compiler options had an effect; if not, tries the flag.

    A child process with the flag measures `scan` and `bptt`.
    """
    if jax.default_backend() != "gpu":
        run.record.skip("command buffers by flag", "command buffers are a GPU's")
        return
    shown, why = is_shown(run.record.rows("speed"), run.record.rows("profile"))
    run.record.content["command_buffers"] = {"shown": shown, "why": why}
    run.record.save()
    run.say(f"command buffers as options of one program: {why}")
    if shown:
        return
    for name in [name for name in sides.SIDES if name.endswith("command buffers")]:
        del sides.SIDES[name]  # Timing it again would show nothing.
    key = "flag/command buffers"
    if run.is_done(key):
        return
    if not run.has(CHILD_SECONDS + 30):
        run.record.skip("command buffers by flag", "no time left")
        return
    run.record.begin(key, CHILD_SECONDS + 15)
    try:
        flags = f"{os.environ.get('XLA_FLAGS', '')} {sides.COMMAND_BUFFER_FLAGS}".strip()
        command = [sys.executable, "-m", "benchmarks.accelerator.flagged"]
        done = subprocess.run(
            command,
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
        )
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for row in rows:
            run.record.add("command buffers by flag", key, {"XLA_FLAGS": flags, **row})
            run.say(f"by flag, {row['cell']}: {speed.describe_row(row)}")
        if done.returncode or not rows:
            raise RuntimeError(f"code {done.returncode}: {done.stderr[-400:]}")
    except Exception as error:
        run.failed(key, error)


def is_shown(rows: list[dict[str, Any]], profiles: list[dict[str, Any]]) -> tuple[bool, str]:
    """Returns whether command buffers had an effect, and why.

    They had one if a trace has launches of graphs, or if times differ by more than a tenth.
    """
    graphs = {
        row["side"]: sum(n for name, n in row["measured"]["calls"].items() if "GraphLaunch" in name)
        for row in profiles
    }
    plain, captured = graphs.get("bptt", 0), graphs.get("bptt, command buffers", 0)
    if captured > plain:
        return True, f"a trace has {captured} launches of graphs, {plain} without the options"
    ratios = [
        row["milliseconds"]["bptt, command buffers"] / row["milliseconds"]["bptt"]
        for row in rows
        if {"bptt, command buffers", "bptt"} <= row["milliseconds"].keys()
    ]
    if not ratios:
        return False, "no program with the options ran"
    span = f"{min(ratios):.2f} to {max(ratios):.2f} times those without"
    return max(abs(ratio - 1) for ratio in ratios) > 0.1, f"times with the options are {span}"
