"""What is special about the independently recurrent network."""

import jax
import jax.numpy as jnp
import numpy as np
from reference import distance

import jaxrnn


def test_recurrent_weights_start_uniform_between_0_and_1():
    u = np.asarray(jaxrnn.indrnn(4000).init(jax.random.key(0), 1, jnp.float64)["u"])
    assert u.min() >= 0
    assert u.max() <= 1
    assert abs(u.mean() - 1 / 2) < 0.02
    assert abs(u.std() - 12**-0.5) < 0.02


def test_the_slope_of_relu_at_its_kink_is_jaxs():
    """Zero inputs, biases and carry put every pre-activation on the kink."""
    cell = jaxrnn.indrnn(3)
    params = {"w_x": jnp.ones((2, 3)), "u": jnp.ones(3), "b": jnp.zeros(3)}

    def value(params, loop):
        return jnp.sum(loop(cell, params, jnp.zeros((1, 3)), jnp.zeros((4, 1, 2)))[1])

    wanted = jax.grad(value)(params, jaxrnn.scan)
    assert distance(jax.grad(value)(params, jaxrnn.bptt), wanted) == 0
    assert jax.grad(jax.nn.relu)(0.0) == 0


def test_a_gradient_scales_with_powers_of_u():
    cell, u = jaxrnn.indrnn(2), jnp.array([0.5, 1.0])
    params = {"w_x": jnp.ones((1, 2)), "u": u, "b": jnp.zeros(2)}
    d_carry = jax.grad(lambda c: jnp.sum(jaxrnn.unroll(cell, params, jnp.ones((9, 1)), carry=c)[0]))
    assert distance(d_carry(jnp.ones(2)), u**9) < 1e-15
