"""The recurrence of a Cell that saves the values for its backward pass, the fastest on a CPU."""

import functools
from typing import Any

import jax

from jaxrnn import tree
from jaxrnn.loops.scans import Scan
from jaxrnn.types import Carry, Cell, PyTree, Residuals, Weights


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run(cell: Cell, scan: Scan, w: Weights, carry: Carry, zs: PyTree) -> tuple[Carry, Carry]:
    """Returns c_T and c_1..c_T, by (C2) of `Cell`.

    Without differentiation, nothing is saved.
    """

    def forward(carry: Carry, z_t: PyTree) -> tuple[Carry, Carry]:
        carry, _ = cell.advance(w, carry, z_t)
        return carry, carry

    return scan(forward, carry, zs)


def _forward(cell: Cell, scan: Scan, *args: Any) -> tuple[tuple[Carry, Carry], PyTree]:
    w, carry, zs = jax.tree.map(lambda x: x.value, args)

    def forward(carry: Carry, z_t: PyTree) -> tuple[Carry, tuple[Carry, PyTree]]:
        carry, saved_t = cell.advance(w, carry, z_t)
        return carry, (carry, saved_t)

    last, (carries, saved) = scan(forward, carry, zs)
    return (last, carries), (w, carry, zs, carries, saved)


def _backward(
    cell: Cell, scan: Scan, kept: PyTree, cotangents: tuple[Carry, Carry]
) -> tuple[Weights, Carry, PyTree]:
    w, carry, zs, carries, saved = kept
    # The cotangent of an unused output must not become an array of T zeros.
    d_last, d_carries = tree.sparse_cotangents(cotangents)
    residuals = Residuals(tree.shift_right(carry, carries), zs, carries, saved)

    def backward(d_carry: Carry, inputs: tuple[Residuals, Carry]) -> tuple[Carry, PyTree]:
        residuals_t, d_carry_t = inputs
        return cell.adjoint(w, residuals_t, tree.add_sparse(d_carry, d_carry_t))  # (C4)

    d_carry = tree.add_sparse(tree.zero_cotangents(carry), d_last)
    inputs = residuals, d_carries
    d_carry, deltas = scan(backward, d_carry, inputs, reverse=True)
    d_w, d_zs = cell.gradients(w, residuals, deltas)  # (C5)
    return d_w, d_carry, d_zs


run.defvjp(_forward, _backward, symbolic_zeros=True)
