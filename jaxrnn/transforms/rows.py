"""A carry as rows of numbers: its batch axes, its flat form, the norm of each row."""

import itertools
import math
from typing import Any

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
    inexact, _ = tree.split_inexact(carry)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inexact)]
    if isinstance(step, Part) and shapes:
        zero = check.abstract_zero_carry(step.initial_carry, (), jnp.float32)
        features, _ = tree.split_inexact(zero)
        return len(shapes[0]) - jax.tree.leaves(features)[0].ndim
    sizes_of_axes = zip(*shapes, strict=False)
    shared = list(itertools.takewhile(lambda sizes: len({*sizes}) == 1, sizes_of_axes))
    return min(len(shared), max(0, max(map(len, shapes), default=1) - 1))


def batch_axes(step: Step | Part, carry: Carry) -> tuple[int, ...]:
    """Returns the sizes of the batch axes of the carry of a step."""
    inexact, _ = tree.split_inexact(carry)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inexact)]
    return shapes[0][: num_batch_axes(step, carry)] if shapes else ()


def flatten_rows(carry: Carry, num_batch_axes: int) -> jax.Array:
    """Returns all real numbers of each row, `(*batch, N)`; a complex number counts as two.

    The dtype is the widest among the arrays, and float32 at least.
    """
    inexact, _ = tree.split_inexact(carry)
    parts: list[jax.Array] = []
    for array in jax.tree.leaves(inexact):
        parts += [array.real, array.imag] if jnp.iscomplexobj(array) else [array]
    widest = max((part.dtype for part in parts), key=lambda dtype: jnp.finfo(dtype).bits)
    dtype = at_least_float32(widest)
    rows = [jax.lax.collapse(part, num_batch_axes).astype(dtype) for part in parts]
    return jnp.concatenate(rows, axis=-1)


def unflatten_rows(rows: jax.Array, carry: Carry) -> Carry:
    """Returns `carry` with these numbers in its floating-point arrays; inverse of `flatten_rows`.

    `rows` is `(*batch, N)`, and each array of the carry begins with the same batch axes. Integers
    and keys stay as they are in `carry`.
    """
    inexact, others = tree.split_inexact(carry)
    leaves: list[Array] = jax.tree.leaves(inexact)
    structure: Any = jax.tree.structure(inexact)
    num_batch_axes = rows.ndim - 1
    arrays = []
    begin = 0
    for leaf in leaves:
        size = math.prod(leaf.shape[num_batch_axes:])
        parts = []
        for _ in range(2 if jnp.iscomplexobj(leaf) else 1):
            parts.append(jnp.reshape(rows[..., begin : begin + size], leaf.shape))
            begin += size
        array = jax.lax.complex(*parts) if len(parts) == 2 else parts[0]
        arrays.append(array.astype(leaf.dtype))
    return tree.merge_inexact(structure.unflatten(arrays), others)


def row_norm(d_carry: Carry, num_batch_axes: int) -> jax.Array:
    """Returns ‖λ‖ `(*batch)` over all arrays together; no square overflows or underflows."""
    sizes = abs(flatten_rows(d_carry, num_batch_axes))
    peak = one_where_zero(jnp.max(sizes, axis=-1, initial=0))
    return jnp.sqrt(jnp.sum((sizes / peak[..., None]) ** 2, axis=-1)) * peak


def one_where_zero(size: jax.Array) -> jax.Array:
    """Returns the size, with 1 in the place of 0, as a safe divisor."""
    return jnp.where(size == 0, 1, size)
