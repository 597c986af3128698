"""The recurrence of a Cell that keeps its carries alone, and recomputes all else for all steps.

Before λ is carried back, the projections z and the saved values are recomputed, each for all steps
at once. After it, all δ_t are computed in the same way:

    c_t     = advance(w, c_{t-1}, z_t)                                 forward               (1)
    λ_{t-1} = adjoint(w, r_t, λ_t) + ∂ℓ_{t-1}/∂c_{t-1}                 backward              (2)
    δ_t     = adjoint(w, r_t, λ_t)                                     for all steps at once (3)

A `Solver` finds the carries (1) and the λ (2). `InOrder` does so step by step, with the fewest
kernels on a GPU; `jaxrnn.loops.parallel` has one for all steps at once. The cost is a second
computation of the forward pass's products, each as one large product.
"""

import abc
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.loops.linear_adjoint import linear_adjoint
from jaxrnn.loops.scans import Scan
from jaxrnn.types import Carry, Cell, Params, PyTree, Residuals, Weights


class Solver(abc.ABC):
    """Solves the two recurrences of a Cell."""

    def has_jax_gradient(self, cell: Cell, w: Weights, carry: Carry, zs: PyTree) -> bool:
        """Returns whether JAX can differentiate `carries`, for a gradient of the gradient."""
        return True

    def previous_carries(self, carry: Carry, carries: Carry) -> Carry:
        """Returns c_0..c_{T-1}."""
        return tree.shift_right(carry, carries)

    @abc.abstractmethod
    def carries(self, cell: Cell, w: Weights, carry: Carry, zs: PyTree) -> tuple[Carry, Carry]:
        """Returns c_T and c_1..c_T (1)."""

    @abc.abstractmethod
    def cotangents(
        self, cell: Cell, w: Weights, residuals: Residuals, d_last: Carry, d_carries: Carry
    ) -> tuple[Carry, Carry]:
        """Returns λ_0 and λ_1..λ_T (2).

        `d_carries` holds the gradients ∂ℓ_t/∂c_t, with None for zeros, and `d_last` that of c_T.
        """


@dataclasses.dataclass(frozen=True)
class InOrder(Solver):
    """Solves both recurrences step by step.

    The adjoint is linear in λ. All of its coefficients are computed before its loop, for all steps
    at once, so that the loop only multiplies.
    """

    scan: Scan

    def carries(self, cell: Cell, w: Weights, carry: Carry, zs: PyTree) -> tuple[Carry, Carry]:
        """Returns c_T and c_1..c_T (1)."""

        def forward(carry: Carry, z_t: PyTree) -> tuple[Carry, Carry]:
            carry, _ = cell.advance(w, carry, z_t)
            return carry, carry

        return self.scan(forward, carry, zs)

    def cotangents(
        self, cell: Cell, w: Weights, residuals: Residuals, d_last: Carry, d_carries: Carry
    ) -> tuple[Carry, Carry]:
        """Returns λ_0 and λ_1..λ_T (2)."""
        linear = linear_adjoint(cell, w, check.one_step(residuals), d_last)

        def backward(d_carry: Carry, inputs: tuple[list[Any], Carry]) -> tuple[Carry, Carry]:
            coefficients_t, d_carry_t = inputs
            d_carry = tree.add_sparse(d_carry, d_carry_t)
            return linear.apply(w, coefficients_t, d_carry), d_carry

        inputs = linear.coefficients(w, residuals), d_carries
        steps = check.num_steps(residuals.carry)
        return self.scan(backward, d_last, inputs, steps, reverse=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run(
    cell: Cell, solver: Solver, params: Params, carry: Carry, xs: PyTree
) -> tuple[Carry, Carry]:
    """Returns c_T and c_1..c_T."""
    return solver.carries(cell, cell.prepare(params), carry, cell.project(params, xs))


def _forward(cell: Cell, solver: Solver, *args: Any) -> tuple[tuple[Carry, Carry], PyTree]:
    params, carry, xs = jax.tree.map(lambda x: x.value, args)
    w = cell.prepare(params)
    zs = cell.project(params, xs)
    if solver.has_jax_gradient(cell, w, carry, zs):  # also in forward mode
        last, carries = solver.carries(cell, w, carry, zs)
    else:
        last, carries = run(cell, solver, params, carry, xs)
    return (last, carries), (params, carry, xs, carries)


def _backward(
    cell: Cell, solver: Solver, kept: PyTree, cotangents: tuple[Carry, Carry]
) -> tuple[Params, Carry, PyTree]:
    params, carry, xs, carries = kept
    # The cotangent of an unused output must not become an array of T zeros.
    d_last, d_carries = tree.sparse_cotangents(cotangents)
    w = cell.prepare(params)
    zs = cell.project(params, xs)
    previous_carries = solver.previous_carries(carry, carries)
    _, saved = jax.vmap(cell.advance, in_axes=(None, 0, 0))(w, previous_carries, zs)
    residuals = Residuals(previous_carries, zs, carries, saved)
    d_last = tree.add_sparse(tree.zero_cotangents(carry), d_last)
    d_carry, lambdas = solver.cotangents(cell, w, residuals, d_last, d_carries)
    _, deltas = jax.vmap(cell.adjoint, in_axes=(None, 0, 0))(w, residuals, lambdas)  # (3)
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
