"""Training with optax: one state, one pure update; the carry goes from segment to segment."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrnn import check, tree
from jaxrnn.types import Carry, Params, PyTree

Metrics = Mapping[str, jax.Array]
LossResult = tuple[jax.Array, tuple[Carry, Metrics]]
Loss = Callable[..., LossResult]
TRAINER_METRICS = {"loss", "grad_norm"}  # which the trainer adds to those of the loss


class TrainState(NamedTuple):
    """Everything that training changes, as one pytree.

    Fields:
        params: the parameters that the optimizer updates.
        opt_state: the state of the optimizer.
        carry: the recurrent state at the end of the last segment; None if the loss has no carry.
        step: the number of updates, int32.
        key: the key from which the randomness of each update is drawn.
    """

    params: Params
    opt_state: optax.OptState
    carry: Carry
    step: jax.Array
    key: jax.Array


class Trainer(NamedTuple):
    """A training algorithm, as a pair of pure functions.

    Fields:
        init: `(params, key, carry=None) -> state`.
        update: `(state, batch) -> (state, metrics)`, to be jitted. Donating the state saves memory:
            `jax.jit(trainer.update, donate_argnums=0)`.
    """

    init: Callable[..., TrainState]
    update: Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


def trainer(loss: Loss, optimizer: optax.GradientTransformation) -> Trainer:
    """Returns a trainer that minimises a loss with an optax optimizer.

    One update on a batch is

        L, (c', m) = loss(params, c, batch, key_s)                                           (1)
        params'    = params + optimizer(∂L/∂params)                                          (2)

    and the next update begins with c'. No gradient flows back through c', so updates on consecutive
    segments of a sequence are stateful truncated BPTT. To train on independent sequences, return
    the initial carry or zeros from the loss, or call `state._replace(carry=...)` between updates.

    Args:
        loss: `(params, carry, batch, key) -> (loss, (carry, metrics))`. The loss is a scalar, the
            returned carry has the structure, shapes and dtypes of the argument, and the metrics are
            a dict of arrays.
        optimizer: any optax transformation. To clip gradients, use
            `optax.chain(optax.clip_by_global_norm(1.0), ...)`.

    Returns:
        A Trainer. Its metrics are those of the loss, plus "loss" and "grad_norm", the global norm
        of the gradient before any clipping.

    Raises:
        TypeError, ValueError: while tracing, if the loss returns anything else.

    Gradient: within a segment that of the loss's loop; zero across segments.

    Examples:
        >>> network = jaxrnn.stacked(jaxrnn.gru(16), jaxrnn.linear(1))
        >>> def loss(params, carry, batch, key):
        ...     xs, targets = batch
        ...     carry, ys = jaxrnn.unroll(network, params, xs, carry=carry)
        ...     return jnp.mean((ys - targets) ** 2), (carry, {})
        >>> trainer = jaxrnn.training.trainer(loss, optax.adam(1e-2))
        >>> params = network.init(jax.random.key(0), input_size=8)
        >>> state = trainer.init(params, jax.random.key(1), carry=network.initial_carry((4,)))
        >>> batch = jnp.ones((20, 4, 8)), jnp.ones((20, 4, 1))
        >>> state, metrics = jax.jit(trainer.update)(state, batch)
        >>> sorted(metrics), int(state.step)
        (['grad_norm', 'loss'], 1)
    """
    is_optimizer = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    check.require_option_type("optimizer", optimizer, is_optimizer, "an optax optimizer")
    check.require_callable("loss", loss, takes=4)

    def init(params: Params, key: jax.Array, carry: Carry = None) -> TrainState:
        check.require_arrays(params=params, carry=carry)
        for path, x in jax.tree.leaves_with_path(params):
            name = "params" + jax.tree_util.keystr(path)
            expected = "floating point, since it is to be trained"
            check.require_type(check.is_inexact(x), name, x, expected)
        check.require_key("key", key)
        return TrainState(params, optimizer.init(params), carry, jnp.zeros((), jnp.int32), key)

    def update(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        check.require_instance("state", state, TrainState)
        # A state of another optimizer would fail inside optax, with an error about some tree.
        expected = jax.eval_shape(optimizer.init, state.params)
        check.require_same_structure(
            "state.opt_state", state.opt_state, expected, ", that of this optimizer"
        )
        key, key_s = jax.random.split(state.key)

        def objective(params: Params) -> LossResult:
            return _checked_result(loss(params, state.carry, batch, key_s), state.carry)

        value_and_grad = jax.value_and_grad(objective, has_aux=True)
        (value, (carry, metrics)), grads = value_and_grad(state.params)  # (1)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)  # (2)
        metrics = {**metrics, "loss": value, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, carry, state.step + 1, key), metrics

    return Trainer(init, update)


def truncated_trainer(
    loss: Loss, optimizer: optax.GradientTransformation, k1: int, k2: int | None = None
) -> Trainer:
    """Returns a trainer for sequences of any length, with an update every k1 steps: BPTT(k2; k1).

    Segment s, the steps with s k1 ≤ t < (s+1) k1, is the end of a window of at most k2 / k1
    segments. Let c be the carry at the beginning of the window, held constant. One update is

        c' = the carry after the segments of the window before s, by the loss, at params       (1)
        L  = loss(params, c', segment s, key)                                                  (2)
        params' = params + optimizer(∂L/∂params)                                               (3)

    The gradient of L flows through (1) too, but no farther. The carry at the beginning of the next
    window is computed on the way. All updates of a sequence are one scan. With k2 = k1, this is
    stateful truncated BPTT, the same as `trainer` on one segment after another.

    Args:
        loss: `(params, carry, batch, key) -> (loss, (carry, metrics))`, with the requirements that
            `trainer` lists. It is called on segments, with leaves `(k1, ...)`. If k1 does not
            divide T, the last segment has leaves `(T mod k1, ...)`.
        optimizer: any optax transformation.
        k1: the number of steps between updates, at least 1.
        k2: the number of steps that a gradient reaches back, a multiple of k1. Defaults to k1.

    Returns:
        A Trainer. Its batch is a whole sequence with leaves `(T, ...)`. Its metrics are those of
        all updates, each `(⌈T/k1⌉, ...)`. The carry of its state is the carry after step T.

    Raises:
        TypeError, ValueError: if k1 or k2 is not an int, or out of range.

    Gradient: biased, (2). Time: k2 / k1 passes over the sequence. Memory: O(k2), plus the sequence
    itself and the metrics.

    Source: R. Williams, J. Peng (1990), as in `jaxrnn.truncated`.
    """
    check.require_callable("loss", loss, takes=4)
    check.require_int("k1", k1, least=1)
    k2 = k1 if k2 is None else check.require_int("k2", k2, least=1)
    check.require(k2 % k1 == 0, "k2", k2, f"a multiple of k1 = {k1}")
    num_before = k2 // k1 - 1  # segments of a window before the one whose loss counts

    def window_loss(params: Params, carry: Carry, batch: PyTree, key: jax.Array) -> LossResult:
        start, _ = carry
        numbers, segments_before, segment = batch

        def advance(carry: Carry, inputs: PyTree) -> tuple[Carry, Carry]:
            s, segment = inputs
            key_s = jax.random.fold_in(key, s)
            _, (next_carry, _) = _checked_result(loss(params, carry, segment, key_s), carry)
            # There is no segment before segment 0: a number below 0 leaves the carry as it is.
            next_carry = tree.where(s >= 0, next_carry, carry)
            return next_carry, next_carry

        carry, carries = jax.lax.scan(advance, start, (numbers, segments_before))  # (1)
        result = loss(params, carry, segment, key)  # (2)
        value, (end, metrics) = _checked_result(result, carry)
        # The next window begins one segment later than this one.
        next_start = end
        if num_before > 0:
            next_start = jax.tree.map(lambda c: c[0], carries)
        return value, ((jax.lax.stop_gradient(next_start), end), metrics)

    window_trainer = trainer(window_loss, optimizer)

    def update(state: TrainState, sequence: PyTree) -> tuple[TrainState, Metrics]:
        check.require_instance("state", state, TrainState)
        num_segments, rest = divmod(check.num_steps(sequence, "batch"), k1)
        segments = tree.slice_time(sequence, 0, num_segments * k1)
        segments = jax.tree.map(
            lambda x: jnp.reshape(x, (num_segments, k1, *x.shape[1:])), segments
        )

        def update_once(
            state: TrainState, inputs: tuple[int | jax.Array, PyTree]
        ) -> tuple[TrainState, Metrics]:
            s, segment = inputs
            numbers = s - num_before + jnp.arange(num_before)
            # Where a number is below 0, any segment will do: its result is not used.
            segments_before = jax.tree.map(lambda x: x[jnp.maximum(numbers, 0)], segments)
            return window_trainer.update(state, (numbers, segments_before, segment))

        # The carry is the pair of the window's first carry and the last segment's last carry.
        state = state._replace(carry=(state.carry, state.carry))
        state, metrics = jax.lax.scan(update_once, state, (jnp.arange(num_segments), segments))
        if rest:  # The last segment is shorter, so it has no place in the scan.
            last = tree.slice_time(sequence, num_segments * k1, None)
            state, more = update_once(state, (num_segments, last))
            metrics = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), metrics, more)
        return state._replace(carry=state.carry[1]), metrics

    return Trainer(window_trainer.init, update)


def _checked_result(result: Any, carry: Carry) -> LossResult:
    """Returns the result of a loss; raises unless it is `(loss, (carry, metrics))`."""
    try:
        value, (new_carry, metrics) = result
    except (TypeError, ValueError):
        got = check.describe(result)
        raise TypeError(f"loss: got {got}, expected (loss, (carry, metrics))") from None
    is_scalar = getattr(value, "shape", None) == ()
    check.require(is_scalar, "loss", check.describe(value), "a scalar array")
    check.require_floating("loss", value.dtype)
    got = f"metrics of {type(metrics).__name__}"
    check.require(isinstance(metrics, Mapping), "loss", got, "a dict of arrays", TypeError)
    check.require_arrays(metrics=metrics)
    reserved = sorted(metrics.keys() & TRAINER_METRICS)
    got = f"metrics named {reserved}"
    expected = "other names than the trainer's"
    check.require(not reserved, "loss", got, expected)
    if carry is None:
        expected = "None, since the state has no carry; the argument `carry` of `init` sets it"
        check.require(new_carry is None, "carry", check.describe(new_carry), expected, TypeError)
    check.require_same_tree("carry", new_carry, carry, ", as the state's carry before it")
    return result
