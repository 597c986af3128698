"""Updates by optax while the sequence goes on, and clear failure."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from problems import problem, steps_of
from reference import distance

import jaxrnn
from jaxrnn import online

pytestmark = pytest.mark.usefixtures("own_messages")


@pytest.mark.parametrize("k", [1, 3, 7])
def test_updates_every_k_steps(k):
    """As many updates as a loop over the calls would make."""
    step, params, carry, xs = problem(jaxrnn.gru(4))
    learner, optimizer = online.snap(step), optax.sgd(0.05, momentum=0.9)
    trainer = online.trainer(learner, optimizer, k)
    start = trainer.init(params, jax.random.key(0), carry)
    state, metrics = jax.jit(trainer.update)(start, xs)

    opt_state, by_hand, losses = optimizer.init(params), learner.init(params, carry), []
    for begin in range(0, 7, k):
        part = steps_of(xs, begin, min(begin + k, 7))
        grads, by_hand, of_part = learner.update(params, by_hand, part)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(jnp.mean(of_part))
    assert distance(state.params, params) < 1e-12
    assert distance(metrics["loss"], jnp.stack(losses)) < 1e-12
    assert metrics["grad_norm"].shape == (len(losses),)
    assert state.step == len(losses)


def test_an_update_for_each_call_and_a_learner_with_a_key():
    step, params, carry, xs = problem(jaxrnn.gru(4))
    trainer = online.trainer(online.uoro(step), optax.sgd(0.1))
    state = trainer.init(params, jax.random.key(0), carry)
    for _ in range(2):
        state, metrics = trainer.update(state, xs)
    assert state.step == 2
    assert metrics["loss"].shape == ()


def test_a_network_without_memory():
    step, params, carry, xs = problem(jaxrnn.stacked(jaxrnn.linear(4), jaxrnn.linear(3)))
    for learner in (online.rtrl(step), online.uoro(step)):
        key = jax.random.key(0) if learner.needs_key else None
        grads, state, _ = learner.update(params, learner.init(params, carry, key=key), xs)
        wanted = jax.grad(lambda p: jnp.mean(jaxrnn.scan(step, p, carry, xs)[1]))(params)
        assert distance(grads, wanted) < 1e-12
        assert sum(a.size for a in jax.tree.leaves(state.influence)) == 0


def test_a_step_with_several_features_a_row():
    """`conv_lstm`, whose carry is an image a row."""
    cell = dict(jaxrnn.CELLS)["conv_lstm"](2)
    rng = jax.random.key(0)
    params = cell.init(rng, 2, jnp.float64)
    carry = cell.initial_carry((2,), jnp.float64)
    xs = jax.random.normal(rng, (3, 2, *cell.feature_shape(2)), jnp.float64)

    def step(params, carry, x):
        carry, y = cell(params, carry, x)
        return carry, jnp.sum(jnp.square(y), axis=tuple(range(1, y.ndim)))

    learner = online.rtrl(step)
    grads, _, _ = learner.update(params, learner.init(params, carry), xs)
    wanted = jax.grad(lambda p: jnp.mean(jaxrnn.scan(step, p, carry, xs)[1]))(params)
    assert distance(grads, wanted) < 1e-12


class Arguments(NamedTuple):
    step: Any
    params: Any
    carry: Any
    xs: Any
    learner: Any

    def started(self, **options):
        return self.learner.init(self.params, self.carry, self.xs, **options)

    def update(self, **options):
        return self.learner.update(self.params, self.started(), self.xs, **options)


def whose_output_is_no_loss(a):
    learner = online.rtrl(jaxrnn.gru(4))
    return learner.update(a.params[0], learner.init(a.params[0], a.carry[0]), a.xs.xs)


def of_another_batch(a):
    one_row = jax.tree.map(lambda c: c[:1], a.carry)
    return a.learner.update(a.params, a.learner.init(a.params, one_row), a.xs)


def of_another_learner(a):
    state = online.rtrl(a.step).init(a.params, a.carry, a.xs)
    return a.learner.update(a.params, state, a.xs)


BAD_CALLS = {
    "no loss": (
        whose_output_is_no_loss,
        r"step: got the output float64\[2,4\], and xs is float64\[2,3\].*expected its loss",
    ),
    "another batch": (of_another_batch, r"carry\[0\]: got float64\[1,4\], expected float64\[2,4\]"),
    "another learner": (of_another_learner, r"state.influence.*expected .*that of snap\("),
    "no state": (lambda a: a.learner.update(a.params, a.carry, a.xs), "state: got"),
    "no key": (lambda a: online.uoro(a.step).init(a.params, a.carry), "key: got NoneType"),
    "a key too many": (
        lambda a: a.started(key=jax.random.key(0)),
        "key: got a key, expected None, since snap.* draws no random numbers",
    ),
    "too much memory": (
        lambda a: online.rtrl(a.step, memory_limit=1000).init(a.params, a.carry, a.xs),
        r"memory_limit: got [\d,]+ bytes for rtrl\(.*and 2 rows, expected at most 1,000",
    ),
    "an order of zero": (lambda a: online.snap(a.step, 0), "order: got 0"),
    "a mask of another batch": (
        lambda a: a.update(mask=jnp.ones((7, 3), bool)),
        r"mask: got bool\[7,3\], expected \[7, 2\], the axes of the losses",
    ),
    "a reset of numbers": (
        lambda a: a.update(reset=jnp.ones((7, 2))),
        r"reset: got float64\[7,2\], expected an array of bool",
    ),
    "a reset_carry alone": (
        lambda a: a.update(reset_carry=a.carry),
        "reset_carry: got a carry and no reset",
    ),
    "no learner": (lambda a: online.trainer(online.snap, optax.sgd(0.1)), "learner: got"),
    "no optimizer": (lambda a: online.trainer(a.learner, None), "optimizer: got None"),
    "no steps": (lambda a: online.trainer(a.learner, optax.sgd(0.1), 0), "k: got 0"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_is_an_error_of_ours(name):
    call, message = BAD_CALLS[name]
    step_problem = problem(jaxrnn.gru(4))
    with pytest.raises((TypeError, ValueError), match=message):
        call(Arguments(*step_problem, online.snap(step_problem.step)))


def test_more_units_than_a_table_of_them_allows():
    """`uoro` needs no such table."""

    def step(params, carry, x):
        carry = jnp.tanh(params * carry + x)
        return carry, jnp.sum(carry)

    params = jnp.ones(8193)
    for learner in (online.rtrl(step), online.eprop(step)):
        with pytest.raises(ValueError, match="step: got 8,193 numbers in a row of the carry"):
            learner.init(params, params, params[None])
    learner = online.uoro(step)
    learner.init(params, params, params[None], key=jax.random.key(0))
