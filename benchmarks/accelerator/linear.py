"""Times cells that are linear in their carry over long sequences, where `parallel` should win."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from benchmarks.accelerator import compiler, sides
from benchmarks.accelerator.record import describe
from benchmarks.accelerator.run import Run
from benchmarks.accelerator.speed import SAMPLE_MS, describe_row, times
from benchmarks.clock import interleaved
from benchmarks.problems import Problem, Shape

CELLS = ("lru", "min_gru", "min_lstm")
STEPS, BATCH, SIZE = (1024, 16384, 65536), 8, 128
DRY_STEPS, DRY_BATCH, DRY_SIZE = (64,), 2, 8
LOOPS = {
    "scan": jaxrnn.scan,
    "bptt": jaxrnn.bptt,
    "parallel": jaxrnn.parallel(),
    "parallel in chunks": jaxrnn.parallel(chunk=4096),
}
FIRST_GUESS_MS = 0.06  # the time of one step, forward and backward, of the slowest side
CALLS = 5  # calls of each side at least: for its result, a warm-up, a first time, two samples


def measure(run: Run) -> None:
    """Times the value and gradient at every length, the shortest first."""
    steps, batch, size = (DRY_STEPS, DRY_BATCH, DRY_SIZE) if run.dry else (STEPS, BATCH, SIZE)
    for length in steps:
        for name in CELLS:
            shape = Shape(length, batch, size, size)
            key = f"linear/gradient/float32/{name}/{','.join(map(str, shape))}"
            if run.is_done(key):
                continue
            expected = CALLS * len(LOOPS) * length * _ms_a_step(run, name) / 1e3
            if not run.has(25 + expected):
                run.record.skip(key, f"no time left for about {25 + expected:.0f} s")
                continue
            run.record.begin(key, 120 + 2 * expected)
            try:
                row = _point(run, name, shape)
                run.record.add("linear", key, row)
                run.say(f"{key}: {describe_row(row)}")
            except Exception as error:
                run.failed(key, error)


def _ms_a_step(run: Run, name: str) -> float:
    """Returns the time of a step of the slowest side at shorter lengths, or a guess."""
    rows = [row for row in run.record.rows("linear") if row["cell"] == name]
    measured = [max(row["milliseconds"].values()) / row["shape"]["T"] for row in rows]
    return max(measured, default=0.0 if run.dry else FIRST_GUESS_MS)


def _point(run: Run, name: str, shape: Shape) -> dict[str, Any]:
    task = _make_task(name, shape)
    jobs = {
        side: functools.partial(sides.job, task, functools.partial(loop, task.problem.cell))
        for side, loop in LOOPS.items()
    }
    built = compiler.build(jobs, 90)
    errors = {side: describe(b) for side, b in built.items() if isinstance(b, Exception)}
    programs = {side: b for side, b in built.items() if isinstance(b, compiler.Built)}
    if "scan" not in programs:
        raise RuntimeError(f"no scan to compare with: {errors}")
    outcomes = {
        side: sides.outcome(side, task, jax.block_until_ready(program()))
        for side, program in programs.items()
    }
    differences = {
        side: sides.difference(result, outcomes["scan"]) for side, result in outcomes.items()
    }
    samples = interleaved(programs, 0.05 if run.dry else 0.5, 2, 10, SAMPLE_MS)
    return {
        "work": "gradient",
        "mode": "float32",
        "cell": name,
        "shape": shape._asdict(),
        **times(shape.T, samples),
        "difference_from_scan": differences,
        "compile_seconds": {side: b.compile_seconds for side, b in programs.items()},
        "temporary_bytes": {side: b.temporary_bytes for side, b in programs.items()},
        "launches_of_loops": {
            side: compiler.launches_of_loops(b.program) for side, b in programs.items()
        },
        "errors": errors,
    }


def _make_task(name: str, shape: Shape) -> sides.Task:
    rng = np.random.default_rng(0)
    cell = dict(jaxrnn.CELLS)[name](shape.H)
    xs = rng.standard_normal((shape.T, shape.B, shape.I), np.float32)
    with jax.default_device(jax.devices("cpu")[0]):
        args = cell.init(jax.random.key(0), shape.I), cell.initial_carry((shape.B,)), xs
    ys = jax.eval_shape(functools.partial(jaxrnn.scan, cell), *args)[1]
    targets = rng.standard_normal(ys.shape, np.float32).astype(ys.dtype)
    args, targets = jax.device_put((args, jnp.asarray(targets)), jax.devices()[0])
    problem = Problem(name, shape, cell, cell, args, targets)
    return sides.Task(problem, sides.MODES[0], "gradient")
