"""What is special about the minimal gated unit."""

import jax
import jax.numpy as jnp
from reference import distance

import jaxrnn


def test_it_is_a_gru_whose_gates_are_one():
    """Reset before the product, r = f, and z = 1 - f, that is the gate of the negated weights."""
    mgu, gru = jaxrnn.mgu(3), jaxrnn.gru(3, reset_after=False)
    params = mgu.init(jax.random.key(0), 2, jnp.float64)
    params["b"] = jnp.arange(6.0) / 6

    def rzn(p):
        f, n = jnp.split(p, 2, axis=-1)
        return jnp.concatenate([f, -f, n], axis=-1)

    xs = jnp.sin(jnp.arange(40.0)).reshape(5, 4, 2)
    got = jaxrnn.unroll(mgu, params, xs)
    assert distance(got, jaxrnn.unroll(gru, jax.tree.map(rzn, params), xs)) < 1e-14
