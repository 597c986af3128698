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
from jaxrnn.loops.derived import regions
from jaxrnn.loops.derived.recurrence import Recurrence
from jaxrnn.loops.scans import UnrolledScan

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


def sunk_inputs(p, carry, x):
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
    "handed on": (sunk_inputs, DENSE, (XS[0], DENSE["b"], 1.0, H0)),
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
        outputs = loop(step, params, tree.merge_inexact(inexact, others), xs)
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


def taken_apart(step, params, carry, xs):
    traced = derived._traced(step, params, carry, xs)
    parts = regions.classify(traced.jaxpr, len(traced.parameters), len(traced.carry))
    return Recurrence(parts, UnrolledScan(1))


def parts_of(name):
    return taken_apart(*STEPS[name], XS).regions


def made_by(eqns):
    return [eqn.primitive.name for eqn in eqns]


def shapes(variables):
    return sorted(v.aval.shape for v in variables)


def test_products_with_inputs_run_ahead_and_readouts_run_late():
    parts = parts_of("readout")
    assert made_by(parts.hoisted) == ["dot_general"]
    assert made_by(parts.recurrent).count("dot_general") == 1
    assert made_by(parts.sunk).count("dot_general") == 1
    assert made_by(parts.sunk).count("exp") == 1
    assert parts.sunk_inputs == parts.carry_out  # the readout needs the carry alone


def test_the_least_is_handed_on_to_what_runs_late():
    """One output is less than the gate and the state that it is made of."""
    parts = parts_of("not of the carry alone")
    assert parts.sunk_inputs == parts.outputs
    assert "sin" in made_by(parts.recurrent)


def test_branches_and_searches_stay_in_order():
    assert {"cond", "while"} <= set(made_by(parts_of("nested").recurrent))


def test_delta_is_taken_after_what_is_linear():
    (delta,) = taken_apart(*STEPS["dense"], XS).exits.cut
    assert delta.aval.shape == (B, H)
    # After each product, so that neither has to be made again for the other's gradient.
    assert shapes(taken_apart(*STEPS["low rank"], XS).exits.cut) == [(B, 2), (B, H)]


S = 6  # slots of a memory
MEMORY = normal("memory", S, B, H)


def attending(p, carry, x):
    """A memory that rides in the carry unchanged."""
    h, memory = carry
    weights = jax.nn.softmax(jnp.einsum("bh,sbh->sb", h @ p["w"], memory), 0)
    h = jnp.tanh(x @ p["u"] + jnp.einsum("sb,sbh->bh", weights, memory))
    return (h, memory), h


def attending_where(p, carry, x):
    """The same behind a choice between the memory and itself, as a mask makes one."""
    (h, memory), y = attending(p, carry, x)
    return (h, jnp.where(jnp.sum(x) > 0, memory, carry[1])), y


def attending_with_tanh(p, carry, x):
    """Every slot goes through a tanh at every step, with parameters as large as the memory."""
    h, memory = carry
    energy = jnp.tanh(memory + h @ p["w"]) @ p["b"]
    h = jnp.tanh(x @ p["u"] + jnp.einsum("sb,sbh->bh", jax.nn.softmax(energy, 0), memory))
    return (h, memory), h


def buffered(p, carry, x):
    """A buffer written round and round, of which no value but the one that is read is needed."""
    buffer, i = carry
    late = lax.dynamic_index_in_dim(buffer, (i + 1) % S, keepdims=False)
    h = jnp.tanh(late @ p["w"] + x @ p["u"])
    return (lax.dynamic_update_index_in_dim(buffer, h, i % S, 0), i + 1), h


def with_a_matrix(p, state, x):
    """A state of outer products, read by a product of two states."""
    k, v = x @ p["u"], jnp.sin(x @ p["u"])
    state = jax.nn.sigmoid(k)[..., None] * state + k[..., None] * v[:, None]
    return state, jnp.einsum("bi,bij->bj", k, state)


def with_slots(p, carry, x):
    """Erase and add."""
    h, memory = carry
    at = jax.nn.softmax(h @ p["w"], -1)
    h = jnp.tanh(x @ p["u"] + jnp.einsum("bs,bsw->bw", at, memory))
    memory = memory * (1 - at[..., None] * jax.nn.sigmoid(h)[:, None]) + at[..., None] * h[:, None]
    return (h, memory), h


def cached(p, carry, x):
    """Attention over all keys so far."""
    keys, i = carry
    keys = lax.dynamic_update_index_in_dim(keys, x @ p["u"], i, 0)
    weights = jax.nn.softmax(jnp.einsum("bh,tbh->tb", x @ p["u"], keys), 0)
    return (keys, i + 1), jnp.einsum("tb,tbh->bh", weights, keys)


def convolved(p, h, x):
    kernel = lax.broadcast_in_dim(p["b"][:3], (3, 1, 1), (0,))
    form = ("NHC", "HIO", "NHC")
    product = lax.conv_general_dilated(h[..., None], kernel, (1,), "SAME", dimension_numbers=form)
    h = jnp.tanh(product[..., 0] + x @ p["u"])
    return h, h


def looping(p, h, x):
    """Parameters inside a nested loop, whose gradients have to be summed inside the outer one."""
    h, _ = lax.scan(lambda h, _: (jnp.tanh(x @ p["u"] + h @ p["w"]), None), h, length=2)
    return h, h


def two_states(p, carry, x):
    """States that change places: neither is handed on as it is."""
    a, b = carry
    return (b, jnp.tanh(a @ p["w"] + x @ p["u"])), a * b


def own_rule(p, h, x):
    h = doubled(jnp.tanh(h @ p["w"] + x @ p["u"]))
    return h, h


@jax.custom_vjp
def doubled(x):
    return jnp.sin(x)


doubled.defvjp(lambda x: (jnp.sin(x), x), lambda x, d: (2 * d * x,))  # no derivative of a sine


def scaled(p, h, x):
    """A gain behind a function that is not linear, and an input times a state."""
    h = jnp.tanh(h @ p["w"]) * p["b"] + h * (x @ p["u"])
    return h, jnp.max(h, -1)


def twice(p, carry, x):
    """The same state in two places of the carry, one of which is read, and an output too."""
    _, last = carry
    h = jnp.tanh(last @ p["w"] + x @ p["u"])
    return (h, h), h


def product_and_inner_loop(p, h, x):
    """A matrix in a product of the step and in a loop inside it."""
    h = lax.fori_loop(0, 2, lambda _, n: jnp.tanh(n @ p["w"] + x @ p["u"]), h @ p["w"])
    return h, h


def product_and_branch(p, h, x):
    h = lax.cond(jnp.sum(h) > 0, lambda h: jnp.tanh(h @ p["w"]), jnp.sin, h @ p["w"])
    h = h + x @ p["u"]
    return h, h


def product_and_remat(p, h, x):
    h = jnp.tanh(h @ p["w"] + x @ p["u"])
    h = jax.checkpoint(lambda h: jnp.tanh(h @ p["w"]))(h)
    return h, h


def product_and_carry(p, carry, x):
    """A matrix that is a carry of the next step, too."""
    w, h = carry
    return (p["w"], jnp.tanh(h @ p["w"] + x @ p["u"] + h @ w)), h


def spiking(p, h, x):
    """The left side of a product has no gradient."""
    h = 0.9 * h + x @ p["u"] + (h > 0).astype(h.dtype) @ p["w"]
    return h, jax.nn.one_hot(jnp.argmax(h, 1), H) @ p["w"]


def stopped(p, h, x):
    h = jnp.tanh(lax.stop_gradient(h) @ p["w"] + x @ p["u"])
    return h, h


def searched_for_outputs(p, h, x):
    """Searches, which have no backward pass, where none is needed."""
    h = jnp.tanh(h @ p["w"] + x @ p["u"])
    found = lax.while_loop(lambda c: jnp.sum(c) < 3, lambda c: c + 1, h * h)
    also = lax.while_loop(lambda c: jnp.sum(c) < 3, lambda c: c + 1, x * x)
    return h, (lax.stop_gradient(found), lax.stop_gradient(also), jnp.round(found).astype(int))


@jax.custom_jvp
def branching_rule(x):
    return lax.cond(jnp.sum(x) > 0, jnp.sin, lambda x: 2 * x, x)


def with_a_branching_rule(p, h, x):
    h = jnp.tanh(h @ p["w"] + branching_rule(x @ p["u"]))
    return h, h


branching_rule.defjvp(
    lambda p, t: jax.jvp(lambda x: lax.cond(jnp.sum(x) > 0, jnp.sin, lambda x: 2 * x, x), p, t)
)


def called_back(p, h, x):
    """A function of Python that has no batched form."""
    whole = jnp.round(x).astype(jnp.int32)
    form = jax.ShapeDtypeStruct(whole.shape, whole.dtype)
    twice = jax.pure_callback(lambda v: (2 * np.asarray(v)).astype(form.dtype), form, whole)
    h = jnp.tanh(h @ p["w"] + (x + twice) @ p["u"])
    return h, h


ZERO = np.zeros((), int)
CARRYING = {
    "attending": (attending, DENSE, (H0, MEMORY)),
    "attending where": (attending_where, DENSE, (H0, MEMORY)),
    "attending with tanh": (attending_with_tanh, DENSE, (H0, MEMORY)),
    "buffer": (buffered, DENSE, (MEMORY, ZERO)),
    "matrix": (with_a_matrix, DENSE, normal("matrix", B, H, H)),
    "slots": (with_slots, DENSE, (H0, normal("slots", B, H, H))),
    "cache": (cached, DENSE, (normal("cache", T, B, H), ZERO)),
    "convolution": (convolved, DENSE, H0),
    "inner loop": (looping, DENSE, H0),
    "twice": (twice, DENSE, (H0, H0 + 1)),
    "two states": (two_states, DENSE, (H0, H0 + 1)),
    "own rule": (own_rule, DENSE, H0),
    "scaled": (scaled, DENSE, H0),
    "product and inner loop": (product_and_inner_loop, DENSE, H0),
    "product and branch": (product_and_branch, DENSE, H0),
    "product and remat": (product_and_remat, DENSE, H0),
    "product and carry": (product_and_carry, DENSE, (DENSE["w"], H0)),
    "spiking": (spiking, DENSE, H0),
    "stopped": (stopped, DENSE, H0),
    "searched for outputs": (searched_for_outputs, DENSE, H0),
    "branching rule": (with_a_branching_rule, DENSE, H0),
    "called back": (called_back, DENSE, H0),
}
STEPS |= CARRYING


@pytest.mark.parametrize("name", CARRYING)
@pytest.mark.parametrize("steps", [0, 1, T])
def test_what_rides_in_the_carry_has_the_gradient_of_autodiff(name, steps):
    got, wanted = (result(loop, name, XS[:steps]) for loop in (jaxrnn.bptt, jaxrnn.scan))
    chex.assert_trees_all_close(got, wanted, rtol=1e-12, atol=1e-14)


# Neither a rule of its own nor a callback has a second derivative, nor has a search one here.
FIRST_ORDER = {"own rule", "called back", "searched for outputs"}


@pytest.mark.parametrize("name", sorted(CARRYING.keys() - FIRST_ORDER))
def test_what_rides_in_the_carry_has_a_gradient_of_its_gradient(name):
    step, params, carry = STEPS[name]
    inexact, others = tree.split_inexact(carry)

    def slope(loop, args):
        def value(params, inexact, xs):
            return weighted(loop(step, params, tree.merge_inexact(inexact, others), xs))

        return weighted(jax.grad(lambda args: value(*args))(args))

    got, wanted = (
        jax.jit(jax.grad(functools.partial(slope, loop)))((params, inexact, XS))
        for loop in (jaxrnn.bptt, jaxrnn.scan)
    )
    chex.assert_trees_all_close(got, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", CARRYING)
def test_what_rides_in_the_carry_goes_through_segments(name):
    got, wanted = (
        result(loop, name)
        for loop in (
            jaxrnn.checkpointed(segment_length=3),
            jaxrnn.checkpointed(segment_length=3, loop=jaxrnn.scan),
        )
    )
    chex.assert_trees_all_close(got, wanted, rtol=1e-12, atol=1e-14)


# Of all that is kept, what is as large as a memory, and single numbers.
KEPT = {
    "attending": [],  # never the memory
    "attending where": [],
    "attending with tanh": [(S, B, H)],  # the one tanh that is as large as the memory
    "buffer": [()],  # where it was read; not the buffer
    "matrix": [(B, H, H)],  # the state before, once; not what is added to it
    "cache": [(), (T, B, H)],
}


@pytest.mark.parametrize("name", KEPT)
def test_no_more_is_kept_than_the_backward_pass_needs(name):
    kept = shapes(taken_apart(*STEPS[name], XS).linearized.kept)
    assert [shape for shape in kept if len(shape) > 2 or shape == ()] == KEPT[name]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_of_every_kind_draw_the_same_numbers(impl):
    keys = jax.random.split(jax.random.key(0, impl=impl), T)

    def step(p, h, x):
        x, key = x
        h, _ = dense(p, h, x * jax.random.bernoulli(key, 0.5, x.shape))
        return h, h + jax.random.normal(jax.random.fold_in(key, 1), h.shape)

    got, wanted = (loop(step, DENSE, H0, (XS, keys)) for loop in (jaxrnn.bptt, jaxrnn.scan))
    chex.assert_trees_all_close(got, wanted, rtol=1e-13)


def test_settings_under_which_a_step_was_traced_hold():
    def step(p, h, x):
        with jax.threefry_partitionable(False):
            h, _ = dense(p, h, x + jax.random.normal(jax.random.key(1), x.shape))
        return h, h

    got, wanted = (loop(step, DENSE, H0, XS) for loop in (jaxrnn.bptt, jaxrnn.scan))
    chex.assert_trees_all_close(got, wanted, rtol=1e-13)


def test_an_unchanged_array_of_the_carry_is_a_parameter():
    parts = parts_of("attending where")
    assert shapes(parts.carry_in) == [(B, H)]
    assert (S, B, H) in shapes(parts.parameters)


def test_a_large_parameter_has_its_gradient_summed_inside_the_loop():
    exits = taken_apart(*STEPS["attending with tanh"], XS).exits
    assert (S, B, H) in shapes(exits.summed)
    assert (S, B, H) not in shapes(exits.computed)
    exits = taken_apart(*STEPS["inner loop"], XS).exits
    assert shapes(exits.summed) == [(I, H), (H, H)]


def test_an_outer_product_of_inputs_is_made_inside_the_loop():
    assert (B, H, H) not in shapes(parts_of("matrix").stepwise)


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
