"""What `bptt` makes of a plain step: exact for any step, and in order only what has to be."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxrnn
from jaxrnn import check, tree
from jaxrnn.loops import derived

T, B, I, H = 7, 3, 4, 5


@pytest.fixture(autouse=True)
def _promoting():
    """Steps are written as people write them."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def normal(name, *shape):
    return np.random.default_rng(sum(map(ord, name))).normal(size=shape) / 2


def weights(**shapes):
    return {name: normal(name, *shape) for name, shape in shapes.items()}


XS = normal("xs", T, B, I)
H0 = normal("h", B, H)
DENSE = weights(u=(I, H), w=(H, H), b=(H,))


def dense(p, h, x):
    h = jnp.tanh(x @ p["u"] + h @ p["w"] + p["b"])
    return h, h


def with_readout(p, h, x):
    h, _ = dense(p, h, x)
    return h, jnp.exp(h @ p["v"] + x)


def not_of_the_carry_alone(p, h, x):
    """The output needs the state before, a gate, and an input."""
    gate = jax.nn.sigmoid(h @ p["w"])
    return gate * h + x @ p["u"], jnp.sin(gate) * (x @ p["u"]) + h


def low_rank(p, h, x):
    h = jnp.tanh(h @ p["down"] @ p["up"] + x @ p["u"])
    return h, jnp.sum(h, axis=-1)


def layer_normed(p, h, x):
    a = jnp.concatenate([x, h], axis=-1) @ p["w"]
    a = a - jnp.mean(a, axis=-1, keepdims=True)
    h = h + jax.nn.relu(a * lax.rsqrt(jnp.mean(a * a, axis=-1, keepdims=True) + 0.1) * p["scale"])
    return h, h


def nested(p, h, x):
    """A loop inside a step, a branch, a search, a call of jit, a function with its own gradient."""
    h = lax.fori_loop(0, 2, lambda _, h: jnp.tanh(h @ p["w"]), h)
    h = lax.cond(jnp.sum(x) > 0, lambda h: h * p["b"], jnp.sin, h)
    size = lax.while_loop(lambda s: s < jnp.sum(lax.stop_gradient(x * x)), lambda s: 2 * s, 1.0)
    h = jax.jit(lambda h, x: jnp.log1p(h * h) + x @ p["u"] / size)(h, x)
    return h, jax.nn.logsumexp(jax.nn.silu(h), axis=-1)


def linear(p, h, x):
    h = h @ p["w"] + x @ p["u"]
    return h, h


def shared_twice(p, h, x):
    """F goes both on to F and elsewhere: what arrives there must not be counted twice."""
    a = h @ p["w"] + p["b"]
    c = a + x @ p["u"]
    return jnp.tanh(c) * jax.nn.sigmoid(a), a + 2 * c


def handed_on(p, carry, x):
    """A carry that is the input, one that is a parameter, one that is a number, one that stays."""
    last, own, one, kept = carry
    return (x, p["b"], 1.0, kept), last @ p["u"] * own + one + kept @ p["w"]


def with_a_key(p, carry, x):
    h, key, count = carry
    key, own = jax.random.split(key)
    h, _ = dense(p, h, x)
    h = h * jax.random.bernoulli(own, 0.7, h.shape)
    return (h, key, count + 1), (h + jax.random.normal(own, h.shape), count)


def without_inputs(p, h, x):
    return jnp.tanh(h @ p["w"]), h


def without_parameters(p, h, x):
    return jnp.tanh(h + x @ jnp.ones((I, H))), jnp.zeros(())


def of_its_inputs_alone(p, h, x):
    return h, jnp.tanh(x @ p["u"])


def with_states_product(p, h, x):
    """A product of two states, as in attention."""
    return jnp.tanh((h @ h.T) @ h @ p["w"] + x @ p["u"]), h @ h.T


MIXED = weights(w=(I + H, H), scale=(H,))
READING = {**DENSE, **weights(v=(H, I))}
KEYED = (H0, jax.random.key(1), np.zeros((), int))
STEPS = {
    "dense": (dense, DENSE, H0),
    "readout": (with_readout, READING, H0),
    "not of the carry alone": (not_of_the_carry_alone, DENSE, H0),
    "low rank": (low_rank, weights(u=(I, H), down=(H, 2), up=(2, H)), H0),
    "layer norm": (layer_normed, MIXED, H0),
    "nested": (nested, DENSE, H0),
    "linear": (linear, DENSE, H0),
    "shared twice": (shared_twice, DENSE, H0),
    "handed on": (handed_on, DENSE, (XS[0], DENSE["b"], 1.0, H0)),
    "key": (with_a_key, DENSE, KEYED),
    "no inputs": (without_inputs, DENSE, H0),
    "no parameters": (without_parameters, (), H0),
    "inputs alone": (of_its_inputs_alone, DENSE, H0),
    "states' product": (with_states_product, DENSE, H0),
}
every_step = pytest.mark.parametrize("name", STEPS)


def weighted(outputs):
    """A scalar that every output enters in another way."""
    inexact = [x for x in jax.tree.leaves(outputs) if check.is_inexact(x)]
    return sum(jnp.sum(jnp.cos(jnp.arange(x.size) + 1.0) * jnp.ravel(x)) for x in inexact)


def result(loop, name, xs=XS):
    step, params, carry = STEPS[name]
    inexact, others = tree.split_inexact(carry)

    def value(params, inexact, xs):
        outputs = loop(step, params, tree.merge(inexact, others), xs)
        return weighted(outputs), outputs

    grads, outputs = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(params, inexact, xs)
    return grads, [x for x in jax.tree.leaves(outputs) if check.is_inexact(x)]


@every_step
@pytest.mark.parametrize("steps", [0, 1, T])
def test_values_and_gradient_equal_autodiff(name, steps):
    got, wanted = (result(loop, name, XS[:steps]) for loop in (jaxrnn.bptt, jaxrnn.scan))
    chex.assert_trees_all_close(got, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["readout", "layer norm", "shared twice", "states' product"])
def test_gradient_of_a_gradient_equals_autodiff(name):
    step, params, carry = STEPS[name]

    def slope(loop, args):
        return weighted(jax.grad(lambda args: weighted(loop(step, *args)))(args))

    got, wanted = (
        jax.jit(jax.grad(functools.partial(slope, loop)))((params, carry, XS))
        for loop in (jaxrnn.bptt, jaxrnn.scan)
    )
    chex.assert_trees_all_close(got, wanted, rtol=1e-11, atol=1e-13)


def plan_of(name):
    step, params, carry = STEPS[name]
    x = check.at_one_step(XS)
    jaxpr, own, form = derived._flat(step, params, carry, x)
    return derived.Recurrence(jaxpr, len(own), form)


def made_by(eqns):
    return [eqn.primitive.name for eqn in eqns]


def test_products_with_inputs_run_ahead_and_readouts_run_late():
    plan = plan_of("readout")
    assert made_by(plan.ahead) == ["dot_general"]
    assert made_by(plan.loop).count("dot_general") == 1
    assert made_by(plan.late).count("dot_general") == 1
    assert made_by(plan.late).count("exp") == 1
    assert plan.extras == []  # the readout needs the carry alone


def test_what_an_output_needs_beside_the_carry_is_handed_on():
    plan = plan_of("not of the carry alone")
    shapes = sorted(v.aval.shape for v in plan.extras)
    assert shapes == [(B, H), (B, H)]  # the gate, and the state before
    assert "sin" in made_by(plan.late)


def test_branches_and_searches_stay_in_order():
    assert {"cond", "while"} <= set(made_by(plan_of("nested").loop))


def test_delta_is_taken_after_what_is_linear():
    (delta,) = plan_of("dense").cut
    assert delta.aval.shape == (B, H)
    (delta,) = plan_of("low rank").cut  # after both products, and the input's share
    assert delta.aval.shape == (B, H)


def test_a_product_runs_once_each_way():
    """In the loops: one product forward, one backward, none of them for a weight's gradient."""
    step, params, carry = STEPS["dense"]

    def value(*args):
        return weighted(jaxrnn.bptt(step, *args))

    grad = jax.jit(jax.grad(value, argnums=(0, 1, 2)))
    text = grad.lower(params, carry, XS).compile().as_text()
    bodies = [part for part in text.split("\n\n") if "while/body" in part]
    products = [line for part in bodies for line in part.splitlines() if " dot(" in line]
    assert len(products) == 2


def test_a_step_is_not_traced_for_each_part():
    traced = []

    def step(p, h, x):
        traced.append(1)
        return dense(p, h, x)

    jax.jit(jax.grad(lambda p: weighted(jaxrnn.bptt(step, p, H0, XS))))(DENSE)
    assert len(traced) <= 2  # its shapes are looked at, then it is taken apart


def test_it_is_the_same_program_each_time():
    """What is remembered has an order of its own, so that compiled programs can be kept."""
    step, params, carry = STEPS["nested"]

    def text():
        grad = jax.grad(lambda p: weighted(jaxrnn.bptt(step, p, carry, XS)))
        return jax.jit(grad).lower(params).as_text()

    assert text() == text()


def test_what_is_known_is_not_made_again():
    made, known = jnp.array(3.0), jnp.array(5.0)
    value, slope = jax.jvp(lambda x: derived._known(x * x, known), (made,), (1.0,))
    np.testing.assert_array_equal([value, slope], [5.0, 6.0])
