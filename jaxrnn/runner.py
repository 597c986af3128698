"""Runs the parts of a network over a sequence, with masks, resets, noise and both directions."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check, tree, types
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.parallel.devices import previous_states
from jaxrnn.transforms.base import TransformedCell
from jaxrnn.transforms.masking import MaskedInputs, masked
from jaxrnn.transforms.noise import add_noise
from jaxrnn.transforms.resets import ResetInputs, ResetParams, resettable
from jaxrnn.types import Array, Carry, Cell, Layer, Loop, Network, Params, Part, PyTree, StepResult


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
    """Runs the parts of a network, each with its own version of the arguments of `unroll`."""

    loop: Loop = bptt
    mask: Any = None
    fill_value: float = 0.0
    reset: Any = None
    reset_carry: Any = None
    reverse: bool = False
    key: Any = None

    def __call__(
        self,
        part: Any,
        params: Params,
        carry: Carry,
        xs: PyTree,
        index: int | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Any, PyTree]:
        """Runs a part, which has the number `index` if a network calls; see `types.Network`."""
        runner = self if index is None else self._of_part(index, reverse)
        if isinstance(part, Network):
            return part.run_parts(runner, params, carry, xs)
        if runner.key is not None and isinstance(part, Part) and part.is_noisy:
            params, xs = add_noise(part, runner.key, params, carry, xs)
        if isinstance(part, Layer):
            return (), part.apply(params, xs)
        return runner._run_step(part, params, carry, xs)

    def _of_part(self, index: int, reverse: bool) -> "Runner":
        """Returns the runner with the arguments for one part of a network."""
        return dataclasses.replace(
            self,
            loop=types.loop_of_part(self.loop, index),
            reset_carry=None if self.reset_carry is None else self.reset_carry[index],
            key=None if self.key is None else jax.random.fold_in(self.key, index),
            reverse=self.reverse != reverse,
        )

    def _run_step(self, step: Any, params: Params, carry: Carry, xs: PyTree) -> tuple[Any, PyTree]:
        """Runs a Cell or a plain Step with its mask, its resets and its direction."""
        if self.mask is not None:
            step, xs = masked(step, fill_value=self.fill_value), MaskedInputs(xs, self.mask)
        if self.reset is not None:
            reset_carry = self.reset_carry
            if reset_carry is None:
                reset_carry = zero_carry(step, params, xs, self.reset.shape[1:])
            # The default zero state is not an argument, so it needs no gradient.
            step = resettable(step, learned=self.reset_carry is not None)
            params = ResetParams(params, reset_carry)
            xs = ResetInputs(xs, self._reset_in_running_order())
        xs = tree.reverse_time(xs) if self.reverse else xs
        result, ys = self._run_loop(step, params, carry, xs)
        ys = tree.reverse_time(ys) if self.reverse else ys
        return result, ys

    def _reset_in_running_order(self) -> Array:
        """Returns where the carry is reset before a step, in running order.

        A reset at t separates the steps t-1 and t. In reverse, step t-1 runs after step t.
        """
        if not self.reverse or len(self.reset) == 0:
            return self.reset
        no_reset = jnp.zeros_like(self.reset[0])  # with its sharding
        return previous_states(no_reset, self.reset, True, types.time_axis_of(self.loop))

    def _run_loop(self, step: Any, params: Params, carry: Carry, xs: PyTree) -> tuple[Any, PyTree]:
        result = self._ordered_loop(step, params, carry, xs)
        return check.require_loop_result(result, carry, xs)

    @property
    def _ordered_loop(self) -> Loop:
        """The loop for inputs in running order."""
        return types.loop_in_reverse(self.loop) if self.reverse else self.loop


class HistoryRunner(Runner):
    """Returns a History instead of the last carry."""

    def _run_loop(self, step: Any, params: Params, carry: Carry, xs: PyTree) -> tuple[Any, PyTree]:
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
        states = tree.reverse_time(states) if self.reverse else states
        if self.mask is None:
            return states
        return states._replace(saved=tree.zero_unmasked(self.mask, states.saved))


class _CarryOutput(TransformedCell):
    """The cell whose output is its carry."""

    def output(self, params: Params, carries: Carry) -> Carry:
        return carries


def zero_carry(cell: Any, params: Params, xs: PyTree, batch: tuple[int, ...]) -> Carry:
    """Returns the zero state, sharded over an explicit mesh as the rows of the inputs are."""
    carry = cell.initial_carry(batch, check.float_dtype(params))
    sharding = jax.typeof(jax.tree.leaves(xs)[0]).sharding
    row_sharding = sharding.update(spec=sharding.spec[1 : 1 + len(batch)])
    return jax.sharding.reshard(carry, row_sharding) if any(row_sharding.spec) else carry
