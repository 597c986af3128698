"""RG-LRU, S5 and the selective SSM: how they start, closed forms, limits, what they refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance, inner, noise, run

import jaxrnn
from jaxrnn.cells import CELLS

KEY = jax.random.key(0)
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)


def is_finite(tree):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


def softplus(x):
    return np.logaddexp(0, x)


@pytest.mark.parametrize("name", ["rg_lru", "s5", "selective_ssm"])
@every_dtype
def test_the_state_is_wide_and_outputs_are_of_the_parameters_dtype(name, dtype):
    cell = dict(CELLS)[name](5)

    def outputs():
        return jaxrnn.unroll(cell, cell.init(KEY, 3, dtype), jnp.ones((4, 2, 3), dtype))

    carry, ys = jax.eval_shape(outputs)
    assert ys.dtype == dtype
    assert {jnp.finfo(c.dtype).bits for c in jax.tree.leaves(carry)} == {
        64 if dtype == jnp.float64 else 32
    }


# RG-LRU


def test_rg_lru_with_blocks_equals_numpy():
    cell = jaxrnn.rg_lru(6, num_blocks=3)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p, n: p + 0.3 * n, cell.init(KEY, 6, jnp.float64), noise(rng, cell.init(KEY, 6))
    )
    carry, xs = (
        jnp.asarray(rng.standard_normal((3, 6))),
        jnp.asarray(rng.standard_normal((7, 3, 6))),
    )
    got = jax.jit(jaxrnn.bptt, static_argnums=0)(cell, params, carry, xs)
    (last,), ys = run("rg_lru", {**params, "w_x": np.eye(6)}, carry, xs)
    assert distance(got, (last, ys)) < 1e-13


def test_rg_lru_has_the_gradient_of_its_blocks():
    cell = jaxrnn.rg_lru(6, num_blocks=3)
    args = (
        cell.init(KEY, 6, jnp.float64),
        jnp.ones((3, 6)),
        jnp.cos(jnp.arange(36.0)).reshape(2, 3, 6),
    )

    def gradient(loop):
        return jax.jit(jax.grad(lambda args: jnp.sum(loop(cell, *args)[1] ** 2)))(args)

    assert distance(gradient(jaxrnn.bptt), gradient(jaxrnn.scan)) < 1e-12


def test_rg_lru_starts_on_its_ring():
    params = jaxrnn.rg_lru(4000, num_blocks=100).init(KEY, 4000, jnp.float64)
    square = np.exp(-2 * softplus(np.asarray(params["a_param"])))
    low, high = 0.81, 0.999**2
    assert low <= square.min()
    assert square.max() <= high
    assert abs(square.mean() - (low + high) / 2) < 0.02 * (high - low)
    assert params["w_r"].shape == params["w_i"].shape == (100, 40, 40)
    assert abs(np.asarray(params["w_i"]).std() * 40**0.5 - 1) < 0.03


@pytest.mark.parametrize("where", ["a_param", "b_r"])
def test_rg_lru_has_finite_gradients_where_nothing_is_forgotten(where):
    """There a is 1, and √(1 - a²) has an infinite slope."""
    cell = jaxrnn.rg_lru(3)
    params = cell.init(KEY, 3, jnp.float32)
    params[where] = jnp.full_like(params[where], -1e4)
    xs, carry = jnp.ones((4, 2, 3), jnp.float32), jnp.full((2, 3), 0.3, jnp.float32)

    def value(params, carry, xs):
        last, ys = jaxrnn.bptt(cell, params, carry, xs)
        return jnp.sum(ys), last

    grads, last = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(params, carry, xs)
    assert (last == carry).all()
    assert is_finite(grads)
    assert (grads[1] == 4).all()
    assert all((g == 0).all() for g in jax.tree.leaves((grads[0], grads[2])))


def test_rg_lru_is_smooth_where_the_square_root_is_not():
    """dm/dΛ for m = √(1 - a²) at tiny -log a, where m is √(-2 log a)."""
    cell = jaxrnn.rg_lru(1)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY, 1, jnp.float64))

    def last(a_param):
        changed = {**params, "a_param": a_param[None]}
        return jaxrnn.bptt(cell, changed, jnp.zeros(1), jnp.ones((1, 1)))[0][0]

    # r = i = 1/2, softplus(Λ) = exp(Λ), so h = √(8 exp(Λ)) / 2 and dh/dΛ = h / 2.
    for a_param in (-30.0, -100.0, -600.0):
        h = math.sqrt(8 * math.exp(a_param)) / 2
        got = jax.value_and_grad(last)(jnp.float64(a_param))
        np.testing.assert_allclose(got, (h, h / 2), rtol=1e-9)


# S5


def hippo_n(size):
    """HiPPO-LegS plus P Pᵀ, by the formula of the paper."""
    n = np.arange(size)
    root = np.sqrt(2 * n + 1)
    legs = -np.where(n[:, None] > n, np.outer(root, root), np.diag(n + 1.0))
    return legs + np.outer(np.sqrt(n + 0.5), np.sqrt(n + 0.5))


def test_s5_starts_as_the_real_state_space_of_hippo():
    """In the basis of its states, discretised by a matrix exponential, with the draws of `init`."""
    inputs, hidden, size, step = 3, 2, 8, 0.07
    cell = jaxrnn.s5(hidden, size, num_blocks=2, conjugate_symmetry=False, dt_min=step, dt_max=step)
    params = cell.init(KEY, inputs, jnp.float64)
    key_b, key_re, _, _ = jax.random.split(KEY, 4)
    b = np.asarray(jax.random.normal(key_b, (inputs, size), jnp.float64)).T / inputs**0.5
    c = np.asarray(jax.random.normal(key_re, (hidden, size), jnp.float64)) / size**0.5
    a = np.kron(np.eye(2), hippo_n(4))
    decay = np.eye(size)
    for k in range(30, 0, -1):  # exp(A Δ) by its series
        decay = np.eye(size) + a @ decay * step / k
    driven = np.linalg.solve(a, (decay - np.eye(size)) @ b)
    us = np.sin(np.arange(18.0)).reshape(6, 3)
    x, wanted = np.zeros(size), []
    for u in us:
        x = decay @ x + driven @ u
        wanted.append(c @ x)
    assert distance(jaxrnn.unroll(cell, params, us)[1], np.stack(wanted)) < 1e-12


def test_s5_keeps_one_mode_of_each_conjugate_pair():
    whole = jaxrnn.s5(2, 8, conjugate_symmetry=False).init(KEY, 3, jnp.float64)
    half = jaxrnn.s5(2, 8).init(KEY, 3, jnp.float64)
    assert (half["lambda_im"] < 0).all()
    for sign, name in ((1, "lambda_re"), (-1, "lambda_im"), (1, "b_re"), (-1, "b_im")):
        both = np.concatenate([half[name], sign * np.flip(half[name], -1)], axis=-1)
        assert distance(both, np.asarray(whole[name])) < 1e-12


def test_s5_draws_its_time_steps_log_uniformly():
    step = np.asarray(jaxrnn.s5(1, 800, num_blocks=100).init(KEY, 1, jnp.float64)["log_step"])
    low, high = math.log(0.001), math.log(0.1)
    assert low <= step.min()
    assert step.max() <= high
    assert abs(step.mean() - (low + high) / 2) < 0.05 * (high - low)


@pytest.mark.parametrize("name", ["lambda_re", "log_step"])
def test_s5_integrates_where_a_mode_does_not_decay(name):
    """At Λ Δ = 0 the state is the sum of u Δ B; that (ā - 1) / Λ is 0 / 0 there does not matter."""
    cell = jaxrnn.s5(3, 6)
    params = cell.init(KEY, 2, jnp.float32)
    extreme = {"lambda_re": 0.0, "log_step": -1e4}[name]
    params |= {name: jnp.full_like(params[name], extreme), "lambda_im": jnp.zeros(3, jnp.float32)}
    xs = jnp.ones((4, 2), jnp.float32)

    def value(params, xs):
        last, ys = jaxrnn.bptt(cell, params, cell.initial_carry((), jnp.float32), xs)
        return jnp.sum(ys), last

    grads, last = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(params, xs)
    assert is_finite(grads)
    b = np.asarray(params["b_re"]) + 1j * np.asarray(params["b_im"])
    wanted = 4 * np.exp(np.asarray(params["log_step"], float)) * b.sum(0)
    np.testing.assert_allclose(last, wanted, rtol=1e-6)


# Selective SSM


def test_selective_ssm_starts_as_s4d_real_with_log_uniform_time_steps():
    cell = jaxrnn.selective_ssm(1000, 3)
    assert cell.dt_rank == 63
    p = jax.tree.map(np.asarray, cell.init(KEY, 1000, jnp.float64))
    np.testing.assert_allclose(np.exp(p["a_log"]), np.tile([1, 2, 3], (1000, 1)))
    assert (p["d"] == 1).all()
    log_dt, (low, high) = np.log(softplus(p["b_dt"])), (math.log(0.001), math.log(0.1))
    assert low - 1e-6 <= log_dt.min()
    assert log_dt.max() <= high + 1e-6
    assert abs(log_dt.mean() - (low + high) / 2) < 0.03 * (high - low)
    assert abs(p["w_dt_up"].std() * (3 * 63) ** 0.5 - 1) < 0.02
    assert abs(p["w_b"].std() * 1000**0.5 - 1) < 0.05


def test_selective_ssm_is_a_sum_over_all_earlier_inputs():
    """Without a projection, against the unrolled recurrence."""
    cell = jaxrnn.selective_ssm(3, 2, dt_rank=2)
    params = cell.init(KEY, 3, jnp.float64)
    us = np.sin(np.arange(18.0)).reshape(6, 3)
    p = jax.tree.map(np.asarray, params)
    dt = softplus(us @ p["w_dt_down"] @ p["w_dt_up"] + p["b_dt"])
    b, c, a = us @ p["w_b"], us @ p["w_c"], -np.exp(p["a_log"])
    wanted = [
        p["d"] * us[t]
        + sum(
            (np.exp(dt[s + 1 : t + 1].sum(0)[:, None] * a) @ (c[t] * b[s])) * dt[s] * us[s]
            for s in range(t + 1)
        )
        for t in range(6)
    ]
    assert distance(jaxrnn.unroll(cell, params, us)[1], np.stack(wanted)) < 1e-13


def test_what_selective_ssm_replaces_is_not_read_not_even_nan():
    cell = jaxrnn.selective_ssm(3, 2)
    params, xs = cell.init(KEY, 3, jnp.float64), jnp.ones((4, 5, 3))
    zero = cell.initial_carry((5,), jnp.float64)
    bad = zero._replace(c=zero.c + jnp.nan, u=zero.u + jnp.inf)

    def value(params, carry, xs):
        outputs = jaxrnn.bptt(cell, params, carry, xs)
        return inner(jax.tree.map(jnp.ones_like, outputs), outputs), outputs

    both = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))
    assert distance(both(params, bad, xs), both(params, zero, xs)) == 0


# What they refuse


@pytest.mark.usefixtures("own_messages")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: jaxrnn.rg_lru(0), ValueError, "hidden_size: got 0, expected an int of at least 1"),
        (
            lambda: jaxrnn.rg_lru(6, num_blocks=4),
            ValueError,
            "num_blocks: got 4, expected a divisor of 6, the hidden_size",
        ),
        (lambda: jaxrnn.rg_lru(6, c=0.0), ValueError, "c: got 0.0, expected a number above 0"),
        (lambda: jaxrnn.rg_lru(6, c=math.inf), ValueError, "c: got inf, expected a finite number"),
        (
            lambda: jaxrnn.rg_lru(6, input_projection=1),
            TypeError,
            "input_projection: got 1 of type int, expected a bool",
        ),
        (
            lambda: jaxrnn.rg_lru(6).init(KEY, 4),
            ValueError,
            "input_size: got 4, expected 6, the hidden_size, without input_projection",
        ),
        (
            lambda: jaxrnn.unroll(
                jaxrnn.rg_lru(2), jaxrnn.rg_lru(2).init(KEY, 2), jnp.ones((5, 3), jnp.float32)
            ),
            ValueError,
            "xs: got float32[5,3], expected a last axis of size 2 for rg_lru",
        ),
        (lambda: jaxrnn.s5(2, 3), ValueError, "state_size: got 3, expected a multiple of 2"),
        (
            lambda: jaxrnn.s5(2, 4, num_blocks=4),
            ValueError,
            "state_size: got 4, expected a multiple of 8",
        ),
        (
            lambda: jaxrnn.s5(2, 4, dt_min=0.1, dt_max=0.01),
            ValueError,
            "dt_min, dt_max: got 0.1, 0.01, expected 0 < dt_min <= dt_max",
        ),
        (
            lambda: jaxrnn.selective_ssm(2, 0),
            ValueError,
            "state_size: got 0, expected an int of at least 1",
        ),
        (
            lambda: jaxrnn.selective_ssm(2, dt_rank=0),
            ValueError,
            "dt_rank: got 0, expected an int of at least 1",
        ),
        (
            lambda: jaxrnn.selective_ssm(2).output(
                jaxrnn.selective_ssm(2).init(KEY, 2), (jnp.ones((2, 16)), jnp.ones(16), jnp.ones(2))
            ),
            TypeError,
            "carry: got a tuple of 3, expected an SSMCarry",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error) as raised:
        make()
    assert str(raised.value) == message
