"""Settings of loops on CPU, GPU and TPU, and the measurements behind them.

On a CPU a step costs arithmetic and memory traffic. So the forward pass saves the values that the
backward pass needs, and one chunk of the sequence fits into the cache. On a GPU a step costs kernel
launches: a small kernel takes about 2 µs. So everything that does not depend on the previous step
is computed for all steps of a chunk at once, and the loop launches only the rest.

    python -m benchmarks accelerator      on an NVIDIA H200, benchmarks/results/gpu_h200.json
    python -m benchmarks speed            on a CPU, benchmarks/results/cpu.json
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax

from jaxrnn import check
from jaxrnn.loops.scans import Scan, UnrolledScan


class Settings(NamedTuple):
    """How loops run on one kind of device.

    Fields:
        scan: runs the steps that have to run in order.
        recomputes: whether the backward pass of a Cell recomputes the saved values and the
            coefficients of the adjoint, for all steps of a chunk at once.
        whole_bytes: a sequence whose projections take at most this many bytes runs as one chunk.
            If its carries take more bytes, they count in the place of the projections.
        chunk_bytes: the approximate number of bytes of the projections of one chunk.
        chunk_steps: the least number of steps in a chunk. For each chunk, an array of the size of
            the weights is added to their gradient.
    """

    scan: Scan
    recomputes: bool
    whole_bytes: int
    chunk_bytes: int
    chunk_steps: int


# On a CPU, unrolling by 4 and recomputing had 0.77 to 1.22 of the speed, 0.98 in the mean. On an
# H200, a GRU and an LSTM of 256 units ran 2.4 times as fast with recomputing and unrolling by 8 as
# with saving and no unrolling. The settings of a TPU are not measured.
SETTINGS = {
    "cpu": Settings(UnrolledScan(1), False, 2**23, 2**21, 8),
    "gpu": Settings(UnrolledScan(8), True, 2**23, 2**22, 64),
    "tpu": Settings(UnrolledScan(1), True, 2**23, 2**22, 64),
}
_assumed: contextvars.ContextVar[str | None] = contextvars.ContextVar("assumed", default=None)


def settings() -> Settings:
    """Returns the settings of JAX's default device.

    An unknown device gets the settings of a GPU.
    """
    return SETTINGS.get(platform(), SETTINGS["gpu"])


def platform() -> str:
    """Returns the kind of JAX's default device, or the one that `assume` names."""
    return _assumed.get() or jax.default_backend()


@contextlib.contextmanager
def assume(platform: str) -> Iterator[None]:
    """Traces programs for another device than the default one: "cpu", "gpu" or "tpu".

    This is for programs that are compiled ahead of time, and for tests.
    """
    platforms = ", ".join(map(repr, SETTINGS))
    check.require(platform in SETTINGS, "platform", repr(platform), f"one of {platforms}")
    token = _assumed.set(platform)
    try:
        yield
    finally:
        _assumed.reset(token)
