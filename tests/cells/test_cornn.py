"""What is special about the coRNN: oscillators, whose free motion is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance

import jaxrnn

DT, GAMMA, EPSILON = 0.1, 2.0, 0.5
CELL = jaxrnn.cornn(1, DT, GAMMA, EPSILON)


def test_without_a_force_each_oscillator_is_a_damped_spring():
    params = jax.tree.map(jnp.zeros_like, CELL.init(jax.random.key(0), 1, jnp.float64))
    start = jaxrnn.CoRNNCarry(jnp.asarray([1.0]), jnp.asarray([-0.5]))
    last, ys = jaxrnn.unroll(CELL, params, jnp.zeros((30, 1)), carry=start)
    velocity = np.array([-DT * GAMMA, 1 - DT * EPSILON])  # of y and v, as the position's second row
    step = np.stack([np.array([1, 0]) + DT * velocity, velocity])
    wanted = np.linalg.matrix_power(step, 30) @ [1.0, -0.5]
    assert distance(last, jaxrnn.CoRNNCarry(*wanted[:, None])) < 1e-13
    assert distance(ys[-1], last.y) == 0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_small_steps_sum_up_in_float32(dtype):
    """In bfloat16 a position of 1 would never move by 0.001."""
    cell, steps = jaxrnn.cornn(1, 1e-3, 1e-6, 1e-6), 1000
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1, dtype))
    start = jaxrnn.CoRNNCarry(*jnp.ones((2, 1), jnp.float32))
    last, ys = jaxrnn.unroll(cell, params, jnp.zeros((steps, 1), dtype), carry=start)
    np.testing.assert_allclose(last.y, 2.0, rtol=1e-3)
    assert ys.dtype == dtype
