"""Where a variant of the LSTM is the LSTM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance

import jaxrnn
from jaxrnn import LSTMCarry

T, B, I, H = 6, 3, 4, 5


def outputs_and_gradients(cell, params, carry, xs):
    def weighted(*args):
        last, ys = jaxrnn.bptt(cell, *args)
        return jnp.sum(jnp.cos(ys)) + jnp.sum(jnp.sin(last.c)), (last, ys)

    gradients, outputs = jax.grad(weighted, argnums=(0, 1, 2), has_aux=True)(params, carry, xs)
    return outputs, gradients


def drawn():
    rng = np.random.default_rng(0)
    params = jaxrnn.lstm(H).init(jax.random.key(0), I, jnp.float64)
    h, c = (jnp.asarray(rng.standard_normal((B, H))) for _ in "hc")
    return params, LSTMCarry(h, c), jnp.asarray(rng.standard_normal((T, B, I)))


def same_but_for(more, cell):
    """The cell's outputs and gradients with `more` params are the LSTM's, but for those of more."""
    params, carry, xs = drawn()
    got, (d_params, *d_rest) = outputs_and_gradients(cell, {**params, **more}, carry, xs)
    wanted, (d_wanted, *d_rest_wanted) = outputs_and_gradients(jaxrnn.lstm(H), params, carry, xs)
    assert distance(got, wanted) < 1e-13
    kept = {name: d_params[name] for name in params}
    assert distance((kept, d_rest), (d_wanted, d_rest_wanted)) < 1e-12
    assert all(np.any(d_params[name]) for name in more)  # zero is no point of rest


def test_a_peephole_lstm_starts_as_the_lstm():
    zeros = {name: jnp.zeros(H) for name in ("p_i", "p_f", "p_o")}
    cell = jaxrnn.peephole_lstm(H)
    start = cell.init(jax.random.key(0), I, jnp.float64)
    assert distance(start, {**drawn()[0], **zeros}) == 0
    same_but_for(zeros, cell)


def test_a_projection_by_the_identity_is_the_lstm():
    same_but_for({"w_p": jnp.eye(H)}, jaxrnn.projected_lstm(H, H))


def test_a_projection_may_be_wider_than_the_memory():
    cell = jaxrnn.projected_lstm(2, 3)
    params = cell.init(jax.random.key(0), I)
    assert (params["w_h"].shape, params["w_p"].shape) == ((3, 8), (2, 3))
    assert jaxrnn.unroll(cell, params, jnp.ones((T, I), jnp.float32))[1].shape == (T, 3)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("make", [jaxrnn.lstm, jaxrnn.peephole_lstm])
def test_a_memory_sums_up_in_float32(make, dtype):
    """c_t = c_{t-1} + 0.01: in bfloat16 it would stop at 2.5, where 0.01 is rounded away."""
    steps, cell = 1000, make(1)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1, dtype))
    params["b"] = jnp.asarray([20, 20, np.arctanh(0.01), 0], dtype)  # i = f = 1, g = 0.01
    xs = jnp.zeros((steps, 1), dtype)
    carry, ys = jaxrnn.unroll(cell, params, xs)
    assert (carry.h.dtype, carry.c.dtype, ys.dtype) == (dtype, jnp.float32, dtype)
    np.testing.assert_allclose(carry.c, steps * float(jnp.tanh(params["b"][2].astype(float))), 1e-4)


@pytest.mark.parametrize("cell_name", ["elman", "gru", "lstm"])
def test_bfloat16_is_as_exact_as_it_can_be(cell_name):
    certificate = jaxrnn.certify(dict(jaxrnn.CELLS)[cell_name](4), narrow_dtype=jnp.bfloat16)
    assert certificate.ok, str(certificate)
    errors = [row.error for row in certificate.rows if row.reference == "float64 (in bfloat16)"]
    assert max(errors) > 1e-3  # or it was no bfloat16


def test_narrow_params_may_have_a_start_that_is_learned_and_wide():
    """A reset's start rides beside the parameters, and does not make them wide."""
    cell = jaxrnn.lstm(H)
    params = cell.init(jax.random.key(0), I, jnp.bfloat16)
    start = jax.tree.map(lambda c: c + 0.5, cell.initial_carry((B,), jnp.bfloat16))
    xs, reset = jnp.ones((T, B, I), jnp.bfloat16), jnp.zeros((T, B), bool).at[2].set(True)

    def value(start):
        options = {"reset": reset, "reset_carry": start}
        return jnp.sum(jaxrnn.unroll(cell, params, xs, **options)[1].astype(jnp.float32))

    d_start = jax.grad(value)(start)
    assert jax.tree.map(lambda c: c.dtype, d_start) == jax.tree.map(lambda c: c.dtype, start)
    assert all(jnp.all(d != 0) for d in jax.tree.leaves(d_start))
