"""The recurrence of a Cell that keeps its carries alone, with the fewest kernels on a GPU.

Before the backward loop, the projections z, the saved values and the coefficients of the adjoint
are recomputed, each for all steps at once. After it, all δ_t are computed in the same way. The loop
itself only carries λ back:

    c_t     = advance(w, c_{t-1}, z_t)                   forward, in order                   (1)
    A_t     = the coefficients of adjoint(w, r_t, ·)     for all steps at once               (2)
    λ_{t-1} = A_t λ_t + ∂ℓ_{t-1}/∂c_{t-1}                backward, in order                  (3)
    δ_t     = adjoint(w, r_t, λ_t)                       for all steps at once               (4)

The cost is a second computation of the forward pass's products, each as one large product.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.loops.backend import Settings
from jaxrnn.loops.linear_adjoint import linear_adjoint
from jaxrnn.types import Carry, Cell, Params, PyTree, Residuals, Weights


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run(
    cell: Cell, settings: Settings, params: Params, carry: Carry, xs: PyTree
) -> tuple[Carry, Carry]:
    """Returns c_T and c_1..c_T (1)."""
    w, zs = cell.prepare(params), cell.project(params, xs)

    def forward(carry: Carry, z_t: PyTree) -> tuple[Carry, Carry]:
        carry, _ = cell.advance(w, carry, z_t)
        return carry, carry

    return jax.lax.scan(forward, carry, zs, unroll=settings.unroll)


def _forward(cell: Cell, settings: Settings, *args: Any) -> tuple[tuple[Carry, Carry], PyTree]:
    params, carry, xs = jax.tree.map(lambda x: x.value, args)
    last, carries = run(cell, settings, params, carry, xs)
    return (last, carries), (params, carry, xs, carries)


def _backward(
    cell: Cell, settings: Settings, kept: PyTree, cotangents: tuple[Carry, Carry]
) -> tuple[Params, Carry, PyTree]:
    params, carry, xs, carries = kept
    # The cotangent of an unused output must not become an array of T zeros.
    d_last, d_carries = tree.sparse_cotangents(cotangents)
    w, zs = cell.prepare(params), cell.project(params, xs)
    previous_carries = tree.shift_right(carry, carries)
    _, saved = jax.vmap(cell.advance, in_axes=(None, 0, 0))(w, previous_carries, zs)
    residuals = Residuals(previous_carries, zs, carries, saved)
    d_carry = tree.add_sparse(tree.zero_cotangents(carry), d_last)
    linear = linear_adjoint(cell, w, check.one_step(residuals), d_carry)

    def backward(d_carry: Carry, inputs: tuple[list[Any], Carry]) -> tuple[Carry, Carry]:
        coefficients_t, d_carry_t = inputs
        d_carry = tree.add_sparse(d_carry, d_carry_t)
        return linear.apply(w, coefficients_t, d_carry), d_carry  # (3)

    inputs = linear.coefficients(w, residuals), d_carries  # (2)
    steps = check.num_steps(carries)
    d_carry, lambdas = jax.lax.scan(
        backward, d_carry, inputs, steps, reverse=True, unroll=settings.unroll
    )
    _, deltas = jax.vmap(cell.adjoint, in_axes=(None, 0, 0))(w, residuals, lambdas)  # (4)
    d_w, d_zs = cell.gradients(w, residuals, deltas)
    d_params, d_xs = _through_projections(cell, params, xs, (w, zs), (d_w, d_zs))
    return d_params, d_carry, d_xs


def _through_projections(
    cell: Cell,
    params: Params,
    xs: PyTree,
    values: tuple[Weights, PyTree],
    cotangents: tuple[Weights, PyTree],
) -> tuple[Params, PyTree]:
    """Returns the cotangents of params and xs, from those of w and z; None is zero."""

    def zero_where_none(d: Any, value: PyTree) -> PyTree:
        if d is not None:
            return d
        return jax.tree.map(lambda x: jnp.zeros_like(x) if check.is_inexact(x) else None, value)

    def prepare_and_project(params: Params, xs: PyTree) -> tuple[Weights, PyTree]:
        return cell.prepare(params), cell.project(params, xs)

    filled = jax.tree.map(zero_where_none, cotangents, values, is_leaf=lambda x: x is None)
    ((d_params, d_xs),) = tree.vjp_inexact(prepare_and_project, params, xs)(filled)
    return d_params, d_xs


run.defvjp(_forward, _backward, symbolic_zeros=True)
