"""Resets: steps before which the carry is replaced, since a new sequence begins."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn import check, tree
from jaxrnn.expression import Expression
from jaxrnn.transforms.base import TransformedCell
from jaxrnn.types import Carry, Cell, Key, Params, PyTree, Residuals, Step, StepResult


class ResetInputs(NamedTuple):
    """Inputs, and where a new sequence begins.

    Fields:
        xs: what the step itself takes.
        reset: r `(*lead)`, bool; True where the carry is replaced before the step.
    """

    xs: PyTree
    reset: Any


class ResetParams(NamedTuple):
    """Parameters, and the carry from which a new sequence begins.

    Fields:
        params: what the step itself takes.
        reset_carry: c_0, of the form of the carry, or without its batch axes, the same for all
            rows.
    """

    params: Params
    reset_carry: Carry


def resettable(step: Cell | Step, *, learned: bool = False) -> Cell | Step:
    """The step whose carry is replaced by c_0, before it is taken, where a reset is True.

        c̃_{t-1} = r_t ? c_0 : c_{t-1},    c_t, y_t = step(params, c̃_{t-1}, x_t)              (R1)

    and backward

        λ_{t-1} = r_t ? 0 : ∂L/∂c̃_{t-1},    ∂L/∂c_0 = Σ_t r_t ∂L/∂c̃_{t-1}                    (R2)

    so that no gradient crosses a reset, and nothing of a carry that was NaN.

    Args:
        step: a Cell, whose backward pass stays the one by hand, or a plain Step, whose carry has
            the reset's axes in front.
        learned: whether a Cell's c_0 is to have a gradient, for which ∂L/∂c̃ is kept at all steps;
            a plain Step's always has.

    Returns:
        A Cell or a Step whose params are `ResetParams(params, c_0)` and whose inputs are
        `ResetInputs(xs, reset)`. A Cell's `init` gives the zero state without batch axes for c_0.
        Equal arguments give the same cell.

    Gradient: exact. Time and memory: the step's, and a selection for each array of the carry.
    """
    check.require_callable("step", step)
    check.require_bool("learned", learned)
    if isinstance(step, Cell):
        return ResettableCell(step, learned=learned)
    return ResettableStep(step)


@dataclasses.dataclass(frozen=True, repr=False)
class ResettableStep(Expression):
    """See `resettable`; of a plain step."""

    step: Step

    expression_name = "resettable"

    def __call__(self, params: ResetParams, carry: Carry, x: ResetInputs) -> StepResult:
        """One step."""
        carry = _reset(params, carry, x)
        return self.step(params.params, carry, x.xs)


@dataclasses.dataclass(frozen=True, repr=False)
class ResettableCell(TransformedCell):
    """See `resettable`; of a Cell."""

    learned: bool = dataclasses.field(default=False, kw_only=True)

    expression_name = "resettable"

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> ResetParams:
        """The inner cell's parameters, and its zero state without batch axes."""
        params = self.cell.init(key, input_size, dtype)
        return ResetParams(params, self.cell.initial_carry((), dtype))

    def project(self, params: ResetParams, xs: ResetInputs) -> ResetInputs:
        """The projected inputs, and where they reset."""
        check.require_instance("params", params, ResetParams)
        check.require_instance("xs", xs, ResetInputs)
        check.require_leading_axes("xs.reset", xs.reset, xs.xs, self.num_feature_axes)
        return ResetInputs(self.cell.project(params.params, xs.xs), xs.reset)

    def prepare(self, params: ResetParams) -> ResetParams:
        """The inner cell's weights, and c_0."""
        return ResetParams(self.cell.prepare(params.params), params.reset_carry)

    def output(self, params: ResetParams, carries: Carry) -> PyTree:
        """As the inner cell."""
        return self.cell.output(params.params, carries)

    def advance(self, w: ResetParams, carry: Carry, z: ResetInputs) -> tuple[Carry, PyTree]:
        """One step of (R1)."""
        return self.cell.advance(w.params, _reset(w, carry, z), z.xs)

    def adjoint(self, w: ResetParams, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """One step of (R2)."""
        reset = residuals.z.reset
        d_previous, delta = self.cell.adjoint(w.params, _of_inner_cell(w, residuals), d_carry)
        d_start = tree.zero_unmasked(reset, d_previous) if self.learned else None
        return tree.zero_unmasked(~reset, d_previous), (delta, d_start)  # (R2)

    def gradients(
        self, w: ResetParams, residuals: Residuals, deltas: PyTree
    ) -> tuple[ResetParams, ResetInputs]:
        """The gradients of the inner cell, and that of c_0 (R2)."""
        inner_deltas, d_starts = deltas
        inner_residuals = _of_inner_cell(w, residuals)
        d_w, d_zs = self.cell.gradients(w.params, inner_residuals, inner_deltas)

        def sum_over_time_and_rows(d: jax.Array, c: jax.Array) -> jax.Array:
            return jnp.sum(d, axis=tuple(range(d.ndim - jnp.ndim(c))))  # (R2)

        d_carry = None
        if d_starts is not None:
            d_carry = jax.tree.map(sum_over_time_and_rows, d_starts, w.reset_carry)
        return ResetParams(d_w, d_carry), ResetInputs(d_zs, None)


def _reset(params: ResetParams, carry: Carry, x: ResetInputs) -> Carry:
    """The carry, replaced by c_0 where the step begins a new sequence (R1)."""
    check.require_instance("params", params, ResetParams)
    check.require_instance("xs", x, ResetInputs)
    check.require_bool_array("xs.reset", x.reset)
    check.require_batch_axes("xs.reset", x.reset.shape, None, carry)
    start = _for_all_rows(params.reset_carry, carry, x.reset.ndim)
    check.require_same_tree("params.reset_carry", start, carry, ", as the carry")
    return tree.where(x.reset, start, carry)  # (R1)


def _for_all_rows(start: Carry, carry: Carry, batch_axes: int) -> Carry:
    """c_0 with the batch axes of the carry, where it has none."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (start, carry)]
    if structures[0] != structures[1]:
        return start

    def for_all_rows(c: Any, like: Any) -> Any:
        fits = jnp.shape(c) == like.shape[batch_axes:]
        return jnp.broadcast_to(c, like.shape) if fits else c

    return jax.tree.map(for_all_rows, start, carry)


def _of_inner_cell(w: ResetParams, residuals: Residuals) -> Residuals:
    """The residuals of the inner cell, whose step began from c̃."""
    z, reset = residuals.z
    carries = residuals.previous_carry
    starts = jax.tree.map(lambda c, cs: jnp.broadcast_to(c, cs.shape), w.reset_carry, carries)
    return residuals._replace(previous_carry=tree.where(reset, starts, carries), z=z)
