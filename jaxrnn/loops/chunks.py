"""Long sequences, one chunk after another.

On a CPU, the projections of a whole long sequence would leave the cache before the loop reads them.
On a GPU, values that are computed for all steps at once take the memory of one chunk.
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
    """Runs a sequence one chunk after another, or as a whole if it is short.

    Args:
        run: `(carry, xs) -> (carry, ys)`, which runs any part of the sequence.
        carry: the state before the first step.
        xs: `(T, ...)`.
        size_in_bytes: the size of the arrays that `run` computes for the whole sequence at once.
    """
    steps = check.num_steps(xs)
    return in_chunks_of(chunk_steps(steps, size_in_bytes), run, carry, xs)


def in_chunks_of(
    size: int | None, run: Callable[[Carry, PyTree], StepResult], carry: Carry, xs: PyTree
) -> StepResult:
    """Runs a sequence in chunks of `size` steps, the last one shorter; None is one chunk."""
    steps = check.num_steps(xs)
    if size is None or size >= steps:
        return run(carry, xs)
    steps_in_full_chunks = steps // size * size

    def split(x: jax.Array) -> jax.Array:
        return jnp.reshape(x[:steps_in_full_chunks], (-1, size, *x.shape[1:]))

    def join(y: jax.Array) -> jax.Array:
        return jnp.reshape(y, (steps_in_full_chunks, *y.shape[2:]))

    carry, ys = jax.lax.scan(run, carry, jax.tree.map(split, xs))
    ys = jax.tree.map(join, ys)
    if steps_in_full_chunks == steps:
        return carry, ys
    carry, last_ys = run(carry, tree.slice_time(xs, steps_in_full_chunks, None))
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, last_ys)


def chunk_steps(steps: int, size_in_bytes: int) -> int:
    """Returns the number of steps in a chunk.

    It is the divisor of T nearest to the wanted number, or T if the sequence is short or has no
    such divisor.
    """
    on_device = backend.settings()
    if not tree.is_surely_less(on_device.whole_bytes, size_in_bytes):
        return steps
    wanted = max(on_device.chunk_steps, on_device.chunk_bytes * steps // size_in_bytes)
    candidates = range(max(1, wanted // 4), 4 * wanted + 1)
    divisors = [n for n in candidates if steps % n == 0]
    return min(divisors, key=lambda n: max(n / wanted, wanted / n), default=steps)


def bytes_of(arrays: PyTree) -> int:
    """Returns the bytes of all arrays of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))
