"""Runs a cell, a step or a network over a sequence, under any loop."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Integer

from jaxrnn import check, tree
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.scan import scan
from jaxrnn.runner import HistoryRunner, Runner, zero_carry
from jaxrnn.types import Array, Carry, Cell, Key, Loop, Params, Part, PyTree, Step, StepResult


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
    """Runs a cell over a sequence: c_t, y_t = cell(params, c_{t-1}, x_t) for t = 1..T.

        c̃_{t-1} = r_t ? c_0 : c_{t-1}                                  with `reset`          (1)
        c_t     = m_t ? cell(params, c̃_{t-1}, x_t) : c̃_{t-1}           with `mask`           (2)
        y_t     = m_t ? output(c_t) : 0                                                      (3)

    Many-to-many models use `ys`. Many-to-one models use `cell.output(params, carry)`, which is the
    last *valid* output of every row; then the backward pass needs no `(T, ...)` array of zeros for
    the unused outputs.

    Args:
        cell: a Cell, a Layer, a Network or a plain Step. A plain Step needs a `carry`.
        params: the parameters of the cell. Outputs and carries keep their dtype.
        xs: `(T, *batch, I)`, with any number of batch axes, also none. T = 0 returns the carry
            unchanged. A cell that begins with `embedding` takes integer tokens `(T, *batch)`. For
            batch-major data, see `jaxrnn.to_time_major`. Rows may be sharded over devices.
        carry: the state before the first step, with exactly the batch axes and the dtype of the
            sequence. It defaults to the cell's zero state, sharded as the rows are.
        loop: the gradient algorithm. All loops compute the same values.
        mask: m, True where a step is valid, in any pattern. What xs holds elsewhere, even NaN,
            reaches neither values nor gradients.
        lengths: the number of valid steps of each row, from 0 to T, instead of a mask. Traced
            lengths are clipped to this range.
        fill_value: the number that replaces padded inputs; padded integers, such as tokens, become
            0. A plain Step must compute finite numbers with finite slopes from it.
        reset: r, True where a new sequence begins. Step t then starts from `reset_carry`, for any
            mask, and no gradient crosses the reset. If `done[t]` marks the end of an episode after
            step t, reset[t] is `done[t-1]`. The argument `carry` is used before the first step
            only.
        reset_carry: c_0, with the shapes and dtypes of the carry. It defaults to the cell's zero
            state, and may be a learned parameter.
        reverse: runs from the last valid step to the first. ys[t] still belongs to xs[t], and a
            reset at t still separates the steps t-1 and t.
        key: draws the noise of noisy cells, such as dropout. The same key draws the same noise
            under every loop. Without a key, noisy cells are deterministic.

    Returns:
        The carry after the last valid step, and ys `(T, *batch, H)`.

    Raises:
        TypeError, ValueError: while tracing, if an argument does not fit; the message names it.

    Gradient: that of `loop`. By default it is exact backpropagation through time.

    Examples:
        >>> cell = jaxrnn.gru(16)
        >>> params = cell.init(jax.random.key(0), input_size=8)
        >>> xs = jnp.ones((50, 4, 8))  # (time, batch, features)
        >>> carry, ys = jaxrnn.unroll(cell, params, xs, lengths=jnp.array([50, 20, 0, 7]))
        >>> carry.shape, ys.shape
        ((4, 16), (50, 4, 16))
    """
    runner = Runner(
        loop=loop,
        mask=mask,
        fill_value=fill_value,
        reset=reset,
        reset_carry=reset_carry,
        reverse=reverse,
        key=key,
    )
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
    """Runs as `unroll` does, and returns the states of all steps instead of the last carry.

    `unroll` describes the arguments in detail.

    Args:
        cell: a Cell, a Layer, a Network or a plain Step.
        params: the parameters of the cell.
        xs: the inputs, `(T, *batch, I)`.
        carry: the state before the first step; defaults to the cell's zero state.
        loop: the gradient algorithm.
        mask: `(T, *batch)`, True where a step is valid.
        lengths: the number of valid steps of each row, instead of a mask.
        fill_value: the number that replaces padded inputs.
        reset: `(T, *batch)`, True where a new sequence begins.
        reset_carry: the state where a new sequence begins; defaults to the cell's zero state.
        reverse: runs from the last valid step to the first. States stand at the steps of their
            inputs.
        key: draws the noise of noisy cells.

    Returns:
        A `History`, and ys as `unroll` returns them. A Network has a tree of histories, with the
        structure of its carry. Where the mask is False, carries are the held ones and saved values
        are zero.

    Gradient: that of `loop`. Time: one more `advance`, of all steps at once.
    """
    runner = HistoryRunner(
        loop=loop,
        mask=mask,
        fill_value=fill_value,
        reset=reset,
        reset_carry=reset_carry,
        reverse=reverse,
        key=key,
    )
    return _checked_run(runner, lengths, cell, params, carry, xs)


def lengths_to_mask(lengths: Integer[Array, "*batch"], steps: int) -> Bool[Array, " T *batch"]:
    """Returns the mask of right-padded rows, m_t = t < length, with t from 0.

    Args:
        lengths: `(*batch)`, integers from 0 to `steps`. Concrete lengths outside this range raise a
            ValueError; traced lengths are clipped.
        steps: T.

    Returns:
        `(T, *batch)`, bool.

    Examples:
        >>> jaxrnn.lengths_to_mask(jnp.array([3, 1]), 3).tolist()
        [[True, True], [True, False], [True, False]]
    """
    check.require_int("steps", steps, least=0)
    check.require_integer_array("lengths", lengths)
    check.require_arrays(lengths=lengths)
    if not isinstance(lengths, jax.core.Tracer):
        values = {int(length) for length in jax.device_get(lengths).ravel()}
        outside = sorted(length for length in values if not 0 <= length <= steps)
        check.require(not outside, "lengths", outside, f"integers from 0 to T = {steps}")
    lengths = jnp.asarray(lengths).astype(jnp.result_type(int))  # T may exceed the range of int8
    return jax.lax.broadcasted_iota(lengths.dtype, (steps, *lengths.shape), 0) < lengths[None]


def _checked_run(
    runner: Runner,
    lengths: Array | None,
    cell: Part | Step,
    params: Params,
    carry: Carry | None,
    xs: PyTree,
) -> tuple[PyTree, PyTree]:
    """Checks all arguments, then runs the cell.

    Lengths become a mask, padding is filled, and the carry gets its default. The order of the
    checks matters: each relies on those before it, and the first that fails should name the
    argument that is wrong.
    """
    check.require_callable("cell", cell, takes=3)
    _check_options(runner)
    trees = {"params": params, "carry": carry, "reset_carry": runner.reset_carry}
    check.require_arrays(**trees, mask=runner.mask, lengths=lengths, reset=runner.reset)
    steps = check.num_steps(xs)
    check.require_arrays(xs=xs)
    _check_exclusive_options(runner, lengths, cell)
    # A Part says which axes of its inputs are batch axes; of a plain Step nobody knows.
    batch: tuple[int, ...] | None = None
    if isinstance(cell, Part):
        batch = check.batch_shape(check.one_step(xs), cell.num_feature_axes)
        _check_part(runner, cell, params, carry, xs, batch)
    else:
        _check_carries_of_plain_step(runner, carry)
    mask = _checked_mask(runner, lengths, steps, batch, carry)
    if mask is not None and batch is None:
        _check_mask_axes(xs, mask.shape)
    if carry is None and isinstance(cell, Part) and batch is not None:
        carry = zero_carry(cell, params, xs, batch)
    arrays = tree.to_arrays("arguments", (mask, runner.reset, runner.reset_carry, carry))
    mask, reset, reset_carry, carry = arrays
    runner = dataclasses.replace(runner, mask=mask, reset=reset, reset_carry=reset_carry)
    if mask is None:
        return runner(cell, params, carry, xs)
    # Filled here once for all parts, and by `masked` again for each cell: what a layer computes
    # from the padding may be NaN.
    result, ys = runner(cell, params, carry, tree.fill_unmasked(mask, xs, runner.fill_value))
    return result, tree.zero_unmasked(mask, ys)  # (3)


def _check_options(runner: Runner) -> None:
    """Raises an error unless each option has its type."""
    loop: object = check.require_callable("loop", runner.loop, takes=4)
    expected = "jaxrnn.scan, which takes the parameters too"
    check.require(loop is not jax.lax.scan, "loop", "jax.lax.scan", expected, TypeError)
    check.require_bool("reverse", runner.reverse)
    check.require_finite("fill_value", runner.fill_value)


def _check_exclusive_options(runner: Runner, lengths: Array | None, cell: Part | Step) -> None:
    """Raises an error if one option excludes another, or is not used."""
    is_exclusive = runner.mask is None or lengths is None
    check.require(is_exclusive, "lengths", "both mask and lengths", "one of them")
    # An option that has no effect is a mistake of the caller.
    is_used = runner.reset is not None or runner.reset_carry is None
    check.require(is_used, "reset_carry", "a carry and no reset", "both")
    if runner.key is not None:
        check.require_key("key", runner.key)
        is_noisy = isinstance(cell, Part) and cell.is_noisy
        check.require(is_noisy, "key", "a key", "None, since nothing in the cell draws noise")


def _check_part(
    runner: Runner,
    part: Part,
    params: Params,
    carry: Carry | None,
    xs: PyTree,
    batch: tuple[int, ...],
) -> None:
    """Raises an error unless params, xs and carries fit a Cell, a Layer or a Network."""
    if isinstance(part, Cell):
        jax.eval_shape(part.project, params, xs)  # raises an error unless they fit
    like = check.abstract_zero_carry(part.initial_carry, batch, check.float_dtype(params))
    for name, argument in (("carry", carry), ("reset_carry", runner.reset_carry)):
        if argument is not None:
            check.require_same_tree(name, argument, like)
    if isinstance(part, Cell) and not part.is_noisy:
        return
    # Only the parts can check the rest, so they run on shapes first, without the mask and the
    # resets, which fit any part, and under `scan`, which is the cheapest to trace.
    abstract_runner = Runner(scan, key=runner.key, reverse=runner.reverse)

    def run(params: Params, xs: PyTree) -> StepResult:
        return abstract_runner(part, params, zero_carry(part, params, xs, batch), xs)

    jax.eval_shape(run, params, xs)


def _check_carries_of_plain_step(runner: Runner, carry: Carry | None) -> None:
    """Raises an error unless a plain Step has the carries that it needs."""
    # Without resets there is no reset carry to check.
    reset_carry = carry if runner.reset is None else runner.reset_carry
    for name, argument in (("carry", carry), ("reset_carry", reset_carry)):
        expected = "a carry, since a plain Step has no zero state"
        check.require(argument is not None, name, None, expected)
    check.require_same_tree("reset_carry", reset_carry, carry, ", as the carry")


def _checked_mask(
    runner: Runner,
    lengths: Array | None,
    steps: int,
    batch: tuple[int, ...] | None,
    carry: Carry | None,
) -> Array | None:
    """Checks mask, lengths and resets; returns the mask, computed from lengths if there are any."""
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
    """Raises an error unless all floats of a plain Step's inputs begin with the mask's axes."""
    for path, leaf in jax.tree.leaves_with_path(xs):
        place = f"xs{jax.tree_util.keystr(path)} is {check.describe(leaf)}"
        expected = (
            f"axes that all floats of xs begin with, since padding is replaced there; {place}"
        )
        fits = not check.is_inexact(leaf) or jnp.shape(leaf)[: len(shape)] == shape
        check.require(fits, "mask", list(shape), expected)
