"""Steps in which an operation has a derivative of its own, mixes units late, or has no rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import problem
from reference import distance, noise

import jaxrnn
from jaxrnn import online

pytestmark = pytest.mark.usefixtures("own_messages")


@pytest.fixture(autouse=True)
def _ranks_of_users():
    """A user's step may rely on the promotion of ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


@jax.custom_jvp
def mixing_jvp(x):
    return jnp.tanh(x)


@mixing_jvp.defjvp
def _mixing_tangent(primals, tangents):
    (x,), (t,) = primals, tangents
    return jnp.tanh(x), t + jnp.sum(t, -1, keepdims=True) * x


@jax.custom_jvp
def no_value(x):
    return jnp.zeros_like(x)


@no_value.defjvp
def _tangent_of_no_value(primals, tangents):
    return jnp.zeros_like(primals[0]), 2 * tangents[0]


@jax.custom_vjp
def mixing_vjp(x):
    return jnp.tanh(x)


mixing_vjp.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g + jnp.sum(g * x, -1, keepdims=True),))


@pytest.mark.parametrize(
    "function", [mixing_jvp, no_value, mixing_vjp, jax.checkpoint(lambda x: 2 * mixing_vjp(x))]
)
def test_snap_follows_a_derivative_that_reaches_more_than_the_value(function):
    """`snap` computes J_t from masked products, which must keep what the derivative reads."""

    def step(params, h, x):
        h = 0.3 * h + jnp.tanh(function(h) @ params["w"] + params["b"] * x)
        return h, jnp.sum(h**3)

    f64 = jnp.float64
    params = {"w": jax.ShapeDtypeStruct((3, 3), f64), "b": jax.ShapeDtypeStruct((3,), f64)}
    likes = params, jax.ShapeDtypeStruct((3,), f64), jax.ShapeDtypeStruct((4, 3), f64)
    params, h, xs = noise(np.random.default_rng(0), likes)
    learner = online.snap(step)
    grads, _, _ = learner.update(params, learner.init(params, h), xs)

    flat = jax.jit(jax.jacobian(step, argnums=(0, 1)))
    s, total = {"w": np.zeros((3, 3, 3)), "b": np.zeros((3, 3))}, {"w": 0, "b": 0}
    pattern = {"w": np.eye(3)[:, None], "b": np.eye(3)}  # a weight's own unit
    for x in xs:
        (d, j), (d_loss, loss_h) = flat(params, h, x)
        for name in s:
            total[name] = total[name] + (d_loss[name] + np.tensordot(loss_h, s[name], 1)) / 4
            s[name] = pattern[name] * (np.tensordot(j, s[name], 1) + d[name])
        h = step(params, h, x)[0]
    assert distance(grads, total) < 1e-12


def after_normalization(params, carry, x):
    """Units mix on the way to the next carry and to the loss."""
    c, _ = carry
    c = params["decay"] * c + x
    h = c / jnp.sqrt(jnp.mean(c**2, -1, keepdims=True) + 1)
    return (c + 0.1 * h, h), jnp.sum(h**3, -1)


@pytest.mark.parametrize("name", ["layer_norm_lstm", "plain"])
def test_a_first_step_has_its_exact_gradient_in_eprop(name):
    """Nothing is dropped at step 1: e-prop cuts what the carry does, not what the weights do."""
    if name == "plain":
        rng = np.random.default_rng(0)
        draw = [jnp.asarray(rng.normal(size=n)) for n in (3, (2, 3), (2, 3), (1, 2, 3))]
        step, params, carry, xs = after_normalization, {"decay": draw[0]}, tuple(draw[1:3]), draw[3]
    else:
        step, params, carry, xs = problem(dict(jaxrnn.CELLS)[name](4), length=1)
    learner = online.eprop(step)
    grads, _, _ = learner.update(params, learner.init(params, carry), xs)
    wanted = jax.grad(lambda p: jnp.mean(jaxrnn.scan(step, p, carry, xs)[1]))(params)
    assert distance(grads, wanted) < 1e-12


@pytest.mark.parametrize(("cell_name", "per_weight"), [("elman", 0), ("lstm", 1)])
def test_eprop_keeps_only_what_acts_on_a_later_loss(cell_name, per_weight):
    """The influence on h of an LSTM is read through recurrent connections alone, which are cut."""
    step, params, carry, xs = problem(dict(jaxrnn.CELLS)[cell_name](4))
    state = online.eprop(step).init(params, carry, xs)
    num_weights = sum(p.size for p in jax.tree.leaves(params[0]))
    kept = sum(a[0].size for a in jax.tree.leaves(state.influence))
    assert kept == per_weight * num_weights


def test_a_unit_that_acts_on_the_loss_through_another():
    def step(params, carry, x):
        a, b = carry
        return (jnp.tanh(params * a + x), jnp.sin(a) + 0.5 * b), jnp.sum(b**3)

    rng = np.random.default_rng(0)
    params, *carry, xs = (jnp.asarray(rng.normal(size=n)) for n in (2, 2, 2, (5, 2)))
    learner = online.rtrl(step)
    grads, _, _ = learner.update(params, learner.init(params, tuple(carry)), xs)
    wanted = jax.grad(lambda p: jnp.mean(jaxrnn.scan(step, p, tuple(carry), xs)[1]))(params)
    assert distance(grads, wanted) < 1e-12


@pytest.mark.parametrize("learner", [online.rtrl, online.snap])
def test_no_rows_at_all(learner):
    step, params, carry, xs = problem(jaxrnn.elman(4), batch=(0,))
    learner = learner(step)
    grads, _, losses = learner.update(params, learner.init(params, carry), xs)
    assert losses.shape == (7, 0)
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_a_derivative_of_uoro_is_finite():
    step, params, carry, xs = problem(jaxrnn.elman(4))
    learner = online.uoro(step)

    def total(params):
        state = learner.init(params, carry, key=jax.random.key(0))
        return sum(jnp.sum(g) for g in jax.tree.leaves(learner.update(params, state, xs)[0]))

    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(jax.grad(total)(params)))


def test_a_state_without_the_key_of_its_learner():
    step, params, carry, xs = problem(jaxrnn.elman(4))
    state = online.rtrl(step).init(params, carry)
    with pytest.raises(TypeError, match=r"state\.key: got"):
        online.uoro(step).update(params, state, xs)
    state = online.uoro(step).init(params, carry, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"state\.key: got a key, expected None"):
        online.snap(step).update(params, state, xs)


def test_a_step_that_depends_on_the_size_of_the_batch():
    noise_of_rows = jnp.ones((2, 3))

    def step(params, h, x):
        h = jnp.tanh(params * h + x + noise_of_rows)
        return h, jnp.sum(h, -1)

    learner = online.rtrl(step)
    h = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"step: got carry and loss of one row.*size of the batch"):
        learner.update(jnp.ones(3), learner.init(jnp.ones(3), h), jnp.zeros((4, 2, 3)))
