"""Long sequences, chunk by chunk, so that what a loop reads is still in the cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.types import Carry, PyTree, StepResult

# A sequence that takes more bytes than this beside its loop is run chunk by chunk, since the first
# of them would have left the cache before the loop gets to them. A chunk takes so many; and it has
# so many steps at least, since each adds an array like the weights to their gradient.
WHOLE_BYTES, CHUNK_BYTES, CHUNK_STEPS = 2**23, 2**21, 8


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
    if not tree.is_surely_less(WHOLE_BYTES, size_in_bytes):
        return steps
    wanted = max(CHUNK_STEPS, CHUNK_BYTES * steps // size_in_bytes)
    near = [n for n in range(max(1, wanted // 4), 4 * wanted + 1) if steps % n == 0]
    return min(near, key=lambda n: max(n / wanted, wanted / n), default=steps)


def bytes_of(forms: PyTree) -> int:
    """Bytes of all arrays of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(forms))
