"""A plain step as a Cell, whose backward pass is the step's own pullback.

With c_t and y_t = the results of the step, and λ_t = ∂L/∂c_t,

    λ_{t-1}, ∂L/∂(w, x_t) = pullback of the step at t, of (λ_t, ∂L/∂y_t)                     (1)

Both cotangents enter one call of the pullback, since a custom derivative rule (`jax.custom_vjp`)
need not be linear: a clipped sum is not the sum of two clipped gradients. So the output is an array
of the carry, which the next step does not read.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.typing import DTypeLike

from jaxrnn import tree
from jaxrnn.loops import derived
from jaxrnn.loops.checked_cell import CheckedCell
from jaxrnn.types import Carry, Cell, Key, Params, PyTree, Residuals, Step, Weights


class CarryAndOutput(NamedTuple):
    """The results of a step.

    Fields:
        carry: c_t.
        y: y_t.
    """

    carry: Carry
    y: PyTree


@dataclasses.dataclass(frozen=True, repr=False)
class PlainStep(Cell):
    """A plain step as a Cell whose carry is a `CarryAndOutput`, and whose inputs are not projected.

    The step must not close over traced values.

    Args:
        step: the step.
        has_custom_vjp: whether a part of the step has a custom rule for reverse mode.
        sums_in_order: whether the gradients of the parameters are summed step by step.
    """

    step: Step
    has_custom_vjp: bool
    sums_in_order: bool

    def init(self, key: Key, input_size: int, dtype: DTypeLike = float) -> Params:
        """A plain step has no initial parameters."""
        raise NotImplementedError

    def initial_carry(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = float) -> Carry:
        """A plain step has no zero state."""
        raise NotImplementedError

    def project(self, params: Params, xs: PyTree) -> PyTree:
        """Returns the inputs."""
        return xs

    def output(self, params: Params, carries: CarryAndOutput) -> PyTree:
        """Returns the outputs."""
        return carries.y

    def advance(
        self, w: Weights, carry: CarryAndOutput, z: PyTree
    ) -> tuple[CarryAndOutput, PyTree]:
        """Runs the step."""
        return CarryAndOutput(*self.step(w, carry.carry, z)), ()

    def adjoint(
        self, w: Weights, residuals: Residuals, d_carry: CarryAndOutput
    ) -> tuple[CarryAndOutput, CarryAndOutput]:
        """Returns λ_{t-1} of (1), and its argument as δ_t."""

        def advance(carry: CarryAndOutput) -> CarryAndOutput:
            return self.advance(w, carry, residuals.z)[0]

        ((d_previous,),) = tree.vjp_inexact(advance, residuals.previous_carry)(d_carry)
        return d_previous, d_carry

    def gradients(
        self, w: Weights, residuals: Residuals, deltas: CarryAndOutput
    ) -> tuple[Weights, PyTree]:
        """Returns the gradients of parameters and inputs (1)."""
        if self.sums_in_order:
            return self._gradients_in_order(w, residuals, deltas)

        def advance(w: Weights, zs: PyTree) -> CarryAndOutput:
            steps = jax.vmap(self.advance, in_axes=(None, 0, 0))
            return steps(w, residuals.previous_carry, zs)[0]

        ((d_w, d_zs),) = tree.vjp_inexact(advance, w, residuals.z)(deltas)
        return d_w, d_zs

    def _gradients_in_order(
        self, w: Weights, residuals: Residuals, deltas: CarryAndOutput
    ) -> tuple[Weights, PyTree]:
        """Returns the same as the sum of each step's gradients.

        A rule that acts on parameters alone would get the sum of all steps' cotangents.
        """

        def add_step(
            d_w: Weights, inputs: tuple[CarryAndOutput, PyTree, CarryAndOutput]
        ) -> tuple[Weights, PyTree]:
            previous_carry, z, delta = inputs

            def advance(w: Weights, z: PyTree) -> CarryAndOutput:
                return self.advance(w, previous_carry, z)[0]

            ((d_w_t, d_z),) = tree.vjp_inexact(advance, w, z)(delta)
            return tree.add_sparse(d_w, d_w_t), d_z

        inputs = residuals.previous_carry, residuals.z, deltas
        return jax.lax.scan(add_step, tree.zero_cotangents(w), inputs)


class StepAsCell(NamedTuple):
    """The recurrence of a step, as a Cell.

    Fields:
        cell: the Cell.
        params: its parameters.
        carry: its carry, for a plain step without the arrays that the step passes on unchanged.
        full_carry: rebuilds the carry of the step.
    """

    cell: Cell
    params: Params
    carry: Carry
    full_carry: Callable[[Carry], Carry]


def as_cell(step: Step, params: Params, carry: Carry, xs: PyTree) -> StepAsCell:
    """Returns a step as a Cell with a hand-written backward pass.

    Values over which a plain step closes are among its parameters.
    """
    if isinstance(step, Cell) and step.has_handwritten_backward:
        return StepAsCell(CheckedCell(step), params, carry, full_carry=lambda carry: carry)
    closed = derived.closed(step, params, carry, xs)
    return StepAsCell(
        PlainStep(closed.step, closed.has_custom_vjp, closed.has_custom_vjp_of_params),
        closed.params,
        CarryAndOutput(closed.carry, closed.zero_y),
        full_carry=lambda carry: closed.full_carry(carry.carry),
    )
