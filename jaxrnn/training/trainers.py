"""Training with optax: one state, one pure step, the carry handed from segment to segment."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrnn import check, tree
from jaxrnn.types import Carry, Params, PyTree

Metrics = Mapping[str, jax.Array]
Loss = Callable[..., tuple[jax.Array, tuple[Carry, Metrics]]]
OWN_METRICS = {"loss", "grad_norm"}  # those that the trainer adds


class TrainState(NamedTuple):
    """All that training changes, as one pytree.

    Fields:
        params: what the optimizer updates.
        opt_state: the optimizer's own.
        carry: the recurrent state at the end of the last segment; None where there is none.
        step: updates taken, int32.
        key: the key from which each step's randomness is drawn.
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
        update: `(state, batch) -> (state, metrics)`; jit it, and donate the state where memory is
            dear: `jax.jit(trainer.update, donate_argnums=0)`.
    """

    init: Callable[..., TrainState]
    update: Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


def trainer(loss: Loss, optimizer: optax.GradientTransformation) -> Trainer:
    """Training steps made from a loss and an optax optimizer.

    One update on a batch is

        L, (c', m) = loss(params, c, batch, key_s)                                           (1)
        params'    = params + optimizer(∂L/∂params)                                          (2)

    and the next begins with c', through which no gradient flows back: on consecutive segments of a
    sequence this is stateful truncated BPTT. A loss that returns the carry it got, or zeros, trains
    on sequences that begin anew; so does `state._replace(carry=...)` between updates.

    Args:
        loss: `(params, carry, batch, key) -> (loss, (carry, metrics))` with a scalar loss, a carry
            of the form it got, and metrics a dict of arrays.
        optimizer: any optax transformation; clip with `optax.chain(optax.clip_by_global_norm(1.0),
            ...)`.

    Returns:
        A Trainer. Its metrics are those of the loss, with "loss" and "grad_norm" (the gradient's
        global norm before any clipping) beside them.

    Raises:
        TypeError, ValueError: while tracing, if the loss returns anything else.

    Gradient: what the loss's loop makes of it within the segment, none across.
    """
    is_optimizer = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    check.require_option_type("optimizer", optimizer, is_optimizer, "an optax optimizer")
    check.require_callable("loss", loss, takes=4)

    def init(params: Params, key: jax.Array, carry: Carry = None) -> TrainState:
        check.require_arrays(params=params, carry=carry)
        for path, x in jax.tree.leaves_with_path(params):
            place = "params" + jax.tree_util.keystr(path)
            check.require_type(
                check.is_inexact(x), place, x, "floating point, since it is to be trained"
            )
        check.require_key("key", key)
        return TrainState(params, optimizer.init(params), carry, jnp.zeros((), jnp.int32), key)

    def update(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        check.require_instance("state", state, TrainState)
        like = jax.eval_shape(optimizer.init, state.params)
        check.require_same_structure(
            "state.opt_state", state.opt_state, like, ", that of this optimizer"
        )
        key, key_s = jax.random.split(state.key)

        def objective(params: Params) -> tuple[jax.Array, Any]:
            return _checked(loss(params, state.carry, batch, key_s), state.carry)

        (value, (carry, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "loss": value, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, carry, state.step + 1, key), metrics

    return Trainer(init, update)


def truncated_trainer(
    loss: Loss, optimizer: optax.GradientTransformation, k1: int, k2: int | None = None
) -> Trainer:
    """Training on a sequence of any length in one call: an update every k1 steps, BPTT(k2; k1).

    Segment s, the steps with s k1 ≤ t < (s+1) k1, is the end of a window of at most k2 / k1
    segments. From c, the carry at the window's beginning, held constant,

        c' = the carry after the segments of the window before s, by the loss, at params       (1)
        L  = loss(params, c', segment s, key)                                                  (2)
        params' = params + optimizer(∂L/∂params)                                               (3)

    with the gradient of L through (1) too, and no farther; the carry at the next window's beginning
    is the one that came out on the way. The whole pass over T is one scan. With k2 = k1 it is
    stateful truncated BPTT, as `trainer` on one segment after another.

    Args:
        loss: as for `trainer`; it is called on segments, each leaf `(k1, ...)`, the last `(T mod
            k1, ...)` where T is not divisible by k1.
        optimizer: any optax transformation.
        k1: steps from one update to the next, at least 1.
        k2: steps that a gradient reaches back, a multiple of k1; k1 unless given.

    Returns:
        A Trainer whose batch is a whole sequence, each leaf `(T, ...)`, and whose metrics are those
        of all updates, each `(⌈T/k1⌉, ...)`. The state's carry is that after step T.

    Raises:
        TypeError, ValueError: if k1 and k2 are not as said.

    Gradient: biased, (2). Time: k2 / k1 times one pass. Memory O(k2) beside the sequence itself and
    the metrics.

    Source: R. Williams, J. Peng (1990), as in `jaxrnn.truncated`.
    """
    check.require_callable("loss", loss, takes=4)
    check.require_int("k1", k1, least=1)
    k2 = k1 if k2 is None else check.require_int("k2", k2, least=1)
    check.require(k2 % k1 == 0, "k2", k2, f"a multiple of k1 = {k1}")
    warm = k2 // k1 - 1  # segments before the one whose loss counts

    def window_loss(params: Params, carry: Carry, batch: PyTree, key: jax.Array) -> Any:
        start, _ = carry
        numbers, before, segment = batch

        def through(carry: Carry, at_s: PyTree) -> tuple[Carry, Carry]:
            s, segment = at_s
            key_s = jax.random.fold_in(key, s)
            _, (new, _) = _checked(loss(params, carry, segment, key_s), carry)
            new = tree.where(s >= 0, new, carry)  # nothing is before step 0
            return new, new

        carry, carries = jax.lax.scan(through, start, (numbers, before))  # (1)
        value, (end, metrics) = _checked(loss(params, carry, segment, key), carry)  # (2)
        first = jax.tree.map(lambda c: c[0], carries) if warm else end
        return value, ((jax.lax.stop_gradient(first), end), metrics)

    of_windows = trainer(window_loss, optimizer)

    def update(state: TrainState, sequence: PyTree) -> tuple[TrainState, Metrics]:
        check.require_instance("state", state, TrainState)
        segments, rest = divmod(check.num_steps(sequence, "batch"), k1)
        whole = tree.slice_time(sequence, 0, segments * k1)
        whole = jax.tree.map(lambda x: jnp.reshape(x, (segments, k1, *x.shape[1:])), whole)

        def one(state: TrainState, at_s: tuple[Any, PyTree]) -> tuple[TrainState, Metrics]:
            s, segment = at_s
            numbers = s - warm + jnp.arange(warm)
            before = jax.tree.map(lambda x: x[jnp.maximum(numbers, 0)], whole)
            return of_windows.update(state, (numbers, before, segment))

        state = state._replace(carry=(state.carry, state.carry))
        state, metrics = jax.lax.scan(one, state, (jnp.arange(segments), whole))
        if rest:
            state, more = one(state, (segments, tree.slice_time(sequence, segments * k1, None)))
            metrics = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), metrics, more)
        return state._replace(carry=state.carry[1]), metrics

    return Trainer(of_windows.init, update)


def _checked(result: Any, carry: Carry) -> Any:
    try:
        value, (new_carry, metrics) = result
    except (TypeError, ValueError):
        got = check.describe(result)
        raise TypeError(f"loss: got {got}, expected (loss, (carry, metrics))") from None
    check.require(
        getattr(value, "shape", None) == (), "loss", check.describe(value), "a scalar array"
    )
    check.require_floating("loss", value.dtype)
    got = f"metrics of {type(metrics).__name__}"
    check.require(isinstance(metrics, Mapping), "loss", got, "a dict of arrays", TypeError)
    check.require_arrays(metrics=metrics)
    taken = sorted(metrics.keys() & OWN_METRICS)
    check.require(not taken, "loss", f"metrics named {taken}", "other names than the trainer's")
    check.require_same_tree("carry", new_carry, carry)
    return result
