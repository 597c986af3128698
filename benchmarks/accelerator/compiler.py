"""Compiles many programs at once ahead of time: on a GPU, compiling takes longer than timing."""

import concurrent.futures
import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax


class Job(NamedTuple):
    """A program to compile.

    Fields:
        function: a function of arrays.
        args: the arguments of the function.
        precision: `jax_default_matmul_precision` for tracing; None for JAX's default.
        options: compiler options by name.
        wide: whether to compile in 64-bit mode for the host's CPU.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    precision: str | None = None
    options: dict[str, Any] | None = None
    wide: bool = False


class Built(NamedTuple):
    """A compiled program.

    Fields:
        program: the compiled program.
        args: the arguments of the job.
        trace_seconds: how long tracing took.
        compile_seconds: how long compilation took, while other programs were compiled too.
        temporary_bytes: memory besides arguments and results, by the compiler's analysis; or None.
    """

    program: jax.stages.Compiled
    args: tuple[Any, ...]
    trace_seconds: float
    compile_seconds: float
    temporary_bytes: int | None

    def __call__(self) -> Any:
        """Runs the program with the arguments of the job."""
        return self.program(*self.args)


THREADS = max(2, os.cpu_count() or 2)
_pool = concurrent.futures.ThreadPoolExecutor(THREADS)
_compiling: set[concurrent.futures.Future[Any]] = set()


def build(jobs: Mapping[str, Callable[[], Job]], seconds: float) -> dict[str, Built | Exception]:
    """Traces jobs in this thread, compiles them in a pool, and waits at most `seconds`.

    Returns a program by name, or the error of making, tracing or compiling it.
    """
    results: dict[str, Built | Exception] = {}
    futures: dict[str, concurrent.futures.Future[Built]] = {}
    end = time.monotonic() + seconds
    for name, make in jobs.items():
        try:
            start = time.perf_counter()
            job = make()
            with jax.default_matmul_precision(job.precision), wide(job.wide):
                lowered = jax.jit(job.function).lower(*job.args)
            traced = time.perf_counter() - start
            futures[name] = _pool.submit(_compile, lowered, job, traced)
            _compiling.add(futures[name])
        except Exception as error:
            results[name] = error
    for name, future in futures.items():
        try:
            results[name] = future.result(max(0.0, end - time.monotonic()))
        except concurrent.futures.TimeoutError:
            future.cancel()
            results[name] = TimeoutError(f"not compiled within {seconds:.0f} s")
        except Exception as error:
            results[name] = error
    return {name: results[name] for name in jobs}


def wide(enabled: bool = True) -> contextlib.AbstractContextManager[Any]:
    """Returns a context with 64-bit mode and the host's CPU as device, for this thread only."""
    stack = contextlib.ExitStack()
    if enabled:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.default_device(jax.devices("cpu")[0]))
    return stack


def is_busy() -> bool:
    """Whether a job that timed out is still compiling, which would disturb timings."""
    _compiling.difference_update([future for future in _compiling if future.done()])
    return bool(_compiling)


def _compile(lowered: Any, job: Job, traced: float) -> Built:
    start = time.perf_counter()
    program = lowered.compile(compiler_options=job.options)
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    return Built(program, job.args, traced, seconds, memory and memory.temp_size_in_bytes)


def require_built(built: Built | Exception) -> Built:
    """Returns the program; raises its error if it could not be built."""
    if isinstance(built, Exception):
        raise built
    return built


def launches_of_loops(program: jax.stages.Compiled) -> list[dict[str, int]]:
    """Counts the instructions in the body of each while loop that launch kernels, by kind.

    The counts are those of the compiled program. On a GPU, a fusion, a custom call and a copy are
    one kernel each (a custom call may be more), so their sum is about the number of kernels of one
    iteration.
    """
    hlo = program.as_text() or ""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", hlo))
    counts = []
    for computation in re.split(r"\n(?=%|ENTRY)", hlo):
        name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", computation)
        if name and name.group(1) in bodies:
            kinds = re.findall(r"\s=\s.*?\s([a-z][a-z0-9\-]*)\(", computation)
            launching = ("fusion", "custom-call", "copy", "while", "dot", "convolution")
            counts.append({kind: kinds.count(kind) for kind in launching if kind in kinds})
    return counts
