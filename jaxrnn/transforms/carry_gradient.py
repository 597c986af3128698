"""The gradient from a step to the previous step, scaled."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.expression import Expression
from jaxrnn.transforms.base import ExtraInputCell
from jaxrnn.types import Array, Carry, Cell, Params, PyTree, Residuals, Step, StepResult, Weights


class ScaledInputs(NamedTuple):
    """Inputs, and the factor of the gradient to the previous step.

    Fields:
        xs: the inputs of the step itself.
        factor: ξ, one real number for each step.
    """

    xs: PyTree
    factor: Array


def scale_carry_gradient(step: Cell | Step) -> Cell | Step:
    """Returns a step with the same values, whose gradient to the previous step is scaled.

        c_t, y_t = step(params, c_{t-1}, x_t)                                                (X1)
        λ_{t-1}  = ξ_t (∂c_t/∂c_{t-1})ᵀ λ_t + ∂ℓ_{t-1}/∂c_{t-1}                              (X2)

    Args:
        step: a Cell, whose backward pass stays hand-written, or a plain Step.

    Returns:
        A Cell or a Step whose inputs are `ScaledInputs(xs, ξ)`. Equal cells give equal cells.

    Gradient: (X2); ξ has no gradient. Time and memory: those of the step, and a product for each
    array of the carry.
    """
    check.require_callable("step", step)
    return ScaledCell(step) if isinstance(step, Cell) else ScaledStep(step)


@dataclasses.dataclass(frozen=True, repr=False)
class ScaledStep(Expression):
    """The plain step of `scale_carry_gradient`."""

    step: Step

    expression_name = "scale_carry_gradient"

    def __call__(self, params: Params, carry: Carry, x: ScaledInputs) -> StepResult:
        """Runs one step."""
        return self.step(params, _scaled_carry(carry, x), x.xs)


@dataclasses.dataclass(frozen=True, repr=False)
class ScaledCell(ExtraInputCell):
    """The Cell of `scale_carry_gradient`."""

    expression_name = "scale_carry_gradient"

    def project(self, params: Params, xs: ScaledInputs) -> ScaledInputs:
        """Returns the projected inputs, and the factors."""
        check.require_instance("xs", xs, ScaledInputs)
        return ScaledInputs(self.cell.project(params, xs.xs), xs.factor)

    def advance(self, w: Weights, carry: Carry, z: ScaledInputs) -> tuple[Carry, PyTree]:
        """Runs one step of (X1)."""
        return self.cell.advance(w, _scaled_carry(carry, z), z.xs)

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Runs one step of (X2)."""
        d_previous, delta = self.cell.adjoint(w, self._inner_residuals(residuals), d_carry)
        factor = residuals.z.factor
        return jax.tree.map(lambda d: _times(d, factor), d_previous), delta  # (X2)


def _scaled_carry(carry: Carry, x: ScaledInputs) -> Carry:
    """Returns the carry; its gradient is multiplied by ξ."""
    check.require_instance("xs", x, ScaledInputs)
    check.require_arrays(**{"xs.factor": x.factor})
    fits = x.factor is not None and jnp.shape(x.factor) == ()
    expected = "one number for all rows of a step"
    check.require(fits, "xs.factor", check.describe(x.factor), expected)
    return _with_slope(carry, x.factor)


def _times(d: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns ξ d, and 0 where ξ is 0, even if d is infinite."""
    return jnp.where(factor == 0, 0, d) * factor.astype(d.dtype)


# A rule for forward mode, which JAX transposes for the backward pass. A rule for the backward pass
# alone (`jax.custom_vjp`) would take forward mode from `scan`.
@jax.custom_jvp
def _with_slope(carry: Carry, factor: jax.Array) -> Carry:
    """Returns the carry, with ξ as the derivative of each of its numbers."""
    return carry


@_with_slope.defjvp
def _(primals: tuple[Carry, jax.Array], tangents: tuple[Carry, jax.Array]) -> tuple[Carry, Carry]:
    carry, factor = primals
    d_carry, _ = tangents  # ξ has no gradient

    def scale(c: Array, dc: jax.Array) -> jax.Array:
        return _times(dc, factor) if check.is_inexact(c) else dc

    return carry, jax.tree.map(scale, carry, d_carry)
