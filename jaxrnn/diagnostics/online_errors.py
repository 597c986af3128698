"""Measures what online algorithms approximate: error, angle and memory of each."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.diagnostics.distance import as_vector, error_and_angle
from jaxrnn.loops.bptt import bptt
from jaxrnn.online import Learner
from jaxrnn.types import Carry, Key, Params, PyTree, Step


class OnlineError(NamedTuple):
    """The distance of a learner's gradient ĝ from the exact gradient g.

    Fields:
        error: ‖ĝ - g‖ / ‖g‖ over all parameters; NaN if g is zero.
        angle: the angle between ĝ and g, in degrees; NaN if either is zero.
        num_bytes: what the learner keeps of the influence.
    """

    error: float
    angle: float
    num_bytes: int


def online_errors(
    learners: Mapping[str, Learner],
    params: Params,
    carry: Carry,
    xs: PyTree,
    *,
    key: Key | None = None,
) -> dict[str, OnlineError]:
    """Compares the gradients of online algorithms with backpropagation through time.

    Args:
        learners: learners of one step, by name.
        params: the parameters of the step.
        carry: the carry before the first step.
        xs: the inputs of the step, `(T, *batch, ...)`.
        key: for learners that draw random numbers, which one draw judges.

    Returns:
        An `OnlineError` for each name. `online_errors` does not work under jit.

    Time: one update and its compilation for each learner, and the exact gradient.
    """
    is_mapping = isinstance(learners, Mapping)
    check.require_type(is_mapping, "learners", learners, "a dict of learners, by name")
    check.require_concrete(params=params, carry=carry, xs=xs)
    results: dict[str, OnlineError] = {}
    for name, learner in learners.items():
        place = f"learners[{name!r}]"
        check.require_instance(place, learner, Learner)
        exact = as_vector(_exact_gradient(learner.step, params, carry, xs))
        start = learner.init(params, carry, key=key if learner.needs_key else None)
        grads, state, _ = learner.update(params, start, xs)
        error, angle = error_and_angle(as_vector(grads), exact)
        num_bytes = sum(a.nbytes for a in jax.tree.leaves(state.influence))
        results[name] = OnlineError(error, angle, num_bytes)
    return results


def _exact_gradient(step: Step, params: Params, carry: Carry, xs: PyTree) -> Params:
    inexact, others = tree.split_inexact(params)

    def mean_loss(inexact: Params) -> jax.Array:
        _, losses = bptt(step, tree.merge_inexact(inexact, others), carry, xs)
        return jnp.mean(losses)

    return jax.jit(jax.grad(mean_loss))(inexact)
