"""The front door: a cell, a step or a network over a sequence, under any loop."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Integer

from jaxrnn import check, tree, types
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.scan import scan
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
    """All states of one cell over a sequence.

    Fields:
        carries: c_1..c_T, each leaf `(T, *batch, features)`.
        saved: what `advance` saved at every step, such as the values of all gates (`LSTMGates`);
            the empty tuple for a plain Step.
    """

    carries: Carry
    saved: PyTree


def unroll(
    cell: Part | Step,
    params: Params,
    xs: PyTree,
    *,
    carry: Carry | None = None,
    loop: Loop = bptt,
    mask: Bool[Array, " T *batch"] | None = None,
    lengths: Integer[Array, "*batch"] | None = None,
    fill_value: float = 0.0,
    reset: Bool[Array, " T *batch"] | None = None,
    reset_carry: Carry | None = None,
    reverse: bool = False,
    key: Key | None = None,
) -> tuple[Carry, PyTree]:
    """Run a cell over a sequence: c_t, y_t = cell(params, c_{t-1}, x_t) for t = 1..T.

        c̃_{t-1} = r_t ? c_0 : c_{t-1}                                  with `reset`          (1)
        c_t     = m_t ? cell(params, c̃_{t-1}, x_t) : c̃_{t-1}           with `mask`           (2)
        y_t     = m_t ? output(c_t) : 0                                                      (3)

    Many-to-many uses `ys`; many-to-one uses `cell.output(params, carry)`, the last *valid* output
    of every row, and the outputs that nobody used send no `(T, ...)` array of zeros back.

    Args:
        cell: a Cell, a Layer, a Network, or a plain Step, for which `carry` has to be given.
        params: the cell's parameters; outputs and carries keep their dtype.
        xs: `(T, *batch, I)`, any number of batch axes and none; T = 0 gives the carry back. What
            begins with `embedding` takes tokens, integers `(T, *batch)`. (Batch first?
            `jaxrnn.to_time_major`.) Rows may lie over devices.
        carry: the state before the first step, of exactly the batch and dtype of the sequence; the
            cell's zero state, over devices as the rows are, unless given.
        loop: the gradient algorithm; all give the same values.
        mask: m, True where a step counts, in any pattern. Whatever xs holds elsewhere, NaN too,
            reaches neither values nor gradients.
        lengths: how many steps of each row count, from 0 to T, in place of a mask; clipped to that
            where they are traced.
        fill_value: what stands in the place of padded inputs, but for integers, such as tokens, where it
            is 0; a plain Step has to make finite numbers with finite slopes of it.
        reset: r, True where a new sequence begins: its step t starts from `reset_carry`, whatever
            the mask says, and no gradient crosses. It is `done[t-1]` for those who have `done[t]`
            after step t. The argument `carry` starts the array and is never returned to.
        reset_carry: c_0, of the form of the carry; the cell's zero state unless given. It may be
            learned.
        reverse: run from the last step to the first, over the valid steps alone; ys[t] still
            belongs to xs[t], and a reset at t still cuts between t-1 and t.
        key: draws the noise of cells that have some; the same key gives the same noise under every
            loop. Without it they are deterministic.

    Returns:
        The carry after the last valid step taken, and ys `(T, *batch, H)`.

    Raises:
        TypeError, ValueError: while tracing, naming the argument that does not fit.

    Gradient: what `loop` makes of it; by default exact backpropagation through time.
    """
    runner = _Runner(loop, mask, fill_value, reset, reset_carry, reverse, key)
    return _checked_run(runner, lengths, cell, params, carry, xs)


def history(
    cell: Part | Step,
    params: Params,
    xs: PyTree,
    *,
    carry: Carry | None = None,
    loop: Loop = bptt,
    mask: Bool[Array, " T *batch"] | None = None,
    lengths: Integer[Array, "*batch"] | None = None,
    fill_value: float = 0.0,
    reset: Bool[Array, " T *batch"] | None = None,
    reset_carry: Carry | None = None,
    reverse: bool = False,
    key: Key | None = None,
) -> tuple[PyTree, PyTree]:
    """Runs as `unroll` does, and returns the states of all steps in the place of the last carry.

    Args:
        cell: as in `unroll`.
        params: as in `unroll`.
        xs: as in `unroll`.
        carry: as in `unroll`.
        loop: as in `unroll`.
        mask: as in `unroll`.
        lengths: as in `unroll`.
        fill_value: as in `unroll`.
        reset: as in `unroll`.
        reset_carry: as in `unroll`.
        reverse: as in `unroll`; the states, too, stand where their inputs do.
        key: as in `unroll`.

    Returns:
        A `History` (of a Network: a tree of them, in the form of its carry), and ys as from
        `unroll`. Where the mask is False, carries are those held and saved values are zero.

    Gradient: that of `unroll`. Time: one more `advance`, of all steps at once.
    """
    runner = _HistoryRunner(loop, mask, fill_value, reset, reset_carry, reverse, key)
    return _checked_run(runner, lengths, cell, params, carry, xs)


def lengths_to_mask(lengths: Integer[Array, "*batch"], steps: int) -> Bool[Array, " T *batch"]:
    """The mask of right-padded rows, m_t = t < length, t from 0.

    Args:
        lengths: `(*batch)`, integers from 0 to `steps`; ValueError outside where they are concrete,
            clipped where they are traced.
        steps: T.

    Returns:
        `(T, *batch)`, bool.
    """
    check.require_int("steps", steps, least=0)
    check.require_integer_array("lengths", lengths)
    check.require_arrays(lengths=lengths)
    if not isinstance(lengths, jax.core.Tracer):
        outside = sorted({int(n) for n in jax.device_get(lengths).ravel() if not 0 <= n <= steps})
        check.require(not outside, "lengths", outside, f"integers from 0 to T = {steps}")
    lengths = jnp.asarray(lengths).astype(jnp.result_type(int))  # a byte cannot count to T
    return jax.lax.broadcasted_iota(lengths.dtype, (steps, *lengths.shape), 0) < lengths[None]


@dataclasses.dataclass(frozen=True)
class _Runner:
    """Runs the parts of a network, each with the arguments of `unroll` as they are for it."""

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
        """Runs a part that is number `index` of its network, if any; see `types.Network`."""
        runner = self if index is None else self._of_part(index, reverse)
        if isinstance(part, Network):
            return part.run_parts(runner, params, carry, xs)
        if runner.key is not None and isinstance(part, Part) and part.is_noisy:
            params, xs = add_noise(part, runner.key, params, carry, xs)
        if isinstance(part, Layer):
            return (), part.apply(params, xs)
        return runner._run_step(part, params, carry, xs)

    def _of_part(self, index: int, reverse: bool) -> "_Runner":
        """The same, for one part of a network."""
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
                reset_carry = _zero_carry(step, params, xs, self.reset.shape[1:])
            # Only an argument can have a gradient.
            step = resettable(step, learned=self.reset_carry is not None)
            params = ResetParams(params, reset_carry)
            xs = ResetInputs(xs, self._reset_in_running_order())
        xs = tree.reverse_time(xs) if self.reverse else xs
        result, ys = self._run_loop(step, params, carry, xs)
        return result, tree.reverse_time(ys) if self.reverse else ys

    def _reset_in_running_order(self) -> Array:
        """Where to reset before a step.

        A reset at t cuts between t-1 and t. In reverse, step t-1 is the later one to be taken.
        """
        if not self.reverse:
            return self.reset
        return jnp.concatenate([self.reset[1:], jnp.zeros_like(self.reset[:1])])

    def _run_loop(self, step: Any, params: Params, carry: Carry, xs: PyTree) -> tuple[Any, PyTree]:
        return check.require_pair("loop", self.loop(step, params, carry, xs))


class _HistoryRunner(_Runner):
    """Returns a History in the place of the last carry."""

    def _run_loop(self, step: Any, params: Params, carry: Carry, xs: PyTree) -> tuple[Any, PyTree]:
        if not isinstance(step, Cell):

            def step_with_carry(params: Params, carry: Carry, x: PyTree) -> StepResult:
                carry, y = step(params, carry, x)
                return carry, (carry, y)

            _, (carries, ys) = super()._run_loop(step_with_carry, params, carry, xs)
            return self._in_time_order(History(carries, ())), ys
        _, carries = super()._run_loop(_CarryOutput(step), params, carry, xs)
        # What was saved is a function of the carries: all steps at once, outside the loop.
        advance = jax.vmap(step.advance, in_axes=(None, 0, 0))
        previous_carries, zs = tree.shift_right(carry, carries), step.project(params, xs)
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


def _zero_carry(cell: Any, params: Params, xs: PyTree, batch: tuple[int, ...]) -> Carry:
    """The zero state, laid over the devices of an explicit mesh as the inputs' rows are."""
    carry = cell.initial_carry(batch, check.float_dtype(params))
    of_xs = jax.typeof(jax.tree.leaves(xs)[0]).sharding
    of_rows = of_xs.update(spec=of_xs.spec[1 : 1 + len(batch)])
    return jax.sharding.reshard(carry, of_rows) if any(of_rows.spec) else carry


def _checked_run(
    runner: _Runner, lengths: Any, cell: Any, params: Params, carry: Carry, xs: PyTree
) -> tuple[Any, PyTree]:
    """Runs the cell once all arguments are known to fit, with lengths as a mask, padding filled,
    and a first carry.
    """
    check.require_callable("cell", cell, takes=3)
    _check_options(runner)
    trees = {"params": params, "carry": carry, "reset_carry": runner.reset_carry}
    check.require_arrays(**trees, mask=runner.mask, lengths=lengths, reset=runner.reset)
    steps = check.num_steps(xs)
    check.require_arrays(xs=xs)
    _check_exclusive_options(runner, lengths, cell)
    if isinstance(cell, Part):
        batch: Any = check.batch_shape(check.one_step(xs), cell.num_feature_axes)
        _check_part(runner, cell, params, carry, xs, batch)
    else:
        batch = None
        _check_carries_of_plain_step(runner, carry)
    mask = _checked_mask(runner, lengths, steps, batch, carry)
    if mask is not None and batch is None:
        _check_mask_axes(xs, mask.shape)
    if carry is None:
        carry = _zero_carry(cell, params, xs, batch)
    arrays = tree.to_arrays("arguments", (mask, runner.reset, runner.reset_carry, carry))
    mask, reset, reset_carry, carry = arrays
    xs = xs if mask is None else tree.fill_unmasked(mask, xs, runner.fill_value)
    runner = dataclasses.replace(runner, mask=mask, reset=reset, reset_carry=reset_carry)
    result, ys = runner(cell, params, carry, xs)
    return result, ys if mask is None else tree.zero_unmasked(mask, ys)  # (3)


def _check_options(runner: _Runner) -> None:
    """Raises unless each option is of its type."""
    check.require_callable("loop", runner.loop, takes=4)
    check.require_bool("reverse", runner.reverse)
    check.require_finite("fill_value", runner.fill_value)


def _check_exclusive_options(runner: _Runner, lengths: Any, cell: Any) -> None:
    """Raises where one option forbids another, or nothing uses it."""
    is_one = runner.mask is None or lengths is None
    check.require(is_one, "lengths", "both mask and lengths", "one of them")
    is_used = runner.reset is not None or runner.reset_carry is None
    check.require(is_used, "reset_carry", "a carry and no reset", "both")
    if runner.key is not None:
        check.require_key("key", runner.key)
        is_noisy = isinstance(cell, Part) and cell.is_noisy
        check.require(is_noisy, "key", "a key", "None, since nothing in the cell draws noise")


def _check_part(
    runner: _Runner, part: Any, params: Params, carry: Carry, xs: PyTree, batch: tuple[int, ...]
) -> None:
    """Raises unless params, xs and carries fit a Cell, a Layer or a Network."""
    if isinstance(part, Cell):
        jax.eval_shape(part.project, params, xs)  # raises unless they fit
    like = check.abstract_zero_carry(part.initial_carry, batch, check.float_dtype(params))
    for name, argument in (("carry", carry), ("reset_carry", runner.reset_carry)):
        if argument is not None:
            check.require_same_tree(name, argument, like)
    if isinstance(part, Cell) and not part.is_noisy:
        return
    # Only the parts can check the rest, so they run on shapes before anything is computed.
    abstract = _Runner(scan, key=runner.key, reverse=runner.reverse)

    def run(params: Params, xs: PyTree) -> StepResult:
        return abstract(part, params, _zero_carry(part, params, xs, batch), xs)

    jax.eval_shape(run, params, xs)


def _check_carries_of_plain_step(runner: _Runner, carry: Carry) -> None:
    """Raises unless the carries that a plain Step needs are there."""
    reset_carry = carry if runner.reset is None else runner.reset_carry
    for name, argument in (("carry", carry), ("reset_carry", reset_carry)):
        expected = "a carry, since a plain Step has no zero state"
        check.require(argument is not None, name, None, expected)
    check.require_same_tree("reset_carry", reset_carry, carry, ", as the carry")


def _checked_mask(
    runner: _Runner, lengths: Any, steps: int, batch: tuple[int, ...] | None, carry: Carry
) -> Any:
    """The mask, made of lengths where those came, once mask, lengths and reset fit."""
    for name, marks in (("mask", runner.mask), ("reset", runner.reset)):
        if marks is not None:
            check.require_bool_sequence(name, marks, steps)
            check.require_batch_axes(name, marks.shape[1:], batch, carry)
    if lengths is None:
        return runner.mask
    check.require_integer_array("lengths", lengths)
    check.require_batch_axes("lengths", lengths.shape, batch, carry)
    return lengths_to_mask(lengths, steps)


def _check_mask_axes(xs: PyTree, shape: tuple[int, ...]) -> None:
    """Raises unless all floats of a plain Step's inputs begin with the mask's axes."""
    for path, leaf in jax.tree.leaves_with_path(xs):
        place = f"xs{jax.tree_util.keystr(path)} is {check.describe(leaf)}"
        expected = "axes that all floats of xs begin with, since padding is replaced there; "
        leads = not check.is_inexact(leaf) or jnp.shape(leaf)[: len(shape)] == shape
        check.require(leads, "mask", list(shape), expected + place)
