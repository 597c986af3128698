"""What is special about the gated delta rule: a key has one value, the last that was written."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn


def test_a_value_that_is_written_again_replaces_the_first():
    cell = jaxrnn.delta_rule(2, key_size=2)
    params = {"w_x": jnp.eye(8), "b": jnp.zeros(8).at[7].set(50.0), "a_log": jnp.full(1, -50.0)}
    first, other, second, asked = np.zeros((4, 8))
    first[2:6] = 1e6, 0, 0.25, -0.75
    other[2:6] = 0, 1e6, 4.0, 5.0
    second[2:6] = 1e6, 0, 0.5, 0.5
    asked[0], asked[7] = 1e6, -100.0  # which writes nothing
    xs = jnp.asarray(np.stack([first, other, second, asked]))
    _, ys = jaxrnn.unroll(cell, params, xs)
    np.testing.assert_allclose(ys[3], second[4:6], rtol=1e-10)


def test_a_decay_near_1_is_not_rounded_to_1_in_bfloat16():
    """0.999 is 1 in bfloat16, and a memory of 500 steps would be one without end."""
    cell, steps = jaxrnn.delta_rule(1), 500
    params = {"w_x": jnp.eye(5), "b": jnp.zeros(5), "a_log": jnp.asarray([np.log(1e-3)])}
    params["b"] = params["b"].at[0].set(1e3).at[3].set(np.log(np.expm1(1))).at[4].set(-50)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    carry = cell.initial_carry((), jnp.bfloat16)
    carry = carry._replace(s=jnp.ones_like(carry.s))
    last, ys = jaxrnn.unroll(cell, params, jnp.zeros((steps, 5), jnp.bfloat16), carry=carry)
    np.testing.assert_allclose(last.s, np.exp(-1e-3 * steps), rtol=1e-2)
    assert ys.dtype == jnp.bfloat16


def test_a_key_of_zeros_has_a_finite_gradient():
    cell = jaxrnn.delta_rule(4, num_heads=2)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 3))
    xs = jnp.zeros((3, 3), jnp.float32)
    grads = jax.grad(lambda p: jnp.sum(jaxrnn.unroll(cell, p, xs)[1]))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
