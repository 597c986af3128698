"""Runs the parts of a network over a sequence, with masks, resets, noise and both directions."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check, tree, types
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.parallel.devices import previous_states
from jaxrnn.transforms.base import TransformedCell
from jaxrnn.transforms.masking import MaskedInputs, masked
from jaxrnn.transforms.noise import add_noise
from jaxrnn.transforms.resets import ResetInputs, ResetParams, resettable
from jaxrnn.types import (
    Array,
    Carry,
    Cell,
    Key,
    Layer,
    Loop,
    Network,
    Params,
    Part,
    PyTree,
    Step,
    StepResult,
)


class History(NamedTuple):
    """The states of all steps of one cell.

    Fields:
        carries: c_1..c_T, each leaf `(T, *batch, features)`.
        saved: the values that `advance` saved at every step, such as the values of all gates
            (`LSTMGates`); the empty tuple for a plain Step.
    """

    carries: Carry
    saved: PyTree


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs the parts of a network, each with its own version of the arguments of `unroll`.

    A network calls its runner for each part with the number of the part, and the runner derives the
    runner of that part (`_of_part`). The part may be a network again. A Cell runs under the loop,
    wrapped for its mask and its resets; a Layer is applied to all steps at once.

    The fields are arguments of `unroll`.
    """

    loop: Loop = bptt
    mask: Array | None = None
    fill_value: float = 0.0
    reset: Array | None = None
    reset_carry: Carry | None = None
    reverse: bool = False
    key: Key | None = None

    def __call__(
        self,
        part: Part | Step,
        params: Params,
        carry: Carry,
        xs: PyTree,
        index: int | None = None,
        *,
        reverse: bool = False,
    ) -> StepResult:
        """Runs a part, which has the number `index` if a network calls; see `types.Network`."""
        runner = self
        if index is not None:
            runner = self._of_part(index, reverse)
        if isinstance(part, Network):
            return part.run_parts(runner, params, carry, xs)
        # Noise goes to the part itself, which the mask and the resets wrap afterwards.
        if runner.key is not None and isinstance(part, Part) and part.is_noisy:
            params, xs = add_noise(part, runner.key, params, carry, xs)
        if isinstance(part, Layer):
            return (), part.apply(params, xs)
        return runner._run_step(part, params, carry, xs)

    def _of_part(self, index: int, reverse: bool) -> "Runner":
        """Returns the runner with the arguments for one part of a network."""
        # Without a number of its own, each part would draw the same noise.
        return dataclasses.replace(
            self,
            loop=types.loop_of_part(self.loop, index),
            reset_carry=None if self.reset_carry is None else self.reset_carry[index],
            key=None if self.key is None else jax.random.fold_in(self.key, index),
            reverse=self.reverse != reverse,  # the reverse of the reverse is forward
        )

    def _run_step(self, step: Cell | Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs a Cell or a plain Step with its mask, its resets and its direction."""
        if self.mask is not None:
            step = masked(step, fill_value=self.fill_value)
            xs = MaskedInputs(xs, self.mask)
        if self.reset is not None:
            reset_carry = self.reset_carry
            if reset_carry is None:
                assert isinstance(step, Cell)  # `unroll` requires the reset carry of a plain Step
                reset_carry = zero_carry(step, params, xs, self.reset.shape[1:])
            # The default zero state is not an argument, so it needs no gradient.
            step = resettable(step, learned=self.reset_carry is not None)
            params = ResetParams(params, reset_carry)
            xs = ResetInputs(xs, self._reset_in_direction(self.reset))
        if not self.reverse:
            return self._run_loop(step, params, carry, xs)
        result, ys = self._run_loop(step, params, carry, tree.reverse_time(xs))
        return result, tree.reverse_time(ys)

    def _reset_in_direction(self, reset: Array) -> Array:
        """Returns where the carry is reset before a step, for the direction of the run.

        A reset at t separates the steps t-1 and t. In reverse, step t-1 runs after step t, so the
        carry is reset before step t-1 runs:

            reset               [0 0 1 0]    the sequences are steps 0, 1 and 2, 3
            in reverse          [0 1 0 0]    step 1 runs after step 2, from a new carry
        """
        if not self.reverse or len(reset) == 0:
            return reset
        no_reset = jnp.zeros_like(reset[0])  # with its sharding
        return previous_states(no_reset, reset, True, types.time_axis_of(self.loop))

    def _run_loop(self, step: Cell | Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        result = self._ordered_loop(step, params, carry, xs)
        return check.require_loop_result(result, carry, xs)

    @property
    def _ordered_loop(self) -> Loop:
        """The loop for inputs in the order in which they run."""
        return types.loop_in_reverse(self.loop) if self.reverse else self.loop


class HistoryRunner(Runner):
    """Returns a History instead of the last carry.

    The loop stacks outputs over time, so the states are made its outputs.
    """

    def _run_loop(self, step: Cell | Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        if not isinstance(step, Cell):

            def step_with_carry(params: Params, carry: Carry, x: PyTree) -> StepResult:
                carry, y = step(params, carry, x)
                return carry, (carry, y)

            _, (carries, ys) = super()._run_loop(step_with_carry, params, carry, xs)
            return self._in_time_order(History(carries, ())), ys
        _, carries = super()._run_loop(_CarryOutput(step), params, carry, xs)
        # Saved values are a function of the carries, so they need no loop.
        advance = jax.vmap(step.advance, in_axes=(None, 0, 0))
        axis = types.time_axis_of(self._ordered_loop)
        previous_carries = jax.tree.map(
            lambda c, cs: previous_states(c, cs, False, axis), carry, carries
        )
        zs = step.project(params, xs)
        _, saved = advance(step.prepare(params), previous_carries, zs)
        return self._in_time_order(History(carries, saved)), step.output(params, carries)

    def _in_time_order(self, states: History) -> History:
        """Returns the states at the steps of their inputs, with zeros for padding."""
        if self.reverse:
            states = tree.reverse_time(states)
        if self.mask is None:
            return states
        return states._replace(saved=tree.zero_unmasked(self.mask, states.saved))


class _CarryOutput(TransformedCell):
    """The cell whose output is its carry."""

    def output(self, params: Params, carries: Carry) -> Carry:
        return carries


def zero_carry(part: Part, params: Params, xs: PyTree, batch: tuple[int, ...]) -> Carry:
    """Returns the zero state, sharded over an explicit mesh as the rows of the inputs are."""
    carry = part.initial_carry(batch, check.float_dtype(params))
    sharding = jax.typeof(jax.tree.leaves(xs)[0]).sharding
    # Of the axes (T, *batch, features), those of the batch.
    row_sharding = sharding.update(spec=sharding.spec[1 : 1 + len(batch)])
    if not any(row_sharding.spec):  # without a mesh, or replicated
        return carry
    return jax.sharding.reshard(carry, row_sharding)
