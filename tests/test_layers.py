"""Linear and embedding: values and gradients against plain NumPy, over any leading axes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_interchangeable
from jax.test_util import check_grads

import jaxrnn

LEADS = [(), (3,), (5, 3, 2), (0, 3)]
DTYPES = ["float16", "bfloat16", "float32", "float64"]


def parameters(rng, hidden=4, output=2):
    return {"w_o": rng.standard_normal((hidden, output)), "b_o": rng.standard_normal(output)}


@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_linear_takes_the_affine_map_over_all_leading_axes(lead):
    rng = np.random.default_rng(0)
    params, hs = parameters(rng), rng.standard_normal((*lead, 4))
    outputs = jaxrnn.linear(2).apply(params, hs)
    chex.assert_trees_all_close(outputs, hs @ params["w_o"] + params["b_o"], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_gradient_of_linear(lead):
    rng = np.random.default_rng(1)
    params, hs = parameters(rng), rng.standard_normal((*lead, 4))
    d_outputs = rng.standard_normal((*lead, 2))
    _, pullback = jax.vjp(jaxrnn.linear(2).apply, params, hs)
    rows, d_rows = hs.reshape(-1, 4), d_outputs.reshape(-1, 2)
    d_params = {"w_o": rows.T @ d_rows, "b_o": d_rows.sum(0)}
    expected = d_params, d_outputs @ params["w_o"].T
    chex.assert_trees_all_close(pullback(d_outputs), expected, rtol=1e-12, atol=1e-13)


def test_gradient_of_linear_agrees_with_differences():
    rng = np.random.default_rng(1)
    args = parameters(rng), rng.standard_normal((3, 4))
    check_grads(jaxrnn.linear(2).apply, args, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_embedding_looks_up_the_row_of_each_token(lead, as_array):
    rng = np.random.default_rng(2)
    w_e, tokens = rng.standard_normal((7, 2)), rng.integers(0, 7, lead)
    xs = jaxrnn.embedding(2).apply({"w_e": as_array(w_e)}, as_array(tokens))
    np.testing.assert_array_equal(xs, w_e[tokens])


def test_gradient_of_embedding_adds_up_where_a_token_comes_again():
    rng = np.random.default_rng(3)
    params, tokens = {"w_e": jnp.asarray(rng.standard_normal((7, 2)))}, np.array([3, 0, 3, 3, 6])
    d_xs = rng.standard_normal((5, 2))
    _, pullback = jax.vjp(lambda params: jaxrnn.embedding(2).apply(params, tokens), params)
    expected = np.zeros((7, 2))
    np.add.at(expected, tokens, d_xs)
    chex.assert_trees_all_close(pullback(d_xs), ({"w_e": expected},), rtol=1e-12)


@pytest.mark.parametrize("token", [-1, -7, 7, 10**6])
def test_a_token_out_of_range_gives_nan_and_takes_no_gradient(token):
    params, tokens = {"w_e": jnp.ones((7, 2))}, jnp.array([1, token, 6])
    apply = jax.jit(jaxrnn.embedding(2).apply)
    np.testing.assert_array_equal(apply(params, tokens), [[1, 1], [np.nan] * 2, [1, 1]])
    (d_params,) = jax.vjp(lambda params: apply(params, tokens), params)[1](jnp.ones((3, 2)))
    expected = np.zeros((7, 2))
    expected[[1, 6]] = 1
    np.testing.assert_array_equal(d_params["w_e"], expected)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint32", "int64"])
@pytest.mark.parametrize("vocabulary", [100, 256])
def test_tokens_of_every_integer_dtype(dtype, vocabulary):
    """Bytes too: uint8 holds all 256 of them and yet neither 256 nor -1."""
    table = np.arange(float(vocabulary))[:, None]
    tokens = jnp.asarray([0, 7, 99, 127], dtype)
    xs = jaxrnn.embedding(1).apply({"w_e": jnp.asarray(table)}, tokens)
    expected = [0, 7, 99, 127 if vocabulary > 127 else np.nan]
    np.testing.assert_array_equal(xs[:, 0], expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_that_of_the_parameters(dtype):
    key, wide = jax.random.key(0), np.ones((3, 4))
    linear, embedding = jaxrnn.linear(2), jaxrnn.embedding(2)

    @jax.jit
    def start_and_apply():
        affine, table = linear.init(key, 4, dtype), embedding.init(key, 7, dtype)
        return affine, table, linear.apply(affine, wide), embedding.apply(table, np.array([1, 2]))

    leaves = jax.tree.leaves(start_and_apply())
    chex.assert_tree_all_finite(leaves)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}


def test_parameters_start_at_their_scale():
    key = jax.random.key(0)
    linear = jaxrnn.linear(50).init(key, 400)
    table = jaxrnn.embedding(50).init(key, 400)
    assert linear["w_o"].shape == table["w_e"].shape == (400, 50)
    np.testing.assert_allclose(np.std(linear["w_o"]), 400**-0.5, rtol=0.03)
    np.testing.assert_allclose(np.std(table["w_e"]), 1, rtol=0.03)
    np.testing.assert_array_equal(linear["b_o"], np.zeros(50))


@pytest.mark.parametrize("make", [jaxrnn.linear, jaxrnn.embedding])
def test_equal_sizes_give_equal_layers(make):
    assert_interchangeable(make(3), make(3))
    assert make(3) != make(4)
