"""The gradient scaled where it crosses from a step to the one before."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.types import Carry, Cell, Params, PyTree, Seen, Step, once


class Crossed(NamedTuple):
    """Inputs, and the factor of the gradient that crosses into the step before.

    Fields:
        xs: what the step itself takes.
        factor: ξ, one real number a step.
    """

    xs: PyTree
    factor: Any


@once
def crossed(step: Cell | Step) -> Cell | Step:
    """The same step, with its gradient scaled by a factor where it crosses to the step before.

        c_t, y_t = step(params, c_{t-1}, x_t)                                                (X1)
        λ_{t-1}  = ξ_t (∂c_t/∂c_{t-1})ᵀ λ_t + ∂ℓ_{t-1}/∂c_{t-1}                              (X2)

    Args:
        step: a Cell, whose backward pass stays the one by hand, or a plain Step.

    Returns:
        A Cell or a Step whose inputs are `Crossed(xs, ξ)`. Equal cells give the same cell.

    Gradient: (X2); of ξ none. Time and memory: the step's, and a product for each array of the
    carry.
    """
    check.function("step", step)
    return _crossed_cell(step) if isinstance(step, Cell) else functools.partial(_sloped, step)


def _sloped(inside: Step, params: PyTree, carry: Carry, x: Crossed) -> tuple[Carry, PyTree]:
    """A plain step, or a cell's `advance`, whose carry has the slope ξ."""
    check.instance("xs", x, Crossed)
    check.arrays(**{"xs.factor": x.factor})
    fits = x.factor is not None and jnp.shape(x.factor) == ()
    expected = "one number for all rows of a step"
    check.that(fits, "xs.factor", check.describe(x.factor), expected)
    return inside(params, _with_slope(carry, x.factor), x.xs)


@functools.cache
def _crossed_cell(cell: Any) -> Cell:
    def project(params: Params, xs: Crossed) -> Crossed:
        check.instance("xs", xs, Crossed)
        return Crossed(cell.project(params, xs.xs), xs.factor)

    def adjoint(w: PyTree, seen: Seen, d_carry: Carry) -> tuple[Carry, PyTree]:
        d_carry_tm1, delta = cell.adjoint(w, seen._replace(z=seen.z.xs), d_carry)
        return jax.tree.map(lambda d: _times(d, seen.z.factor), d_carry_tm1), delta  # (X2)

    def gather(w: PyTree, seen: Seen, deltas: PyTree) -> tuple[PyTree, Crossed]:
        d_w, d_zs = cell.gather(w, seen._replace(z=seen.z.xs), deltas)
        return d_w, Crossed(d_zs, None)

    advance = functools.partial(_sloped, cell.advance)
    return cell.changed(adjoint, gather, project=project, advance=advance)


def _times(d: jax.Array, factor: jax.Array) -> jax.Array:
    """Take ξ d; where ξ is 0 nothing crosses, not 0 · ∞ either."""
    return jnp.where(factor == 0, 0, d) * factor.astype(d.dtype)


@jax.custom_jvp
def _with_slope(carry: Carry, factor: jax.Array) -> Carry:
    return carry


@_with_slope.defjvp
def _(primals: Any, tangents: Any) -> tuple[Carry, Carry]:
    carry, factor = primals

    def scaled(c: Any, dc: Any) -> Any:
        return _times(dc, factor) if check.is_inexact(c) else dc

    return carry, jax.tree.map(scaled, carry, tangents[0])
