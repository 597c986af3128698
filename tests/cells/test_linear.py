"""The cells that are linear in the state: closed forms, extreme gates, how the LRU starts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance

import jaxrnn

KEY = jax.random.key(0)


@pytest.mark.parametrize("make", [jaxrnn.min_gru, jaxrnn.min_lstm])
def test_gates_at_one_half_halve_the_distance_to_the_candidate(make):
    cell = make(2)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY, 3, jnp.float64))
    params["b"] = params["b"].at[-2:].set(5.0)  # n, the last gate
    hs = jaxrnn.unroll(cell, params, jnp.ones((6, 3)))[1]
    wanted = np.stack([[5 * (1 - 0.5**t)] * 2 for t in range(1, 7)])
    assert distance(hs, wanted) < 1e-15


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
@pytest.mark.parametrize(("b_f", "b_i", "kept"), [(-1e4, -1e4, 0.5), (-1e4, 0, 0), (0, -1e4, 1)])
def test_min_lstm_has_a_value_where_both_gates_underflow(dtype, b_f, b_i, kept):
    cell = jaxrnn.min_lstm(1)
    params = {"w_x": jnp.zeros((1, 3), dtype), "b": jnp.array([b_f, b_i, 0], dtype)}
    xs, carry = jnp.ones((1, 1), dtype), jnp.ones(1, dtype)
    last, grads = jax.value_and_grad(lambda p: jaxrnn.unroll(cell, p, xs, carry=carry)[0][0])(
        params
    )
    assert last == kept
    assert all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads))


def test_lru_is_the_convolution_with_powers_of_its_eigenvalues():
    cell = jaxrnn.lru(5, 2)
    params = cell.init(KEY, 3, jnp.float64)
    us = np.sin(np.arange(24.0)).reshape(8, 3)
    p = jax.tree.map(np.asarray, params)
    a = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    b, c = p["b_re"] + 1j * p["b_im"], p["c_re"] + 1j * p["c_im"]
    driven = np.exp(p["gamma_log"]) * (us @ b)
    wanted = [sum((a**k * driven[t - k]) @ c for k in range(t + 1)).real for t in range(8)]
    ys = jaxrnn.unroll(cell, params, us)[1]
    assert ys.shape == (8, 2)
    assert distance(ys, np.stack(wanted)) < 1e-13


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_the_state_of_lru_is_complex_and_its_outputs_are_of_the_parameters_dtype(dtype):
    cell = jaxrnn.lru(5)
    wanted = jnp.complex128 if dtype == jnp.float64 else jnp.complex64
    carry, ys = jaxrnn.unroll(cell, cell.init(KEY, 3, dtype), jnp.ones((4, 2, 3), dtype))
    assert (carry.dtype, ys.dtype) == (wanted, dtype)


def test_lru_starts_on_a_ring_by_area_with_unit_gain_for_noise():
    cell = jaxrnn.lru(4000, r_min=0.5, r_max=0.9, max_phase=math.pi / 10)
    p = jax.tree.map(np.asarray, cell.init(KEY, 50, jnp.float64))
    square, phase = np.exp(-2 * np.exp(p["nu_log"])), np.exp(p["theta_log"])
    for drawn, low, high in ((square, 0.25, 0.81), (phase, 0.0, math.pi / 10)):
        assert low <= drawn.min()
        assert drawn.max() <= high
        assert abs(drawn.mean() - (low + high) / 2) < 0.02 * (high - low)
        assert abs(drawn.std() - (high - low) / 12**0.5) < 0.02 * (high - low)
    np.testing.assert_allclose(np.exp(2 * p["gamma_log"]), 1 - square, rtol=1e-12)
    assert abs(p["b_re"].std() * 10 - 1) < 0.03
    small = jaxrnn.lru(400).init(KEY, 3, jnp.float64)
    assert abs(small["c_im"].std() * 20 - 1) < 0.03


@pytest.mark.usefixtures("own_messages")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"r_min": 0.5, "r_max": 0.5}, ValueError, "r_min, r_max: got 0.5, 0.5, expected 0 <= r_m"),
        ({"r_min": -0.1}, ValueError, "r_min, r_max: got -0.1, 1.0, expected 0 <= r_min < r_max"),
        ({"r_max": 1.1}, ValueError, "r_min, r_max: got 0.0, 1.1, expected 0 <= r_min < r_max <="),
        ({"r_min": math.nan}, ValueError, "r_min, r_max: got nan, 1.0, expected 0 <= r_min < r_m"),
        ({"r_min": "0"}, TypeError, "r_min: got '0' of type str, expected a number"),
        ({"max_phase": 0}, ValueError, "max_phase: got 0.0, expected a number in (0, 2π]"),
        ({"max_phase": 7.0}, ValueError, "max_phase: got 7.0, expected a number in (0, 2π]"),
        ({"output_size": 0}, ValueError, "output_size: got 0, expected an int of at least 1"),
    ],
)
def test_lru_refuses(options, error, message):
    with pytest.raises(error) as raised:
        jaxrnn.lru(3, **options)
    assert str(raised.value).startswith(message)
