"""Programs compiled ahead, many at once: on a GPU compiling takes longer than measuring."""

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
        function, args: of arrays.
        precision: `jax_default_matmul_precision` while it is traced; None for JAX's default.
        options: the compiler's, by name.
        wide: in 64-bit mode, and on the CPU that is this process' host.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    precision: str | None = None
    options: dict[str, Any] | None = None
    wide: bool = False


class Built(NamedTuple):
    """A compiled program.

    Fields:
        program: to be called with `args`.
        args: the job's arguments.
        trace_seconds, compile_seconds: how long each took, beside other programs.
        temporary_bytes: memory beside arguments and results, by the compiler's analysis, or None.
    """

    program: jax.stages.Compiled
    args: tuple[Any, ...]
    trace_seconds: float
    compile_seconds: float
    temporary_bytes: int | None

    def __call__(self) -> Any:
        """Run it."""
        return self.program(*self.args)


THREADS = max(2, os.cpu_count() or 2)
_pool = concurrent.futures.ThreadPoolExecutor(THREADS)
_compiling: set[concurrent.futures.Future[Any]] = set()


def build(jobs: Mapping[str, Callable[[], Job]], seconds: float) -> dict[str, Built | Exception]:
    """Trace in this thread, compile in a pool, and wait at most `seconds` for all of them.

    A job that fails, in being made, traced or compiled, has its error in the place of the program.
    """
    found: dict[str, Built | Exception] = {}
    futures: dict[str, concurrent.futures.Future[Built]] = {}
    end = time.monotonic() + seconds
    for name, make in jobs.items():
        try:
            begun = time.perf_counter()
            job = make()
            with jax.default_matmul_precision(job.precision), wide(job.wide):
                lowered = jax.jit(job.function).lower(*job.args)
            traced = time.perf_counter() - begun
            futures[name] = _pool.submit(_compile, lowered, job, traced)
            _compiling.add(futures[name])
        except Exception as error:
            found[name] = error
    for name, future in futures.items():
        try:
            found[name] = future.result(max(0.0, end - time.monotonic()))
        except concurrent.futures.TimeoutError:
            future.cancel()
            found[name] = TimeoutError(f"not compiled within {seconds:.0f} s")
        except Exception as error:
            found[name] = error
    return {name: found[name] for name in jobs}


def wide(chosen: bool = True) -> contextlib.AbstractContextManager[Any]:
    """64-bit mode on the host's CPU, where the truth is computed, in this thread alone."""
    both = contextlib.ExitStack()
    if chosen:
        both.enter_context(jax.enable_x64(True))
        both.enter_context(jax.default_device(jax.devices("cpu")[0]))
    return both


def is_busy() -> bool:
    """Whether something that was given up still compiles, which disturbs what is timed."""
    _compiling.difference_update([future for future in _compiling if future.done()])
    return bool(_compiling)


def _compile(lowered: Any, job: Job, traced: float) -> Built:
    begun = time.perf_counter()
    program = lowered.compile(compiler_options=job.options)
    taken = time.perf_counter() - begun
    memory = program.memory_analysis()
    return Built(program, job.args, traced, taken, memory and memory.temp_size_in_bytes)


def of(built: Built | Exception) -> Built:
    """The program; raises what kept it from being one."""
    if isinstance(built, Exception):
        raise built
    return built


def launches_of_loops(program: jax.stages.Compiled) -> list[dict[str, int]]:
    """How often each kind of instruction that launches stands in the body of each while loop.

    Counted from the compiled program: on a GPU a fusion, a custom call and a copy are a kernel
    each (a custom call may be more), so their sum is about the kernels of one turn of the loop.
    """
    hlo = program.as_text() or ""
    bodies, found = set(re.findall(r"body=%?([\w.\-]+)", hlo)), []
    for computation in re.split(r"\n(?=%|ENTRY)", hlo):
        name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", computation)
        if name and name.group(1) in bodies:
            kinds = re.findall(r"\s=\s.*?\s([a-z][a-z0-9\-]*)\(", computation)
            launched = ("fusion", "custom-call", "copy", "while", "dot", "convolution")
            found.append({kind: kinds.count(kind) for kind in launched if kind in kinds})
    return found
