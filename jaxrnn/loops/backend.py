"""What a loop does differently on CPU, GPU and TPU, and the measurement that decided it.

On a CPU a step costs its arithmetic and its memory traffic, so what is at hand is kept, and a chunk
of the sequence stays in the cache. On a GPU a step costs its kernels: each takes about 2 µs to
launch and to run, however small it is. So as much as possible is computed for all steps of a chunk
at once, and a loop launches what depends on the step before, and nothing else.

    python -m benchmarks accelerator      on an NVIDIA H200, benchmarks/results/gpu_h200.json
    python -m benchmarks speed            on a CPU, benchmarks/results/cpu.json
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax

from jaxrnn import check


class Settings(NamedTuple):
    """How loops run on one kind of device.

    Fields:
        recomputes: whether the backward pass of a Cell computes the saved values again, for all
            steps of a chunk at once, and with them the coefficients of the adjoint.
        unroll: steps in one iteration of a loop.
        whole_bytes: a sequence whose projections take at most so many bytes is run as a whole.
        chunk_bytes: what the projections of one chunk take, about.
        chunk_steps: steps in a chunk, at least. Each chunk adds an array like the weights to their
            gradient.
    """

    recomputes: bool
    unroll: int
    whole_bytes: int
    chunk_bytes: int
    chunk_steps: int


# On a CPU, unrolling by 4 and recomputing were no faster (0.77 to 1.22 of the speed, 0.98 in the
# mean). On an H200, a GRU and an LSTM of 256 units ran 2.4 times as fast recomputing and unrolled
# by 8 as saving and not unrolled. Nothing was measured on a TPU.
SETTINGS = {
    "cpu": Settings(False, 1, 2**23, 2**21, 8),
    "gpu": Settings(True, 8, 2**23, 2**22, 64),
    "tpu": Settings(True, 1, 2**23, 2**22, 64),
}
_assumed: contextvars.ContextVar[str | None] = contextvars.ContextVar("assumed", default=None)


def settings() -> Settings:
    """Those of the device that JAX uses by default; of an unknown one, those of a GPU."""
    platform = _assumed.get() or jax.default_backend()
    return SETTINGS.get(platform, SETTINGS["gpu"])


@contextlib.contextmanager
def assume(platform: str) -> Iterator[None]:
    """Traces programs for another device than the default one: "cpu", "gpu" or "tpu".

    For programs that are compiled ahead of time, and for tests.
    """
    known = ", ".join(map(repr, SETTINGS))
    check.require(platform in SETTINGS, "platform", repr(platform), f"one of {known}")
    token = _assumed.set(platform)
    try:
        yield
    finally:
        _assumed.reset(token)
