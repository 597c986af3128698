"""A carry as rows of numbers: its batch axes, its flat form, the norm of each row."""

import itertools

import jax
import jax.numpy as jnp

from jaxrnn import tree
from jaxrnn.cells.kernels import at_least_float32
from jaxrnn.types import Carry


def batch_axes(carry: Carry) -> tuple[int, ...]:
    """The axes that tell rows apart; see `scale_adjoint`."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree.split_inexact(carry)[0])]
    shared = itertools.takewhile(lambda sizes: len({*sizes}) == 1, zip(*shapes, strict=False))
    return tuple(sizes[0] for sizes in shared)[: max(0, *map(len, shapes), 1) - 1]


def flatten_rows(carry: Carry) -> jax.Array:
    """All real numbers of a row side by side, `(*batch, N)`; a complex one is two.

    In the widest dtype among them, at least float32.
    """
    start = len(batch_axes(carry))
    leaves = jax.tree.leaves(tree.split_inexact(carry)[0])
    parts = [p for c in leaves for p in ((c.real, c.imag) if jnp.iscomplexobj(c) else (c,))]
    dtype = at_least_float32(max((p.dtype for p in parts), key=lambda d: jnp.finfo(d).bits))
    return jnp.concatenate([jax.lax.collapse(p, start).astype(dtype) for p in parts], axis=-1)


def row_norm(d_carry: Carry) -> jax.Array:
    """‖λ‖ `(*batch)` over all arrays jointly, with no square that over- or underflows."""
    sizes = abs(flatten_rows(d_carry))
    peak = one_where_zero(jnp.max(sizes, axis=-1, initial=0))
    return jnp.sqrt(jnp.sum((sizes / peak[..., None]) ** 2, axis=-1)) * peak


def one_where_zero(size: jax.Array) -> jax.Array:
    """The size, with 1 in the place of 0, so that it can be divided by."""
    return jnp.where(size == 0, 1, size)
