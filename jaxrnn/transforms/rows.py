"""A carry as rows of numbers: its batch axes, its flat form, the norm of each row."""

import itertools
import math

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.cells.kernels import at_least_float32
from jaxrnn.types import Array, Carry, Part, Step


def num_batch_axes(step: Step | Part, carry: Carry) -> int:
    """Returns the number of batch axes of the carry of a step.

    The zero state of a Cell without batch axes tells how many axes its features take. For a plain
    Step, the batch axes are the leading axes that all floating-point arrays of the carry share,
    without the last axis of the longest array.
    """
    shapes = _shapes_of_inexact(carry)
    if isinstance(step, Part) and shapes:
        zero = check.abstract_zero_carry(step.initial_carry, (), jnp.dtype("float32"))
        return len(shapes[0]) - len(_shapes_of_inexact(zero)[0])
    # For carries h [3,4] and c [3,4,5] of a plain step, the axes of sizes 3 and 4 are shared, and
    # they are the batch axes, since c has an axis more.
    sizes_of_axes = zip(*shapes, strict=False)
    shared = list(itertools.takewhile(lambda sizes: len({*sizes}) == 1, sizes_of_axes))
    most_axes = max(map(len, shapes), default=1)
    return min(len(shared), max(0, most_axes - 1))


def batch_axes(step: Step | Part, carry: Carry) -> tuple[int, ...]:
    """Returns the sizes of the batch axes of the carry of a step."""
    shapes = _shapes_of_inexact(carry)
    if not shapes:
        return ()
    return shapes[0][: num_batch_axes(step, carry)]


def _shapes_of_inexact(carry: Carry) -> list[tuple[int, ...]]:
    """Returns the shapes of all floating-point and complex arrays of a carry."""
    inexact, _ = tree.split_inexact(carry)
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(inexact)]


def flatten_rows(carry: Carry, num_batch_axes: int) -> jax.Array:
    """Returns all real numbers of each row, `(*batch, N)`; a complex number counts as two.

    The dtype is the widest among the arrays, and float32 at least.
    """
    inexact, _ = tree.split_inexact(carry)
    parts: list[jax.Array] = []
    for array in jax.tree.leaves(inexact):
        if jnp.iscomplexobj(array):
            parts.extend([array.real, array.imag])
        else:
            parts.append(array)
    widest = max((part.dtype for part in parts), key=lambda dtype: jnp.finfo(dtype).bits)
    # A norm of narrow numbers would be narrow too, and could overflow.
    dtype = at_least_float32(widest)
    rows = [jax.lax.collapse(part, num_batch_axes).astype(dtype) for part in parts]
    return jnp.concatenate(rows, axis=-1)


def unflatten_rows(rows: jax.Array, carry: Carry) -> Carry:
    """Returns `carry` with these numbers in its floating-point arrays; inverse of `flatten_rows`.

    `rows` is `(*batch, N)`, and each array of the carry begins with the same batch axes. Integers
    and keys stay as they are in `carry`.
    """
    inexact, others = tree.split_inexact(carry)
    leaves: list[Array]
    leaves, structure = jax.tree.flatten(inexact)
    num_batch_axes = rows.ndim - 1
    arrays = []
    begin = 0
    for leaf in leaves:
        size = math.prod(leaf.shape[num_batch_axes:])
        num_parts = 2 if jnp.iscomplexobj(leaf) else 1  # real and imaginary part
        parts = []
        for _ in range(num_parts):
            parts.append(jnp.reshape(rows[..., begin : begin + size], leaf.shape))
            begin += size
        array = jax.lax.complex(*parts) if num_parts == 2 else parts[0]
        arrays.append(array.astype(leaf.dtype))
    return tree.merge_inexact(jax.tree.unflatten(structure, arrays), others)


def row_norm(d_carry: Carry, num_batch_axes: int) -> jax.Array:
    """Returns ‖λ‖ `(*batch)` over all arrays together; no square overflows or underflows."""
    sizes = abs(flatten_rows(d_carry, num_batch_axes))
    # ‖λ‖ = p ‖λ / p‖ with the largest size p, so that what is squared lies between 0 and 1.
    peak = one_where_zero(jnp.max(sizes, axis=-1, initial=0))
    return jnp.sqrt(jnp.sum((sizes / peak[..., None]) ** 2, axis=-1)) * peak


def one_where_zero(size: Array) -> jax.Array:
    """Returns the size, with 1 in the place of 0, as a safe divisor."""
    return jnp.where(size == 0, 1, size)
