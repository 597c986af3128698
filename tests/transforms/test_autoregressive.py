"""One-to-many: a step that feeds itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance

import jaxrnn

H = 4
CELL = jaxrnn.gru(H)


def problem():
    rng = np.random.default_rng(0)
    params = CELL.init(jax.random.key(0), H, jnp.float64)
    return params, *(jnp.asarray(rng.standard_normal((3, H))) for _ in range(2))


@pytest.mark.parametrize("loop", [jaxrnn.scan, jaxrnn.bptt], ids=["scan", "bptt"])
def test_it_is_a_python_loop_and_differentiates(loop):
    step = jaxrnn.transforms.autoregressive(CELL, lambda y, t: jnp.sin(y) + t)

    def ours(params, h, x):
        (h, x), ys = jaxrnn.unroll(step, params, jnp.arange(5.0), carry=(h, x), loop=loop)
        return h, x, ys.y, ys.next_x

    def handwritten(params, h, x):
        ys, xs = [], []
        for t in range(5):
            h, y = CELL(params, h, x)
            x = jnp.sin(y) + t
            ys.append(y)
            xs.append(x)
        return h, x, jnp.stack(ys), jnp.stack(xs)

    def gradient(run):
        def value(args):
            return sum(jnp.sum(jnp.cos(leaf)) for leaf in run(*args))

        return jax.grad(value)(problem())

    assert distance(ours(*problem()), handwritten(*problem())) < 1e-13
    assert distance(gradient(ours), gradient(handwritten)) < 1e-12


def test_tokens_are_drawn_and_streamed():
    net = jaxrnn.stacked(jaxrnn.gru(H), jaxrnn.linear(7))
    params = net.init(jax.random.key(0), 7)

    def model(params, carry, token):
        return net(params, carry, jax.nn.one_hot(token, 7, dtype=jnp.float32))

    step = jaxrnn.transforms.autoregressive(
        model, lambda logits, key: jax.random.categorical(key, logits)
    )
    keys = jax.random.split(jax.random.key(1), 20)
    start = net.initial_carry(), jnp.asarray(0)
    _, out = jaxrnn.unroll(step, params, keys, carry=start)
    assert out.y.shape == (20, 7)
    assert len(set(out.next_x.tolist())) > 3
    carry = start
    for key, token in zip(keys, out.next_x, strict=True):
        carry, generated = jax.jit(step)(params, carry, key)
        assert generated.next_x == token
