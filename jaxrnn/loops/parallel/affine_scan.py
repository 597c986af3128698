"""The affine recurrence d_t = A_t d_{t-1} + b_t, solved for all steps at once.

Maps d ↦ A d + b compose to such maps,

    (A'', b'') = (A' A, A' b + b')                                                           (1)

and composition is associative, so `jax.lax.associative_scan` finds all d_t in O(log T) rounds, from
(A_1, b_1), ..., (A_T, b_T). A_t is a diagonal, with the shape of d_t, or one matrix for each row.

If devices share a sequence, each composes the maps of its own steps, and tells the others the map
from its first step to its last. From these, each device finds the state before its first step.
"""

import functools

import jax
import jax.numpy as jnp

from jaxrnn.loops.parallel.devices import TimeAxis, gather_ends, previous_states

Map = tuple[jax.Array, jax.Array]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def affine_scan(
    a: jax.Array,
    b: jax.Array,
    reverse: bool,
    axis: TimeAxis | None = None,
    is_tangent: bool = False,
) -> jax.Array:
    """Returns d_t for all t, with d_0 = 0.

    Where all of A_t is zero, as at a reset, nothing of the steps before passes, and no NaN either.

    Args:
        a: A_t `(T, *rows, n)` if they are diagonals, or `(T, *rows, n, n)`.
        b: b_t `(T, *rows, n)`.
        reverse: whether t counts from the last step.
        axis: the mesh axis that divides the time axis.
        is_tangent: whether JAX will transpose this as a linear function of b.

    Gradient: exact, by JAX, in both modes. Memory: three arrays of the size of a.
    """
    combine_maps = _combine_diagonals if a.ndim == b.ndim else _combine_matrices
    combine = functools.partial(combine_maps, is_tangent)
    products, states = jax.lax.associative_scan(combine, (a, b), reverse=reverse)
    if axis is None:
        return states
    # So far, each device has started from d = 0. `before` becomes the true state before its first
    # step: the maps of all earlier devices, one after another, applied to 0.
    end = 0 if reverse else -1
    ends = products[end], states[end]
    before = jnp.zeros_like(b[0])
    for is_before, (product, state) in gather_ends(ends, reverse, axis):
        before = jnp.where(is_before, _apply(product, before, is_tangent) + state, before)
    return states + _apply(products, jnp.broadcast_to(before, states.shape), is_tangent)


@affine_scan.defjvp
def _with_tangent(
    reverse: bool, axis: TimeAxis | None, is_tangent: bool, primals: Map, tangents: Map
) -> tuple[jax.Array, jax.Array]:
    a, b = primals
    da, db = tangents
    d = affine_scan(a, b, reverse, axis, is_tangent)
    # From d_t = A_t d_{t-1} + b_t; (1) does not show the derivative of A_t where A_t = 0.
    previous = previous_states(jnp.zeros_like(d[0]), d, reverse, axis)
    right_side = _times(da, previous) + db
    return d, affine_scan(a, right_side, reverse, axis, True)


def _combine_diagonals(is_tangent: bool, first: Map, second: Map) -> Map:
    """Returns (1) for diagonals."""
    a, b = first
    next_a, next_b = second
    product = jnp.where(next_a == 0, 0, next_a * a)
    return product, _apply(next_a, b, is_tangent) + next_b


def _combine_matrices(is_tangent: bool, first: Map, second: Map) -> Map:
    """Returns (1) for matrices."""
    a, b = first
    next_a, next_b = second
    product = jnp.matmul(next_a, a, precision=jax.lax.Precision.HIGHEST)
    product = jnp.where(_is_reset(next_a), 0, product)
    return product, _apply(next_a, b, is_tangent) + next_b


def _apply(a: jax.Array, d: jax.Array, is_tangent: bool) -> jax.Array:
    """Returns A d, and 0 where A or d is zero, also if the other is not finite.

    So a reset lets no NaN through, and a product of many large A_t that overflows does not turn
    states of 0 into NaN. The second is not done for a tangent d, in which the result is linear: JAX
    transposes it, and `d == 0` is no linear function of d.
    """
    if a.ndim == d.ndim:
        is_zero = a == 0 if is_tangent else (a == 0) | (d == 0)
        return jnp.where(is_zero, 0, a * d)
    return jnp.where(_is_reset(a)[..., 0], 0, _times(a, d))


def _times(a: jax.Array, d: jax.Array) -> jax.Array:
    """Returns A d, for diagonals or matrices."""
    if a.ndim == d.ndim:
        return a * d
    return jnp.einsum("...ij,...j->...i", a, d, precision=jax.lax.Precision.HIGHEST)


def _is_reset(a: jax.Array) -> jax.Array:
    """Returns whether a matrix is zero, `(..., 1, 1)`."""
    return jnp.all(a == 0, axis=(-2, -1), keepdims=True)
