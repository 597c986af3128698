"""Layer normalisation and its adjoint; what its cells do with rows that do not vary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance, often

import jaxrnn
from jaxrnn.cells.norm import normalize

EPSILON = 1e-5
DTYPES = ["float16", "bfloat16", "float32", "float64"]
MAKERS = [jaxrnn.layer_norm_lstm, jaxrnn.layer_norm_gru]


def test_values_have_mean_zero_and_variance_one():
    values, inverse_std = normalize(
        jnp.asarray(np.random.default_rng(0).normal(3, 2, (4, 50))), EPSILON
    )
    np.testing.assert_allclose(np.mean(values, -1), 0, atol=1e-14)
    np.testing.assert_allclose(np.var(values, -1), 1, atol=1e-5)
    assert inverse_std.shape == (4, 1)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
def test_the_adjoint_is_the_transposed_jacobian(lead):
    rng = np.random.default_rng(0)
    a, g = (jnp.asarray(rng.standard_normal((*lead, 7))) for _ in "ag")
    wanted = jax.vjp(lambda a: normalize(a, EPSILON).values, a)[1](g)[0]
    assert distance(normalize(a, EPSILON).adjoint(g), wanted) < 1e-14


def test_statistics_of_half_precision_are_taken_in_float32():
    a = jnp.asarray(1000 + np.arange(64) % 8, jnp.float16)  # its squares and its sum overflow
    normalized = normalize(a, EPSILON)
    assert (normalized.values.dtype, normalized.inverse_std.dtype) == (jnp.float16, jnp.float32)
    wanted = normalize(a.astype(float), EPSILON).values
    np.testing.assert_allclose(normalized.values.astype(float), wanted, atol=1e-3)
    assert normalized.adjoint(a).dtype == jnp.float16


@pytest.mark.optimized  # float16 has room for these slopes where XLA keeps excess precision
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("dtype", often(DTYPES, DTYPES[:2]))  # which have the least room
def test_rows_of_equal_numbers_stay_finite(make, size, dtype):
    """Inputs of zero from a carry of zero: all variances are 0."""
    cell = make(size)
    params, xs = cell.init(jax.random.key(0), 3, dtype), jnp.zeros((4, 2, 3), dtype)

    def value(params, xs):
        last, ys = jaxrnn.unroll(cell, params, xs)
        return jnp.sum(ys), last

    gradients, last = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(params, xs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((gradients, last)))


@pytest.mark.parametrize("make", MAKERS)
def test_outputs_do_not_know_the_scale_of_the_kernels(make):
    cell = make(5, epsilon=1e-12)
    params = cell.init(jax.random.key(0), 3, jnp.float64)
    scaled = {**params, "w_x": 7 * params["w_x"], "w_h": 3 * params["w_h"]}
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2, 3)))
    once, twice = (jaxrnn.unroll(cell, p, xs)[1] for p in (params, scaled))
    assert distance(twice[0], once[0]) < 1e-9
    assert distance(twice, once) < 1e-7
