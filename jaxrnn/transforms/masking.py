"""Masking: steps that hold the carry."""

import dataclasses
from typing import Any, NamedTuple

from jaxrnn import check, tree
from jaxrnn.expression import Expression
from jaxrnn.transforms.base import TransformedCell
from jaxrnn.types import Carry, Cell, Params, PyTree, Residuals, Step, StepResult, Weights


class MaskedInputs(NamedTuple):
    """Inputs, and which of them are valid.

    Fields:
        xs: what the step itself takes.
        mask: m `(*lead)`, bool; True where the step is taken.
    """

    xs: PyTree
    mask: Any


def masked(step: Cell | Step, *, fill_value: float = 0.0) -> Cell | Step:
    """The step that is taken where a mask is True and leaves the carry alone elsewhere.

        c_t = m_t ? step(params, c_{t-1}, x_t) : c_{t-1}                                     (M1)

    and backward, since (3) of the adjoint is linear in λ,

        λ_{t-1}, δ_t = m_t ? adjoint(λ_t) : (λ_t, 0)                                         (M2)

    Where m_t is False, x_t is replaced by `fill_value`, an integer by 0, before the step sees it, so that
    NaN there reaches neither value nor gradient, and y_t is whatever the step makes of the carry
    that was held (a Cell: its output), which `unroll` replaces by zeros.

    Args:
        step: a Cell, whose backward pass stays the one by hand, or a plain Step, whose carry and
            inputs have the mask's axes in front.
        fill_value: an input of which the step makes finite numbers with finite slopes.

    Returns:
        A Cell or a Step whose inputs are `Masked(xs, mask)`. Equal cells give the same cell.

    Gradient: exact. Time and memory: the step's, and a selection for each array of the carry.
    """
    check.require_callable("step", step)
    fill_value = check.require_finite("fill_value", fill_value)
    return (
        MaskedCell(step, fill_value=fill_value)
        if isinstance(step, Cell)
        else MaskedStep(step, fill_value=fill_value)
    )


@dataclasses.dataclass(frozen=True, repr=False)
class MaskedStep(Expression):
    """See `masked`; of a plain step."""

    step: Step
    fill_value: float = dataclasses.field(default=0.0, kw_only=True)

    expression_name = "masked"

    def __call__(self, params: Params, carry: Carry, x: MaskedInputs) -> StepResult:
        """One step."""
        check.require_instance("xs", x, MaskedInputs)
        check.require_bool_array("xs.mask", x.mask)
        check.require_batch_axes("xs.mask", x.mask.shape, None, carry)
        new_carry, y = self.step(params, carry, tree.fill_unmasked(x.mask, x.xs, self.fill_value))
        return tree.where(x.mask, new_carry, carry), y  # (M1)


@dataclasses.dataclass(frozen=True, repr=False)
class MaskedCell(TransformedCell):
    """See `masked`; of a Cell."""

    fill_value: float = dataclasses.field(default=0.0, kw_only=True)

    expression_name = "masked"

    def project(self, params: Params, xs: MaskedInputs) -> MaskedInputs:
        """The projected inputs, padding filled, and the mask."""
        check.require_instance("xs", xs, MaskedInputs)
        check.require_leading_axes("xs.mask", xs.mask, xs.xs, self.num_feature_axes)
        inputs = tree.fill_unmasked(xs.mask, xs.xs, self.fill_value)
        return MaskedInputs(self.cell.project(params, inputs), xs.mask)

    def advance(self, w: Weights, carry: Carry, z: MaskedInputs) -> tuple[Carry, PyTree]:
        """One step of (M1)."""
        new_carry, saved = self.cell.advance(w, carry, z.xs)
        return tree.where(z.mask, new_carry, carry), saved  # (M1)

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """One step of (M2)."""
        mask = residuals.z.mask
        d_taken = tree.zero_unmasked(mask, d_carry)
        d_previous, delta = self.cell.adjoint(w, _of_inner_cell(residuals), d_taken)
        return tree.where(mask, d_previous, d_carry), delta  # (M2)

    def gradients(self, w: Weights, residuals: Residuals, deltas: PyTree) -> tuple[Weights, Any]:
        """As the inner cell; δ is 0 at masked steps."""
        d_w, d_zs = self.cell.gradients(w, _of_inner_cell(residuals), deltas)
        return d_w, MaskedInputs(d_zs, None)


def _of_inner_cell(residuals: Residuals) -> Residuals:
    return residuals._replace(z=residuals.z.xs)
