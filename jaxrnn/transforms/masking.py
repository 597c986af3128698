"""Masking: steps that hold the carry."""

import dataclasses
from typing import NamedTuple

from jaxtyping import Bool

from jaxrnn import check, tree
from jaxrnn.expression import Expression
from jaxrnn.transforms.base import ExtraInputCell, require_cell_or_plain_step
from jaxrnn.types import Array, Carry, Cell, Params, PyTree, Residuals, Step, StepResult, Weights


class MaskedInputs(NamedTuple):
    """Inputs, and a mask of the valid ones.

    Fields:
        xs: the inputs of the step itself.
        mask: m `(*lead)`, bool; True where the step runs.
    """

    xs: PyTree
    mask: Bool[Array, "*lead"]


def masked(step: Cell | Step, *, fill_value: float = 0.0) -> Cell | Step:
    """Returns a step that runs where a mask is True, and holds the carry elsewhere.

        c_t = m_t ? step(params, c_{t-1}, x_t) : c_{t-1}                                    (MK1)

    and backward, since the adjoint is linear in λ,

        λ_{t-1}, δ_t = m_t ? adjoint(λ_t) : (λ_t, 0)                                        (MK2)

    Where m_t is False, x_t is replaced by `fill_value` before the step runs (an integer by 0). So
    NaN there reaches neither values nor gradients. There y_t of a Cell is the output of the held
    carry, and y_t of a plain Step is its output for the filled input. `unroll` replaces both by
    zeros.

    Args:
        step: a Cell, whose backward pass stays hand-written, or a plain Step. The arrays of a plain
            Step's carry and inputs begin with the axes of the mask.
        fill_value: an input from which the step computes finite numbers with finite slopes.

    Returns:
        A Cell or a Step whose inputs are `MaskedInputs(xs, mask)`. Equal cells give equal cells.

    Gradient: exact. Time and memory: those of the step, and a selection for each array of the
    carry.
    """
    require_cell_or_plain_step(step)
    fill_value = check.require_finite("fill_value", fill_value)
    if isinstance(step, Cell):
        return MaskedCell(step, fill_value=fill_value)
    return MaskedStep(step, fill_value=fill_value)


@dataclasses.dataclass(frozen=True, repr=False)
class MaskedStep(Expression):
    """The plain step of `masked`."""

    step: Step
    fill_value: float = dataclasses.field(default=0.0, kw_only=True)

    expression_name = "masked"

    def __call__(self, params: Params, carry: Carry, x: MaskedInputs) -> StepResult:
        """Runs one step."""
        check.require_instance("xs", x, MaskedInputs)
        check.require_bool_array("xs.mask", x.mask)
        check.require_batch_axes("xs.mask", x.mask.shape, None, carry)
        new_carry, y = self.step(params, carry, tree.fill_unmasked(x.mask, x.xs, self.fill_value))
        return tree.where(x.mask, new_carry, carry), y  # (MK1)


@dataclasses.dataclass(frozen=True, repr=False)
class MaskedCell(ExtraInputCell):
    """The Cell of `masked`."""

    fill_value: float = dataclasses.field(default=0.0, kw_only=True)

    expression_name = "masked"

    def project(self, params: Params, xs: MaskedInputs) -> MaskedInputs:
        """Returns the projected inputs, with filled padding, and the mask."""
        check.require_instance("xs", xs, MaskedInputs)
        check.require_leading_axes("xs.mask", xs.mask, xs.xs, self.num_feature_axes)
        # Before the step, since a NaN that is selected away afterwards has a gradient of NaN.
        inputs = tree.fill_unmasked(xs.mask, xs.xs, self.fill_value)
        return MaskedInputs(self.cell.project(params, inputs), xs.mask)

    def advance(self, w: Weights, carry: Carry, z: MaskedInputs) -> tuple[Carry, PyTree]:
        """Runs one step of (MK1)."""
        new_carry, saved = self.cell.advance(w, carry, z.xs)
        return tree.where(z.mask, new_carry, carry), saved  # (MK1)

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Runs one step of (MK2)."""
        mask = residuals.z.mask
        # The adjoint is linear, so λ = 0 gives δ = 0, which adds nothing to the gradients.
        d_taken = tree.zero_unmasked(mask, d_carry)
        d_previous, delta = self.cell.adjoint(w, self._inner_residuals(residuals), d_taken)
        return tree.where(mask, d_previous, d_carry), delta  # (MK2)
