"""A cell whose hand-written backward pass is checked while it is traced."""

from typing import Any

import jax

from jaxrnn import check
from jaxrnn.transforms.base import TransformedCell
from jaxrnn.types import Carry, PyTree, Residuals, Weights


class CheckedCell(TransformedCell):
    """The same cell, which raises an error of ours if its cotangents have a wrong form.

    JAX's own errors would name the internals of a loop. Only the traced shapes are compared, so the
    check adds nothing to the compiled program.
    """

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Calls the cell, and checks that λ_{t-1} has the form of λ_t."""
        result = self.cell.adjoint(w, residuals, d_carry)
        d_previous, deltas = check.require_pair("adjoint", result)
        check.require_same_tree("adjoint(...)[0]", d_previous, d_carry, ", as d_carry")
        return d_previous, deltas

    def gradients(self, w: Weights, residuals: Residuals, deltas: PyTree) -> tuple[Weights, PyTree]:
        """Calls the cell, and checks that ∂L/∂w and ∂L/∂z have the forms of w and z."""
        result = self.cell.gradients(w, residuals, deltas)
        d_w, d_zs = check.require_pair("gradients", result)
        _require_cotangents("gradients(...)[0]", d_w, w, ", as w")
        _require_cotangents("gradients(...)[1]", d_zs, residuals.z, ", as z of all steps")
        return d_w, d_zs


def _require_cotangents(name: str, cotangents: PyTree, primals: PyTree, why: str) -> None:
    """Raises an error unless cotangents have the form of their primals.

    None in the place of any subtree is a zero. Integers have no gradient, so any leaf may stand in
    their place.
    """

    def or_primal(d: Any, primal: PyTree) -> PyTree:
        return primal if d is None else d

    # Where a cotangent may be anything, the primal takes its place, so that one comparison of two
    # trees finds what is wrong, and its message names the place.
    try:
        full = jax.tree.map(or_primal, cotangents, primals, is_leaf=lambda d: d is None)
    except ValueError:  # the trees have different structures
        full = cotangents
    check.require_same_structure(name, full, primals, why)
    full = jax.tree.map(lambda d, x: d if check.is_inexact(x) else x, full, primals)
    check.require_same_tree(name, full, primals, why)
