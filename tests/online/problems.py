"""Steps with a loss in them, and arguments in general position."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from reference import noise

import jaxrnn
from jaxrnn.transforms import StepLossInputs, step_loss


class Problem(NamedTuple):
    step: Any
    params: Any
    carry: Any
    xs: StepLossInputs


def draw(rng, like):
    """Standard normal numbers in the dtypes of a tree."""
    return jax.tree.map(lambda x, n: n.astype(x.dtype), like, noise(rng, like))


def squared_error(outputs, targets):
    return jnp.mean(jnp.square(outputs - targets), axis=-1)


@functools.cache
def problem(cell, length=7, batch=(2,), inputs=3, dtype="float64", seed=0):
    """A cell or a network with a linear readout and a squared error."""
    rng = np.random.default_rng(seed)
    outputs = jaxrnn.linear(2)
    target = jax.ShapeDtypeStruct((2,), dtype)
    with jax.enable_x64(True):
        step = step_loss(cell, outputs, squared_error, target=target)
        key_cell, key_outputs = jax.random.split(jax.random.key(seed))
        params = cell.init(key_cell, inputs, jnp.dtype(dtype))
        carry = cell.initial_carry(batch, jnp.dtype(dtype))
        features = jax.eval_shape(
            cell, params, carry, jnp.zeros((*batch, *cell.feature_shape(inputs)), dtype)
        )[1].shape[-1]
        both = params, outputs.init(key_outputs, features, jnp.dtype(dtype))
        both = jax.tree.map(lambda p, n: p + 0.1 * n.astype(p.dtype), both, noise(rng, both))
        carry = draw(rng, carry)
        if isinstance(cell, jaxrnn.Cell):
            carry = carry, jnp.zeros((*batch, 2), dtype)
        shapes = StepLossInputs(
            jax.ShapeDtypeStruct((length, *batch, *cell.feature_shape(inputs)), dtype),
            jax.ShapeDtypeStruct((length, *batch, 2), dtype),
        )
        return Problem(step, both, carry, draw(rng, shapes))


def mean_loss(params, step, carry, xs, mask=None, **options):
    """The mean of the losses that count, by `unroll`, and the last carry."""
    last, losses = jaxrnn.unroll(
        step, params, xs, carry=carry, mask=mask, loop=jaxrnn.scan, **options
    )
    count = losses.size if mask is None else jnp.maximum(jnp.sum(mask), 1)
    return jnp.sum(losses) / jnp.asarray(count, losses.dtype), last


def steps_of(xs, begin, end):
    return jax.tree.map(lambda x: x[begin:end], xs)
