"""Helpers on pytrees: what has a gradient, what is None, where the time axis is."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.custom_derivatives import SymbolicZero

import jaxrnn
from jaxrnn import tree

INEXACT = ["float16", "bfloat16", "float32", "float64", "complex64"]
OTHERS = ["int8", "uint32", "int64", "bool"]

arrays = st.builds(
    lambda dtype, shape: np.zeros(shape, jnp.dtype(dtype)),
    st.sampled_from(INEXACT + OTHERS),
    st.sampled_from([(), (0,), (2, 3)]),
)
leaves = st.one_of(arrays, st.none(), st.booleans(), st.integers(0, 9), st.floats(0, 1))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.builds(jaxrnn.LSTMCarry, inner, inner),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_split_by_gradient_and_merge_is_the_identity(drawn):
    inexact, others = tree.split_inexact(drawn)
    merged = tree.merge_inexact(inexact, others)
    assert jax.tree.structure(merged) == jax.tree.structure(drawn)
    pairs = zip(jax.tree.leaves(merged), jax.tree.leaves(drawn), strict=True)
    assert all(a is b for a, b in pairs)
    assert all(jnp.result_type(leaf).name in (*INEXACT, "float64") for leaf in leaves_of(inexact))
    assert all(jnp.result_type(leaf).name in OTHERS for leaf in leaves_of(others))


def leaves_of(drawn):
    return jax.tree.leaves(drawn)


def test_a_key_has_no_gradient():
    key = jax.random.key(0)
    assert tree.split_inexact({"key": key}) == ({"key": None}, {"key": key})


def test_add_counts_none_as_zero():
    total = tree.add_sparse(
        {"a": 1.0, "b": None, "c": 2.0, "d": None}, dict(a=3.0, b=4.0, c=None, d=None)
    )
    assert total == {"a": 4.0, "b": 4.0, "c": 2.0, "d": None}


def test_symbolic_zeros_become_none_and_none_becomes_zeros():
    zero = SymbolicZero(jax.typeof(jnp.zeros(3)))
    sparse = tree.sparse_cotangents({"a": zero, "b": 1.0})
    assert sparse == {"a": None, "b": 1.0}
    like = {"a": jnp.ones(3, jnp.float16), "b": jnp.ones(()), "c": jnp.arange(2)}
    filled = tree.add_sparse(tree.zero_cotangents(like), {**sparse, "c": None})
    chex.assert_trees_all_equal(filled["a"], jnp.zeros(3, jnp.float16))
    assert filled["b"] == 1.0
    assert filled["c"] is None


@pytest.mark.parametrize("length", [0, 1, 3])
def test_shifted_puts_the_first_in_front_and_drops_the_last(length):
    whole = np.arange(2.0 * (length + 1)).reshape(length + 1, 2)
    first, rest = {"h": jnp.asarray(whole[0])}, {"h": jnp.asarray(whole[1:])}
    chex.assert_trees_all_equal(tree.shift_right(first, rest), {"h": jnp.asarray(whole[:-1])})


def test_to_time_major_moves_one_axis_and_keeps_the_order_of_the_others():
    batch_major = {"x": np.arange(24).reshape(2, 3, 4), "y": np.arange(6).reshape(2, 3)}
    moved = jaxrnn.to_time_major(batch_major)
    np.testing.assert_array_equal(moved["x"], batch_major["x"].transpose(1, 0, 2))
    np.testing.assert_array_equal(moved["y"], batch_major["y"].T)
    moved = jaxrnn.to_time_major(batch_major["x"], axis=2)
    np.testing.assert_array_equal(moved, batch_major["x"].transpose(2, 0, 1))


def test_to_arrays_converts_numbers_and_leaves_arrays_alone():
    given = {
        "numpy": np.zeros(2),
        "jax": jnp.zeros(2),
        "float": 1.0,
        "int": 1,
        "scalar": np.int8(1),
    }
    made = tree.to_arrays("given", given)
    assert made["numpy"] is given["numpy"]
    assert made["jax"] is given["jax"]
    for name in ("float", "int", "scalar"):
        assert isinstance(made[name], jax.Array)
        assert made[name] == 1
    assert made["scalar"].dtype == jnp.int8
