"""Problems for the forms in which `bptt` runs a cell: in order on a CPU, on a GPU, in kernels."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn import transforms
from jaxrnn.transforms import MaskedInputs, ResetInputs, ResetParams

T, B, I, H = 11, 3, 2, 4


def problem(cell, steps=T, batch=(B,), dtype=jnp.float64):
    """Parameters, carry and inputs in general position."""
    rng = np.random.default_rng(0)

    def drawn(like, scale=1.0):
        numbers = scale * rng.standard_normal(like.shape)
        if jnp.issubdtype(like.dtype, jnp.complexfloating):
            numbers = numbers * (1 + 1j)
        return jnp.asarray(numbers, like.dtype)

    params = cell.init(jax.random.key(0), I, dtype)
    params = jax.tree.map(lambda p: p + drawn(p, 0.1), params)
    carry = jax.tree.map(drawn, cell.initial_carry(batch, dtype))
    xs = jnp.asarray(rng.standard_normal((steps, *batch, *cell.feature_shape(I))), dtype)
    return params, carry, xs


def result(loop, step, *args):
    """A weighted sum of squares of all outputs, and its gradient for all that has one."""

    def loss(*args):
        leaves = jax.tree.leaves(loop(step, *args))
        weights = [jnp.cos(jnp.arange(x.size, dtype=x.real.dtype)).reshape(x.shape) for x in leaves]
        return sum(jnp.sum(w * jnp.real(x * x)) for w, x in zip(weights, leaves, strict=True))

    inexact, others = jaxrnn.tree.split_inexact(args)
    return jax.jit(
        jax.value_and_grad(lambda inexact: loss(*jaxrnn.tree.merge_inexact(inexact, others)))
    )(inexact)


def transformed(name):
    """An LSTM in a transformation, and its arguments."""
    cell = jaxrnn.lstm(H)
    params, carry, xs = problem(cell)
    rng = np.random.default_rng(1)
    mask, reset = (jnp.asarray(rng.random((T, B)) < chance) for chance in (0.7, 0.3))
    start = jax.tree.map(jnp.cos, carry)
    if name == "masks and resets":
        step = transforms.resettable(transforms.masked(cell), learned=True)
        xs = xs.at[1].set(jnp.where(mask[1][:, None], xs[1], jnp.nan))
        return step, ResetParams(params, start), carry, ResetInputs(MaskedInputs(xs, mask), reset)
    if name == "noise":
        step = transforms.variational_dropout(cell, input_rate=0.3, state_rate=0.3)
        step = transforms.zoneout(transforms.recurrent_dropout(step, 0.3), 0.2)
        step = transforms.detach_adjoint(step, 0.3)
        params, xs = transforms.noise.add_noise(step, jax.random.key(3), params, carry, xs)
        return step, params, carry, xs
    if name == "clipped":
        return transforms.clip_adjoint(cell, 0.5), params, carry, xs
    step = transforms.probe_adjoint(cell)
    return step, params, carry, transforms.ProbeInputs(xs, jnp.zeros((T, B)))
