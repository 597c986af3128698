"""Training with optax: one state, one pure step, the carry handed from segment to segment."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrnn import check
from jaxrnn.types import Carry, Params, PyTree

Metrics = Mapping[str, jax.Array]
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


def trainer(
    loss: Callable[..., tuple[jax.Array, tuple[Carry, Metrics]]],
    optimizer: optax.GradientTransformation,
) -> Trainer:
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
    check.function("loss", loss)
    is_optimizer = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    check.of_type("optimizer", optimizer, is_optimizer, "an optax optimizer")

    def init(params: Params, key: jax.Array, carry: Carry = None) -> TrainState:
        return TrainState(params, optimizer.init(params), carry, jnp.zeros((), jnp.int32), key)

    def update(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key, key_s = jax.random.split(state.key)

        def objective(params: Params) -> tuple[jax.Array, Any]:
            result = loss(params, state.carry, batch, key_s)
            _check_result(result, state.carry)
            return result

        (value, (carry, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "loss": value, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, carry, state.step + 1, key), metrics

    return Trainer(init, update)


def _check_result(result: Any, carry: Carry) -> None:
    try:
        value, (new_carry, metrics) = result
    except (TypeError, ValueError):
        got = check.describe(result)
        raise TypeError(f"loss: got {got}, expected (loss, (carry, metrics))") from None
    if getattr(value, "shape", None) != ():
        raise ValueError(f"loss: got {check.describe(value)}, expected a scalar array")
    check.floating("loss", value.dtype)
    if not isinstance(metrics, Mapping):
        raise TypeError(f"loss: got metrics of {type(metrics).__name__}, expected a dict of arrays")
    if taken := sorted(metrics.keys() & OWN_METRICS):
        raise ValueError(
            f"loss: got metrics named {taken}, expected other names than the trainer's"
        )
    check.same_tree("carry", new_carry, carry)
