"""What is special about the convolutional LSTM: images of one to three axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance, inner, noise

import jaxrnn

T, B, I, H = 4, 2, 2, 3


def problem(cell, seed=0):
    rng = np.random.default_rng(seed)
    params = cell.init(jax.random.key(seed), I, jnp.float64)
    params = jax.tree.map(lambda p, n: p + n / 10, params, noise(rng, params))
    carry = noise(rng, cell.initial_carry((B,), jnp.float64))
    xs = noise(rng, jnp.zeros((T, B, *cell.feature_shape(I))))
    v = noise(rng, jnp.zeros((T, B, *cell.feature_shape(H))))
    return params, carry, xs, v


def outputs_and_gradient(loop, cell, params, carry, xs, v):
    def value(*args):
        ys = loop(cell, *args)[1]
        return inner(v, ys), ys

    grads, ys = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(params, carry, xs)
    return ys, grads


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2)], ids=str)
def test_images_of_two_and_three_axes(shape):
    cell = jaxrnn.conv_lstm(H, shape, kernel_size=len(shape))
    args = problem(cell)
    ys, grads = outputs_and_gradient(jaxrnn.bptt, cell, *args)
    wanted_ys, wanted = outputs_and_gradient(jaxrnn.scan, cell, *args)
    assert distance(ys, wanted_ys) < 1e-13
    assert distance(grads, wanted) < 1e-12


def test_a_window_of_one_pixel_is_an_lstm_at_each_pixel():
    cell = jaxrnn.conv_lstm(H, (4,), kernel_size=1)
    params, carry, xs, v = problem(cell)
    flat = {name: p[0] if p.ndim == 3 else p for name, p in params.items()}
    ys, (d_params, *rest) = outputs_and_gradient(jaxrnn.bptt, cell, params, carry, xs, v)
    wanted_ys, (d_flat, *wanted) = outputs_and_gradient(
        jaxrnn.bptt, jaxrnn.lstm(H), flat, carry, xs, v
    )
    assert distance(ys, wanted_ys) < 1e-13
    d_params = {name: d.reshape(d_flat[name].shape) for name, d in d_params.items()}
    assert distance((d_params, rest), (d_flat, wanted)) < 1e-12


def test_a_stack_of_two():
    net = jaxrnn.stacked(jaxrnn.conv_lstm(H, (4, 3)), jaxrnn.conv_lstm(1, (4, 3), kernel_size=1))
    params = net.init(jax.random.key(0), I)
    ys = jaxrnn.unroll(net, params, jnp.ones((T, B, 4, 3, I), jnp.float32))[1]
    assert ys.shape == (T, B, 4, 3, 1)


def test_padding_of_nan_has_no_effect():
    cell = jaxrnn.conv_lstm(H, (4,))
    params, carry, xs, _ = problem(cell)
    lengths = jnp.asarray([T, 2])
    xs = xs.at[2:, 1].set(jnp.nan)

    def value(params):
        last, ys = jaxrnn.unroll(cell, params, xs, carry=carry, lengths=lengths)
        return jnp.sum(ys) + jnp.sum(last.c), ys

    grads, ys = jax.grad(value, has_aux=True)(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert not np.any(ys[2:, 1])


def test_no_rows_have_no_outputs():
    cell = jaxrnn.conv_lstm(H, (4,))
    params = cell.init(jax.random.key(0), I)
    ys = jaxrnn.unroll(cell, params, jnp.zeros((T, 0, 4, I), jnp.float32))[1]
    assert ys.shape == (T, 0, 4, H)


@pytest.mark.parametrize("size", [2, 3])
def test_it_equals_flax(size):
    nn = pytest.importorskip("flax.linen", reason="Flax is a peer, not a dependency")
    shape = (4, 3)
    cell = jaxrnn.conv_lstm(H, shape, kernel_size=size)
    params, carry, xs, v = problem(cell)
    module = nn.ConvLSTMCell(H, (size, size), param_dtype=jnp.float64)

    def of_flax(params, carry, xs):
        def in_its_order(x):  # i, g, f, o; it adds 1 to f
            i, f, g, o = jnp.split(x, 4, axis=-1)
            return jnp.concatenate([i, g, f, o], axis=-1)

        b = params["b"] - jnp.repeat(jnp.asarray([0.0, 1, 0, 0]), H)
        weights = {
            "ih": {"kernel": in_its_order(params["w_x"]), "bias": in_its_order(b)},
            "hh": {"kernel": in_its_order(params["w_h"]), "bias": jnp.zeros(4 * H)},
        }
        ys, state = [], (carry.c, carry.h)
        for x in xs:
            with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
                state, y = module.apply({"params": weights}, state, x)
            ys.append(y)
        return jnp.stack(ys)

    ys, grads = outputs_and_gradient(jaxrnn.bptt, cell, params, carry, xs, v)
    value = jax.grad(lambda *args: inner(v, of_flax(*args)), argnums=(0, 1, 2))
    assert distance(ys, of_flax(params, carry, xs)) < 1e-13
    assert distance(grads, value(params, carry, xs)) < 1e-12
