"""Many processes train one network: docs/many_processes.py, on this machine."""

import argparse
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrnn.training import Checkpoints

SECONDS = 300  # after which a process is killed
WORKER = Path(__file__).parent / "process_worker.py"
SCRIPT = WORKER.parent.parent / "docs" / "many_processes.py"


@pytest.fixture(autouse=True)
def _strict():
    """In the place of the fixture of this name: float32, and optax's Adam may promote."""


def start(count, folder, updates):
    """Starts the processes, one device each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, WORKER, "--processes", count, "--coordinator", f"localhost:{port}"]
    command += ["--checkpoints", folder, "--updates", updates]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment |= {"JAX_NUM_CPU_DEVICES": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    processes = []
    for number in range(count):
        # A file, since a full pipe that nobody reads would stop the process.
        with open(f"{folder}-{number}.err", "w") as errors:
            streams = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
            ask = [*map(str, command), "--process", str(number)]
            processes.append(subprocess.Popen(ask, env=environment, **streams))
        timer = threading.Timer(SECONDS, processes[-1].kill)
        timer.daemon = True
        timer.start()
    return processes


def end(processes):
    """Waits for all processes; returns what each has said."""
    try:
        return [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def trained(folder, updates):
    """The state after training by this process alone, from what is in the folder."""
    script = runpy.run_path(str(SCRIPT))
    script["train"](argparse.Namespace(checkpoints=folder, updates=updates))
    return restored(folder, updates)


def restored(folder, step):
    script = runpy.run_path(str(SCRIPT))
    network = script["NETWORK"]
    trainer = script["jaxrnn"].training.trainer(script["loss"], script["OPTIMIZER"])
    params = network.init(jax.random.key(0), 3)
    like = trainer.init(params, jax.random.key(1), network.initial_carry((script["ROWS"],)))
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(like, step).state


def arrays(state):
    state = state._replace(key=jax.random.key_data(state.key))
    return [*map(np.asarray, jax.tree.leaves(state))]


def close(got, wanted):
    for a, b in zip(arrays(got), arrays(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def killed(count, folder, victim):
    """Starts processes, kills one of them after its twelfth update, and waits for the others."""
    processes = start(count, folder, 100_000)
    try:
        lines = iter(processes[0].stdout.readline, "")
        assert any(line.startswith("update 12:") for line in lines), errors_of(folder, 0)
        processes[victim].kill()
        begin = time.monotonic()
        others = [process for process in processes if process is not processes[victim]]
        end(others)
        assert time.monotonic() - begin < 120
    finally:
        end(processes)
    for number, process in enumerate(processes):
        said = errors_of(folder, number)
        assert process.returncode not in (0, None)
        clear = "another task died" in said or "start all again" in said
        assert clear or number == victim, said[-3000:]


def errors_of(folder, number):
    return Path(f"{folder}-{number}.err").read_text()


def test_processes_train_as_one_and_another_number_goes_on_when_one_dies(tmp_path):
    both, one = tmp_path / "both", tmp_path / "one"
    killed(2, both, victim=1)
    with Checkpoints(both) as checkpoints:
        step = checkpoints.latest_step
    assert step in (5, 10, 15)  # a checkpoint that was being written is none
    trained(one, step)
    close(restored(both, step), restored(one, step))
    close(trained(both, step + 5), trained(one, step + 5))
    assert all(path.name.isdecimal() for path in both.iterdir())  # each was written once


@pytest.mark.thorough
@pytest.mark.parametrize(("count", "victim"), [(2, 0), (4, 3)])
def test_processes_that_die_go_on_to_the_same_bits(tmp_path, count, victim):
    killed(count, tmp_path / "killed", victim)
    for folder in ("killed", "whole"):
        processes = start(count, tmp_path / folder, 20)
        for number, out in enumerate(end(processes)):
            assert processes[number].returncode == 0, errors_of(tmp_path / folder, number)
            assert "the gradient is that of one process" in out
    got, wanted = (arrays(restored(tmp_path / folder, 20)) for folder in ("killed", "whole"))
    assert [x.tobytes() for x in got] == [x.tobytes() for x in wanted]
