"""Random truncation: exact in the mean, and only with the right factor."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance, inner, noise, windowed_scan

import jaxrnn

T, B, I, H = 8, 2, 3, 3
CELL = jaxrnn.gru(H)
STEPS = {"cell": CELL, "plain": lambda params, carry, x: CELL(params, carry, x)}


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        params = CELL.init(jax.random.key(0), I, jnp.float64)
        carry = noise(rng, CELL.initial_carry((B,), jnp.float64))
        xs = noise(rng, jax.ShapeDtypeStruct((T, B, I), jnp.float64))
        v = noise(rng, jax.eval_shape(functools.partial(jaxrnn.scan, CELL), params, carry, xs))
    return (params, carry, xs), v


def gradient(loop, step, args, v):
    return jax.grad(lambda args: inner(v, loop(step, *args)))(args)


def deviations(got, wanted):
    """By how many standard errors the mean of each number is off."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    errors = []
    for draws, exact in pairs:
        mean, spread = np.mean(draws, 0), np.std(draws, 0) / np.sqrt(len(draws))
        moved = spread > 1e-12
        np.testing.assert_allclose(mean[~moved], np.asarray(exact)[~moved], atol=1e-10)
        errors.append(((mean - exact) / np.where(moved, spread, 1))[moved])
    return np.concatenate(errors)


def draws(step, problem, keep, wrong=1.0):
    args, v = problem
    keys = jax.random.split(jax.random.key(1), 4000)

    def loop(key, step, params, carry, xs):
        crossing = jaxrnn.randomized(key, keep, loop=functools.partial(scaled, wrong))
        return crossing(step, params, carry, xs)

    def scaled(by, step, params, carry, xs):
        return jaxrnn.bptt(step, params, carry, xs._replace(factor=xs.factor * by))

    each = jax.jit(jax.vmap(lambda key: gradient(functools.partial(loop, key), step, args, v)))
    return each(keys)


@pytest.mark.parametrize("name", STEPS)
def test_the_mean_over_keys_is_the_exact_gradient(problem, name):
    exact = gradient(jaxrnn.scan, CELL, *problem)
    off = deviations(draws(STEPS[name], problem, 0.8), exact)
    assert np.abs(off).max() < 5
    assert 0.5 < np.sqrt(np.mean(off**2)) < 1.5  # and no larger than its standard error


def test_a_wrong_rescaling_is_seen(problem):
    exact = gradient(jaxrnn.scan, CELL, *problem)
    assert np.abs(deviations(draws(CELL, problem, 0.8, wrong=0.9), exact)).max() > 10


def test_the_variance_of_a_lag_is_as_stated():
    """A sum, c_t = c_{t-1} + x_t: the gradient for x_0 crosses T - 1 times, its value is 1."""

    def last(xs, key):
        loop = jaxrnn.randomized(key, 0.9)
        return loop(lambda params, c, x: (c + x, c), (), jnp.zeros(()), xs)[0]

    keys = jax.random.split(jax.random.key(0), 20000)
    each = jax.jit(jax.vmap(jax.grad(last), in_axes=(None, 0)))(jnp.zeros(5), keys)
    lags = np.arange(5)[::-1]
    np.testing.assert_allclose(np.var(each, 0), 0.9**-lags - 1.0, rtol=0.1, atol=1e-12)


@pytest.mark.parametrize("name", STEPS)
def test_one_draw_is_a_product_of_factors(problem, name):
    """Under `bptt` and under `scan` the same as a Python loop that scales what crosses."""
    args, v = problem
    key = jax.random.key(3)
    kept = np.asarray(jax.random.bernoulli(key, 0.6, (T,)))
    assert 1 < kept[1:].sum() < T - 1

    def scaling(params, carry, xs):
        factors = jnp.asarray(np.where(kept, 1 / 0.6, 0.0)).at[0].set(1.0)

        def step(params, carry, at_t):
            x, factor = at_t
            stopped = jax.lax.stop_gradient(carry)
            return CELL(params, stopped + factor * (carry - stopped), x)

        inputs = [(x, f) for x, f in zip(xs, factors, strict=True)]
        return windowed_scan(step, params, carry, jax.tree.map(lambda *s: jnp.stack(s), *inputs))

    wanted = jax.jit(jax.grad(lambda args: inner(v, scaling(*args))))(args)
    for inside in (jaxrnn.bptt, jaxrnn.scan, jaxrnn.checkpointed()):
        loop = jaxrnn.randomized(key, 0.6, loop=inside)
        got = jax.jit(functools.partial(gradient, loop, STEPS[name]))(args, v)
        assert distance(got, wanted) < 1e-12
        assert distance(loop(STEPS[name], *args), jaxrnn.scan(CELL, *args)) < 1e-13


def test_keeping_all_is_exact(problem):
    loop = jaxrnn.randomized(jax.random.key(0), 1.0)
    exact = gradient(jaxrnn.scan, CELL, *problem)
    assert distance(gradient(loop, CELL, *problem), exact) < 1e-12


@pytest.mark.parametrize("keep", [0, 0.0, -0.1, 1.5, float("nan"), True, "0.5"])
def test_what_is_no_probability_is_refused(own_messages, keep):
    with pytest.raises((TypeError, ValueError), match=r"keep_probability: got .*, expected"):
        jaxrnn.randomized(jax.random.key(0), keep)


def test_what_is_no_key_is_refused(own_messages):
    with pytest.raises(TypeError, match=r"key: got int, expected a key"):
        jaxrnn.randomized(0, 0.5)


def test_each_part_of_a_network_draws_for_itself():
    """A path that goes back in one layer and forth in another crosses the same step twice."""
    line = jaxrnn.elman(1, activation=lambda a: a)
    net = jaxrnn.stacked(jaxrnn.bidirectional(line, merge=jnp.add), line)
    one = {"w_x": jnp.ones((1, 1)), "w_h": jnp.ones((1, 1)), "b": jnp.zeros(1)}
    params, xs = (jaxrnn.Directions(one, one), one), jnp.array([[1.0], [2.0], [0.5], [3.0]])

    def gradient(loop):
        return jax.grad(lambda params: jaxrnn.unroll(net, params, xs, loop=loop)[1].sum())(params)

    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.jit(jax.vmap(lambda key: gradient(jaxrnn.randomized(key, 0.5))))(keys)
    exact = jax.tree.leaves(gradient(jaxrnn.scan))
    for drawn, wanted in zip(jax.tree.leaves(draws), exact, strict=True):
        error = np.abs(np.mean(drawn, 0) - wanted)
        assert np.all(error <= 4.5 * np.std(drawn, 0) / np.sqrt(len(keys)) + 1e-12)
