"""Long sequences, chunk by chunk.

On a CPU, the first projections of a long sequence would have left the cache before the loop reads
them. On a GPU, what is computed for all steps at once takes the memory of one chunk.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.loops import backend
from jaxrnn.types import Carry, PyTree, StepResult


def in_chunks(
    run: Callable[[Carry, PyTree], StepResult], carry: Carry, xs: PyTree, size_in_bytes: int
) -> StepResult:
    """Run a sequence chunk by chunk, or as a whole if it is short.

    Args:
        run: `(carry, xs) -> (carry, ys)`, of any stretch of the sequence.
        carry: before the first step.
        xs: `(T, ...)`.
        size_in_bytes: of what `run` makes of the whole sequence before or after its loop.
    """
    steps = check.num_steps(xs)
    size = chunk_steps(steps, size_in_bytes)
    if size == steps:
        return run(carry, xs)
    chunks = jax.tree.map(lambda x: jnp.reshape(x, (-1, size, *x.shape[1:])), xs)
    carry, ys = jax.lax.scan(run, carry, chunks)
    return carry, jax.tree.map(lambda y: jnp.reshape(y, (steps, *y.shape[2:])), ys)


def chunk_steps(steps: int, size_in_bytes: int) -> int:
    """Steps in a chunk, the divisor of T nearest to what is wanted; T if none is near or needed."""
    on_device = backend.settings()
    if not tree.is_surely_less(on_device.whole_bytes, size_in_bytes):
        return steps
    wanted = max(on_device.chunk_steps, on_device.chunk_bytes * steps // size_in_bytes)
    near = [n for n in range(max(1, wanted // 4), 4 * wanted + 1) if steps % n == 0]
    return min(near, key=lambda n: max(n / wanted, wanted / n), default=steps)


def bytes_of(forms: PyTree) -> int:
    """Bytes of all arrays of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(forms))
