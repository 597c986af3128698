"""Resets: steps before which the carry is replaced, since a new sequence begins."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Bool

from jaxrnn import check, tree
from jaxrnn.cells.kernels import NO_GRADIENT
from jaxrnn.expression import Expression
from jaxrnn.transforms.base import ExtraInputCell, require_cell_or_plain_step
from jaxrnn.types import Array, Carry, Cell, Key, Params, PyTree, Residuals, Step, StepResult


class ResetInputs(NamedTuple):
    """Inputs, and a mask of the steps where a new sequence begins.

    Fields:
        xs: the inputs of the step itself.
        reset: r `(*lead)`, bool; True where the carry is replaced before the step.
    """

    xs: PyTree
    reset: Bool[Array, "*lead"]


class ResetParams(NamedTuple):
    """Parameters, and the carry from which a new sequence begins.

    Fields:
        params: the parameters of the step itself.
        reset_carry: c_0, with the structure and dtypes of the carry, and its shapes with or without
            the batch axes. Without them it is the same for all rows.
    """

    params: Params
    reset_carry: Carry


def resettable(step: Cell | Step, *, learned: bool = False) -> Cell | Step:
    """Returns a step whose carry is replaced by c_0 before the step, where a reset is True.

        c̃_{t-1} = r_t ? c_0 : c_{t-1},    c_t, y_t = step(params, c̃_{t-1}, x_t)             (RS1)

    and backward

        λ_{t-1} = r_t ? 0 : ∂L/∂c̃_{t-1},    ∂L/∂c_0 = Σ_t r_t ∂L/∂c̃_{t-1}                   (RS2)

    so that no gradient crosses a reset, and a NaN in the replaced carry has no effect.

    Args:
        step: a Cell, whose backward pass stays hand-written, or a plain Step. The arrays of a plain
            Step's carry begin with the axes of the reset.
        learned: whether c_0 of a Cell has a gradient, for which ∂L/∂c̃ is kept at all steps. c_0 of
            a plain Step always has one.

    Returns:
        A Cell or a Step whose params are `ResetParams(params, c_0)` and whose inputs are
        `ResetInputs(xs, reset)`. For a Cell, `init` returns the zero state without batch axes as
        c_0. Equal arguments give equal cells.

    Gradient: exact. Time and memory: those of the step, and a selection for each array of the
    carry.
    """
    require_cell_or_plain_step(step)
    check.require_bool("learned", learned)
    if isinstance(step, Cell):
        return ResettableCell(step, learned=learned)
    return ResettableStep(step)


@dataclasses.dataclass(frozen=True, repr=False)
class ResettableStep(Expression):
    """The plain step of `resettable`."""

    step: Step

    expression_name = "resettable"

    def __call__(self, params: ResetParams, carry: Carry, x: ResetInputs) -> StepResult:
        """Runs one step."""
        carry = _reset(params, carry, x)
        return self.step(params.params, carry, x.xs)


@dataclasses.dataclass(frozen=True, repr=False)
class ResettableCell(ExtraInputCell):
    """The Cell of `resettable`."""

    learned: bool = dataclasses.field(default=False, kw_only=True)

    expression_name = "resettable"

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> ResetParams:
        """Draws the inner cell's parameters, and adds its zero state without batch axes."""
        params = self.cell.init(key, input_size, dtype)
        return ResetParams(params, self.cell.initial_carry((), dtype))

    def project(self, params: ResetParams, xs: ResetInputs) -> ResetInputs:
        """Returns the projected inputs, and the resets."""
        check.require_instance("params", params, ResetParams)
        check.require_instance("xs", xs, ResetInputs)
        check.require_leading_axes("xs.reset", xs.reset, xs.xs, self.num_feature_axes)
        return ResetInputs(self.cell.project(params.params, xs.xs), xs.reset)

    def prepare(self, params: ResetParams) -> ResetParams:
        """Returns the inner cell's weights, and c_0."""
        return ResetParams(self.cell.prepare(params.params), params.reset_carry)

    def output(self, params: ResetParams, carries: Carry) -> PyTree:
        """Calls the inner cell."""
        return self.cell.output(params.params, carries)

    def advance(self, w: ResetParams, carry: Carry, z: ResetInputs) -> tuple[Carry, PyTree]:
        """Runs one step of (RS1)."""
        return self.cell.advance(w.params, _reset(w, carry, z), z.xs)

    def adjoint(self, w: ResetParams, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Runs one step of (RS2)."""
        reset = residuals.z.reset
        d_previous, delta = self.cell.adjoint(w.params, _of_inner_cell(w, residuals), d_carry)
        # ∂L/∂c_0 is a sum over steps: kept with δ here, and summed in `gradients`.
        d_start = tree.zero_unmasked(reset, d_previous) if self.learned else None
        return tree.zero_unmasked(~reset, d_previous), (delta, d_start)  # (RS2)

    def gradients(
        self, w: ResetParams, residuals: Residuals, deltas: PyTree
    ) -> tuple[ResetParams, ResetInputs]:
        """Returns the gradients of the inner cell, and that of c_0 (RS2)."""
        inner_deltas, d_starts = deltas
        inner_residuals = _of_inner_cell(w, residuals)
        d_w, d_zs = self.cell.gradients(w.params, inner_residuals, inner_deltas)

        def sum_over_time_and_rows(d: jax.Array, c: jax.Array) -> jax.Array:
            # c_0 lacks the axis of time, and the batch axes too if all rows share it.
            return jnp.sum(d, axis=tuple(range(d.ndim - jnp.ndim(c))))  # (RS2)

        d_carry = None
        if d_starts is not None:
            d_carry = jax.tree.map(sum_over_time_and_rows, d_starts, w.reset_carry)
        return ResetParams(d_w, d_carry), ResetInputs(d_zs, NO_GRADIENT)


def _reset(params: ResetParams, carry: Carry, x: ResetInputs) -> Carry:
    """Returns the carry, replaced by c_0 where a new sequence begins (RS1)."""
    check.require_instance("params", params, ResetParams)
    check.require_instance("xs", x, ResetInputs)
    check.require_bool_array("xs.reset", x.reset)
    check.require_batch_axes("xs.reset", x.reset.shape, None, carry)
    start = _for_all_rows(params.reset_carry, carry, x.reset.ndim)
    check.require_same_tree("params.reset_carry", start, carry, ", as the carry")
    return tree.where(x.reset, start, carry)  # (RS1)


def _for_all_rows(start: Carry, carry: Carry, num_batch_axes: int) -> Carry:
    """Returns c_0 with the batch axes of the carry."""
    # A c_0 that does not fit stays as it is, and the caller raises an error that describes it.
    if not tree.have_same_structure(start, carry):
        return start

    def for_all_rows(c: ArrayLike, like: Array) -> ArrayLike:
        lacks_batch_axes = jnp.shape(c) == like.shape[num_batch_axes:]
        return jnp.broadcast_to(c, like.shape) if lacks_batch_axes else c

    return jax.tree.map(for_all_rows, start, carry)


def _of_inner_cell(w: ResetParams, residuals: Residuals) -> Residuals:
    """Returns the residuals of the inner cell, whose step starts from c̃ of (RS1).

    A loop keeps c_{t-1}, the carry that the step got. This takes residuals of one step, or of all.
    """
    inner_z, reset = residuals.z
    carries = residuals.previous_carry
    starts = jax.tree.map(lambda c, cs: jnp.broadcast_to(c, cs.shape), w.reset_carry, carries)
    return residuals._replace(previous_carry=tree.where(reset, starts, carries), z=inner_z)
