"""Training online: an optax update at every call, or every few steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrnn import check, tree
from jaxrnn.online.learner import Learner, OnlineState
from jaxrnn.training import Trainer, TrainState
from jaxrnn.training.trainers import Metrics
from jaxrnn.types import Array, Carry, Params, PyTree


class OnlineInputs(NamedTuple):
    """Inputs of a learner, with a mask and resets, as `Learner.update` takes them.

    Fields:
        xs: the inputs of the step, `(T, *batch, ...)`.
        mask: `(T, *batch)`, bool; None if all steps run.
        reset: `(T, *batch)`, bool; None if no sequence begins.
    """

    xs: PyTree
    mask: Array | None = None
    reset: Array | None = None


def trainer(
    learner: Learner, optimizer: optax.GradientTransformation, k: int | None = None
) -> Trainer:
    """Returns a trainer that updates the parameters while the sequence goes on.

    Every k steps,

        g, s', ℓ = learner.update(params, s, x_{t+1..t+k})                                     (1)
        params'  = params + optimizer(g)                                                       (2)

    where the gradient reaches through all past steps. The influence of steps before the last update
    is that of the parameters at that time, so the gradient is exact in the limit of small updates.

    Args:
        learner: such as `snap(step)`.
        optimizer: any optax transformation.
        k: the number of steps between updates, at least 1; defaults to all steps of a call. All
            updates of a call are one scan.

    Returns:
        A Trainer. `init(params, key, carry, xs=None)` takes the carry before the first step (see
        `Learner.init` for xs), and
        `update(state, xs)` the inputs of the step, `(T, *batch, ...)`, or `OnlineInputs`. At a
        reset the carry becomes the zero state of the step, which has to have one. The carry of the
        trainer's state is the learner's state. A learner that draws random numbers gets its key
        from that of the state. If k does not divide T, the last update has T mod k steps.

        Its metrics are "loss", the mean of the losses of an update, and "grad_norm"; `(⌈T/k⌉,)`
        each, and scalars if k is None.

    Raises:
        TypeError, ValueError: for an argument that does not fit; the message names it.

    Gradient: that of the learner. Time and memory: those of the learner, and of the optimizer at
    each update.
    """
    check.require_instance("learner", learner, Learner)
    is_optimizer = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    check.require_option_type("optimizer", optimizer, is_optimizer, "an optax optimizer")
    if k is not None:
        check.require_int("k", k, least=1)

    def init(params: Params, key: jax.Array, carry: Carry = None, xs: PyTree = None) -> TrainState:
        check.require_key("key", key)
        key, key_learner = jax.random.split(key)
        learner_key = key_learner if learner.needs_key else None
        learner_state = learner.init(params, carry, xs, key=learner_key)
        opt_state = optimizer.init(params)
        return TrainState(params, opt_state, learner_state, jnp.zeros((), jnp.int32), key)

    def update_once(state: TrainState, inputs: OnlineInputs) -> tuple[TrainState, Metrics]:
        xs, mask, reset = inputs
        grads, learner_state, losses = learner.update(
            state.params, state.carry, xs, mask=mask, reset=reset
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        count = losses.size if mask is None else jnp.sum(mask)
        loss = jnp.sum(losses) / jnp.maximum(count, 1).astype(losses.dtype)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, learner_state, state.step + 1, state.key), metrics

    def update(state: TrainState, xs: PyTree) -> tuple[TrainState, Metrics]:
        check.require_instance("state", state, TrainState)
        check.require_instance("state.carry", state.carry, OnlineState)
        inputs = xs if isinstance(xs, OnlineInputs) else OnlineInputs(xs)
        steps = check.num_steps(inputs)
        if k is None:
            return update_once(state, inputs)
        if state.carry.influence is None:
            # A scan needs the final structure of the state before its first step.
            start = learner.init(state.params, state.carry.carry, inputs.xs, key=state.carry.key)
            state = state._replace(carry=start)
        num_updates, rest = divmod(steps, k)
        full = tree.slice_time(inputs, 0, num_updates * k)
        parts = jax.tree.map(lambda x: jnp.reshape(x, (num_updates, k, *x.shape[1:])), full)
        state, metrics = jax.lax.scan(update_once, state, parts)
        if rest:
            state, last = update_once(state, tree.slice_time(inputs, num_updates * k, None))
            metrics = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), metrics, last)
        return state, metrics

    return Trainer(init, update)
