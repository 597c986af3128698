"""How long do the gradient and the forward pass take on this device, compared with every peer?

All sides of a batch of points are compiled first, and then timed in turns while nothing compiles.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import compiler, sides
from benchmarks.accelerator.compiler import Built, Job
from benchmarks.accelerator.record import describe
from benchmarks.accelerator.run import Run
from benchmarks.accelerator.sides import MODES, Absent, Mode, Task
from benchmarks.clock import interleaved
from benchmarks.problems import Shape
from benchmarks.speed import product_flops

SHAPES = (
    Shape(512, 64, 256, 256),
    Shape(1024, 16, 768, 768),
    Shape(256, 128, 512, 1024),
    Shape(2048, 32, 128, 128),
    Shape(128, 16, 64, 128),
)
DRY_SHAPES = (Shape(12, 4, 8, 16),)
PRODUCT_SIZE = {False: 8192, True: 256}
# Seconds for all sides of one point; least and most samples of each side; milliseconds of a sample.
SECONDS, LEAST, MOST, SAMPLE_MS = 1.6, 5, 40, 3.0
# The relative difference from `scan` above which a side is reported to differ. The rounding of
# narrow products and of TF32 depends on the order of the sums.
MAX_DIFFERENCE = {"float32": 1e-2, "bfloat16": 1e-1, "float32, highest": 1e-4}


class Point(NamedTuple):
    """A point of the measurement, at which all sides are timed."""

    work: str
    mode: Mode
    cell: str
    shape: Shape

    def key(self) -> str:
        """Returns the name of the point in the record."""
        sizes = ",".join(map(str, self.shape))
        return f"speed/{self.work}/{self.mode.name}/{self.cell}/{sizes}"


def batches(dry: bool) -> list[list[Point]]:
    """Returns all points, the most informative first, in batches that are compiled together."""
    shapes = DRY_SHAPES if dry else SHAPES
    narrow_first, gated = MODES[:2], ("gru", "lstm")
    order = [
        *itertools.product(("gradient",), narrow_first, gated),
        *itertools.product(("gradient",), narrow_first, ("elman",)),
        *itertools.product(("gradient",), MODES[2:], gated),
        *itertools.product(("forward",), narrow_first, (*gated, "elman")),
        ("gradient", MODES[2], "elman"),
    ]
    return [[Point(work, mode, cell, shape) for shape in shapes] for work, mode, cell in order]


def rates(run: Run) -> None:
    """Measures the operations per second of one large matrix product, in each mode."""
    size = PRODUCT_SIZE[run.dry]
    key = "rate/product"
    if run.is_done(key):
        return
    run.record.begin(key, 120)
    try:
        drawn = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
        pairs = {mode.name: [jnp.asarray(a, mode.dtype) for a in drawn] for mode in MODES}
        jobs = {
            mode.name: functools.partial(Job, jnp.matmul, tuple(pairs[mode.name]), mode.precision)
            for mode in MODES
        }
        built = compiler.build(jobs, 60)
        calls = {name: compiler.require_built(b) for name, b in built.items()}
        samples = interleaved(calls, 0.1 if run.dry else 0.4, sample_ms=SAMPLE_MS)
        best = {name: 2 * size**3 / min(ms) / 1e9 for name, ms in samples.items()}
        median = {name: 2 * size**3 / statistics.median(ms) / 1e9 for name, ms in samples.items()}
        # Products of the highest precision do not use TF32. A much faster product does.
        tf32 = best["float32"] > 1.5 * best["float32, highest"]
        row = {"size": size, "tflops": best, "tflops_median": median, "jax_takes_tf32": tf32}
        run.record.add("rate", key, row)
        run.say(f"TFLOP/s of a product of {size}: {best}")
    except Exception as error:
        run.failed(key, error)


def probe(run: Run) -> None:
    """Tries each side that may crash on a small problem, and leaves out the sides that fail.

    A worker that replaces one that died leaves out all sides that are not safe.
    """
    died = run.record.died("speed")
    task = sides.make_task("lstm", DRY_SHAPES[0], MODES[0], "gradient")
    for name in [name for name in sides.SIDES if name not in sides.SAFE]:
        key = f"probe/{name}"
        if died:
            run.record.skip(name, f"a worker may have died of it, at {died[-1]}")
            del sides.SIDES[name]
            continue
        if not run.is_done(key):
            run.record.begin(key, 60)
            try:
                built = compiler.build({name: functools.partial(sides.SIDES[name], task)}, 50)
                jax.block_until_ready(compiler.require_built(built[name])())
                run.record.add("probe", key, {"side": name})
            except Absent as why:
                run.record.add("probe", key, {"side": name, "absent": str(why)})
            except Exception as error:
                run.failed(key, error)
        if key in {error["key"] for error in run.record.content["errors"]}:
            run.say(f"{name} fails on a small problem, and is left out")
            del sides.SIDES[name]


def measure(run: Run, batches: Iterable[list[Point]]) -> None:
    """Compiles and times batches of points, as many points of each as there is time for."""
    for batch in batches:
        waiting = [point for point in batch if not run.is_done(point.key())]
        while waiting:
            now = _points_that_fit(run, waiting)
            if now and run.is_done(_compiling(now)):
                now = now[:1]  # A worker died of this batch, so its points are tried one by one.
            if len(now) == 1 and run.is_done(_compiling(now)):
                waiting = waiting[1:]
                continue
            if not now:
                names = ", ".join(point.key() for point in waiting)
                run.record.skip(names, "no time left")
                break
            _batch(run, now)
            waiting = waiting[len(now) :]


def _points_that_fit(run: Run, points: list[Point]) -> list[Point]:
    """Returns as many points as fit, estimated from the compile times so far."""
    seconds_a_program = _seconds_a_program(run)
    for count in range(len(points), 0, -1):
        programs = count * len(sides.SIDES)
        waves = -(-programs // compiler.THREADS)
        if run.has(waves * seconds_a_program + count * 3 * SECONDS + 5):
            return points[:count]
    return []


def _compiling(points: list[Point]) -> str:
    return f"{points[0].key()} and {len(points) - 1} more: compiling"


def _seconds_a_program(run: Run) -> float:
    """Returns the 90th percentile of the compile times so far, or a guess."""
    seconds_so_far = [
        seconds for row in run.record.rows("speed") for seconds in row["compile_seconds"].values()
    ]
    return float(np.quantile(seconds_so_far, 0.9)) if seconds_so_far else 15.0


def _batch(run: Run, points: list[Point]) -> None:
    start = time.perf_counter()
    run.record.begin(_compiling(points), 150)
    task: dict[Point, Task] = {}
    jobs: dict[Any, Callable[[], Job]] = {}
    for point in points:
        try:
            task[point] = sides.make_task(point.cell, point.shape, point.mode, point.work)
        except Exception as error:
            run.failed(point.key(), error)
            continue
        for name, make in sides.SIDES.items():
            jobs[point, name] = functools.partial(make, task[point])
    limit = max(20.0, min(110.0, run.left() - 10))
    built: dict[Any, Built | Exception] = compiler.build(jobs, limit)
    done = sum(isinstance(b, Built) for b in built.values())
    run.say(f"{points[0].key()}: {done} programs in {time.perf_counter() - start:.0f} s")
    for point in task:
        if not run.has(2 * SECONDS):
            run.record.skip(point.key(), "no time left to run it")
            continue
        run.record.begin(point.key(), 60)
        try:
            of_point = {name: b for (of, name), b in built.items() if of == point}
            row = _point(run, task[point], point, of_point)
            run.record.add("speed", point.key(), row)
            run.say(f"{point.key()}: {describe_row(row)}")
        except Exception as error:
            run.failed(point.key(), error)


def _point(
    run: Run, task: Task, point: Point, built: dict[str, Built | Exception]
) -> dict[str, Any]:
    """One row; a side that fails says why in it."""
    errors, absent = {}, {}
    calls: dict[str, Callable[[], Any]] = {}
    for name, program in built.items():
        if isinstance(program, Absent):
            absent[name] = str(program)
        elif isinstance(program, Exception):
            errors[name] = describe(program)
        else:
            calls[name] = program
    try:
        calls["torch"] = sides.torch(task).run
    except Absent as why:
        absent["torch"] = str(why)
    except Exception as error:
        errors["torch"] = describe(error)
    outcomes = {}
    for name in list(calls):
        try:
            outcomes[name] = sides.outcome(name, task, jax.block_until_ready(calls[name]()))
        except Exception as error:
            errors[name] = describe(error)
            del calls[name]
    if "scan" not in calls:
        raise RuntimeError(f"no scan to compare with: {errors}")
    differences = {name: sides.difference(out, outcomes["scan"]) for name, out in outcomes.items()}
    seconds = 0.05 if run.dry else SECONDS / len(calls)
    samples = interleaved(calls, seconds, LEAST, MOST, SAMPLE_MS)
    programs = {name: b for name, b in built.items() if isinstance(b, Built)}
    timed = times(point.shape.T, samples)
    return {
        "work": point.work,
        "mode": point.mode.name,
        "cell": point.cell,
        "shape": point.shape._asdict(),
        **timed,
        **_products(run, point, timed["milliseconds"]),
        "difference_from_scan": differences,
        "apart": [
            name for name, d in differences.items() if not d <= MAX_DIFFERENCE[point.mode.name]
        ],
        "compile_seconds": {name: b.compile_seconds for name, b in programs.items()},
        "trace_seconds": {name: b.trace_seconds for name, b in programs.items()},
        "temporary_bytes": {name: b.temporary_bytes for name, b in programs.items()},
        "launches_of_loops": {
            name: compiler.launches_of_loops(b.program) for name, b in programs.items()
        },
        "torch_tf32": point.mode.tf32,
        "something_compiled_meanwhile": compiler.is_busy(),
        "errors": errors,
        "absent": absent,
    }


def times(steps: int, samples: dict[str, list[float]]) -> dict[str, Any]:
    """Returns the time of a step, and its ratio to the time of `scan` in the same turn."""
    medians = {name: statistics.median(side) for name, side in samples.items()}
    a_step, ratios = {}, {}
    for name, side in samples.items():
        parts = {"median": medians[name], "best": min(side), "worst": max(side)}
        a_step[name] = {part: 1e3 * ms / steps for part, ms in parts.items()}
        shares = [a / b for a, b in zip(side, samples["scan"], strict=True)]
        ratios[name] = {"median": statistics.median(shares), "worst": max(shares)}
    return {
        "milliseconds": medians,
        "microseconds_a_step": a_step,
        "ratio_to_scan": ratios,
        "samples": samples,
    }


def _products(run: Run, point: Point, milliseconds: dict[str, float]) -> dict[str, Any]:
    """Returns the TFLOP/s of the products, and their ratio to the rate of one large product."""
    flops = product_flops(point.work, point.cell, point.shape)
    tflops = {name: flops / ms / 1e9 for name, ms in milliseconds.items()}
    rate = [row["tflops"][point.mode.name] for row in run.record.rows("rate")]
    shares = {name: speed / rate[0] for name, speed in tflops.items()} if rate else {}
    return {"tflops": tflops, "share_of_product_rate": shares}


def describe_row(row: dict[str, Any]) -> str:
    """Returns a row as one line."""
    parts = [f"{name} {t['median']:.2f}" for name, t in row["microseconds_a_step"].items()]
    failed = [f"{name} FAILED" for name in row.get("errors", ())]
    differ = [f"{name} DIFFERS" for name in row.get("apart", ())]
    return "µs a step: " + ", ".join([*parts, *failed, *differ])
