"""The loss inside the loop, so that outputs are in memory for one segment at most."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.expression import Expression
from jaxrnn.transforms.base import ExtraInputCell
from jaxrnn.types import (
    Array,
    Carry,
    Cell,
    Key,
    Layer,
    Params,
    PyTree,
    Residuals,
    Step,
    StepResult,
    Weights,
)

# (outputs (*lead, V), targets (*lead, ...)) -> losses (*lead)
StepLoss = Callable[[Array, Array], Array]
INTEGER_TARGET = jax.ShapeDtypeStruct((), jnp.int32)


class StepLossInputs(NamedTuple):
    """Inputs, and the targets of the outputs.

    Fields:
        xs: the inputs of the step itself.
        targets: y `(*lead, ...)`, the second argument of the loss.
    """

    xs: PyTree
    targets: Array


def step_loss(
    step: Cell | Step,
    readout: Layer,
    loss: StepLoss,
    *,
    target: jax.ShapeDtypeStruct = INTEGER_TARGET,
) -> Cell | Step:
    """Returns a step whose output is its loss.

        c_t = cell(params, c_{t-1}, x_t),    o_t = readout(h_t),    y_t = ℓ(o_t, target_t)    (1)

    Under a loop that runs a sequence segment by segment (`checkpointed`), the `(T, *batch, V)`
    outputs of the readout and their cotangents are in memory for one segment at most.

    Args:
        step: a Cell without noise, whose backward pass stays hand-written, or a plain Step.
        readout: a Layer.
        loss: `(outputs (*lead, V), targets (*lead, ...)) -> (*lead)`, such as
            `optax.softmax_cross_entropy_with_integer_labels`.
        target: the shape and dtype of the target of one row at one step; defaults to an int32
            token. The carry of a Cell holds one target for each row.

    Returns:
        A Cell or a Step with inputs `StepLossInputs(xs, targets)`; its output is one loss for each
        step and row. Its params are those of `stacked(cell, readout)`. The carry of a Cell is the
        pair of the inner cell's carry and the last target. Equal arguments give equal cells.

    Gradient: exact. Time and memory: those of the cell; readout and loss run where the loop
    computes outputs.

    Examples:
        >>> cell = jaxrnn.gru(16)
        >>> readout = jaxrnn.linear(10)
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> step = jaxrnn.transforms.step_loss(cell, readout, loss)
        >>> params = step.init(jax.random.key(0), input_size=8)
        >>> labels = jnp.zeros((50, 4), jnp.int32)
        >>> inputs = jaxrnn.transforms.StepLossInputs(jnp.ones((50, 4, 8)), labels)
        >>> _, losses = jaxrnn.unroll(step, params, inputs)  # no array of all logits
        >>> losses.shape
        (50, 4)
    """
    check.require_callable("step", step, takes=3)
    check.require_instance("readout", readout, Layer)
    check.require_callable("loss", loss, takes=2)
    check.require_instance("target", target, jax.ShapeDtypeStruct)
    if not isinstance(step, Cell):
        return StepLossStep(step, readout, loss)
    # `unroll` wraps the params and xs of a noisy cell in WithNoise, and here both are pairs.
    check.require(not step.is_noisy, "step", "one that draws noise", "one without")
    return StepLossCell(step, readout, loss, target=target)


@dataclasses.dataclass(frozen=True, repr=False)
class StepLossStep(Expression):
    """The plain step of `step_loss`."""

    step: Step
    readout: Layer
    loss: StepLoss

    expression_name = "step_loss"

    def __call__(self, params: Params, carry: Carry, x: StepLossInputs) -> StepResult:
        """Runs one step."""
        check.require_instance("xs", x, StepLossInputs)
        check.require_one_per_part((self.step, self.readout), params=params)
        step_params, readout_params = params
        carry, y = self.step(step_params, carry, x.xs)
        return carry, self.loss(self.readout.apply(readout_params, y), x.targets)  # (1)


@dataclasses.dataclass(frozen=True, repr=False)
class StepLossCell(ExtraInputCell):
    """The Cell of `step_loss`.

    A Cell computes its output from its carry, so the carry contains the target of the step. No
    step reads the target of the step before, so its cotangent is zero there.
    """

    readout: Layer
    loss: StepLoss
    target: jax.ShapeDtypeStruct = dataclasses.field(default=INTEGER_TARGET, kw_only=True)

    expression_name = "step_loss"

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of the cell and of the readout, as `stacked` does."""
        check.require_key("key", key)
        key_cell, key_readout = jax.random.split(key)
        params = self.cell.init(key_cell, input_size, dtype)
        ys = jax.eval_shape(self.cell.output, params, self.cell.initial_carry((1,), dtype))
        return params, self.readout.init(key_readout, ys.shape[-1], dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """Returns the inner cell's zero state, and a target of zeros."""
        target = jnp.zeros((*batch_shape, *self.target.shape), self.target.dtype)
        return self.cell.initial_carry(batch_shape, dtype), target

    def project(self, params: Params, xs: StepLossInputs) -> StepLossInputs:
        """Returns the projected inputs, and the targets."""
        check.require_instance("xs", xs, StepLossInputs)
        check.require_one_per_part((self.cell, self.readout), params=params)
        batch = check.batch_shape(xs.xs, self.num_feature_axes)
        like = jax.ShapeDtypeStruct((*batch, *self.target.shape), self.target.dtype)
        check.require_same_tree("xs.targets", xs.targets, like)
        cell_params, _ = params
        return StepLossInputs(self.cell.project(cell_params, xs.xs), xs.targets)

    def prepare(self, params: Params) -> Weights:
        """Calls the inner cell."""
        cell_params, _ = params
        return self.cell.prepare(cell_params)

    def advance(self, w: Weights, carry: Carry, z: StepLossInputs) -> tuple[Carry, PyTree]:
        """Calls the inner cell, and puts the target of the step into the carry."""
        inner_carry, _ = carry
        new_carry, saved = self.cell.advance(w, inner_carry, z.xs)
        return (new_carry, z.targets), saved

    def output(self, params: Params, carries: Carry) -> PyTree:
        """Returns the losses (1)."""
        cell_params, readout_params = params
        inner_carries, targets = carries
        ys = self.cell.output(cell_params, inner_carries)
        return self.loss(self.readout.apply(readout_params, ys), targets)  # (1)

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Calls the inner cell; the gradient of the target goes to the inputs."""
        d_inner, d_target = d_carry
        d_previous, delta = self.cell.adjoint(w, self._inner_residuals(residuals), d_inner)
        no_target = jax.tree.map(jnp.zeros_like, d_target)
        return (d_previous, no_target), (delta, d_target)

    def gradients(
        self, w: Weights, residuals: Residuals, deltas: PyTree
    ) -> tuple[Weights, StepLossInputs]:
        """Returns the gradients of the inner cell, and those of the targets."""
        inner_deltas, d_targets = deltas
        d_w, d_zs = self.cell.gradients(w, self._inner_residuals(residuals), inner_deltas)
        return d_w, StepLossInputs(d_zs, d_targets)

    def _inner_residuals(self, residuals: Residuals) -> Residuals:
        """Returns the residuals of the inner cell, without the targets."""
        inner_z, _ = residuals.z
        inner_previous, _ = residuals.previous_carry
        inner_carry, _ = residuals.carry
        return Residuals(inner_previous, inner_z, inner_carry, residuals.saved)
