"""What a network for series outputs for each step ahead: quantiles, or a normal distribution."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import softplus
from scipy.stats import norm

from jaxrnn.types import Array

QUANTILES = 0.1, 0.5, 0.9
LEAST_DEVIATION = 1e-3  # of a normal distribution, as a share of the spread of the changes


class Head(NamedTuple):
    """A forecast of one number as a few numbers.

    Fields:
        columns: their names in the file of a forecast.
        decode: from K outputs of the network `(..., K)` to these numbers `(..., K)`.
        loss: `(numbers, target)` to the loss `(...)` of a target `(...)`.
        quantiles: from the numbers to QUANTILES `(..., 3)`.
        restore: `(numbers, unit, offset)` to the numbers of `unit * target + offset`.
    """

    columns: tuple[str, ...]
    decode: Callable[[Array], Array]
    loss: Callable[[Array, Array], Array]
    quantiles: Callable[[np.ndarray], np.ndarray]
    restore: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def decode_quantiles(outputs: Array) -> Array:
    """Returns three quantiles in order: the median, and a positive distance to each side."""
    middle = outputs[..., 0]
    below = softplus(outputs[..., 1])
    above = softplus(outputs[..., 2])
    return jnp.stack([middle - below, middle, middle + above], axis=-1)


def pinball(quantiles: Array, target: Array) -> Array:
    """Returns the pinball loss, which is least in expectation for the true quantiles.

    It is max(q (y - ŷ_q), (q - 1) (y - ŷ_q)), and its mean over the QUANTILES q.
    """
    levels = jnp.asarray(QUANTILES, quantiles.dtype)
    error = target[..., None] - quantiles
    return jnp.mean(jnp.maximum(levels * error, (levels - 1) * error), axis=-1)


def decode_gaussian(outputs: Array) -> Array:
    """Returns the mean and the standard deviation."""
    return jnp.stack([outputs[..., 0], softplus(outputs[..., 1]) + LEAST_DEVIATION], axis=-1)


def gaussian_nats(mean_and_deviation: Array, target: Array) -> Array:
    """Returns -log of the normal density."""
    mean = mean_and_deviation[..., 0]
    deviation = mean_and_deviation[..., 1]
    return -jax.scipy.stats.norm.logpdf(target, mean, deviation)


def gaussian_quantiles(numbers: np.ndarray) -> np.ndarray:
    """Returns the QUANTILES of normal distributions."""
    return numbers[..., :1] + numbers[..., 1:] * norm.ppf(QUANTILES)


def restore_quantiles(numbers: np.ndarray, unit: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Returns quantiles in the units of the file."""
    return numbers * unit[..., None] + offset[..., None]


def restore_gaussian(numbers: np.ndarray, unit: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Returns means and standard deviations in the units of the file."""
    mean = numbers[..., 0] * unit + offset
    deviation = numbers[..., 1] * unit
    return np.stack([mean, deviation], axis=-1)


HEADS = {
    "quantile": Head(
        columns=tuple(f"q{level}" for level in QUANTILES),
        decode=decode_quantiles,
        loss=pinball,
        quantiles=lambda numbers: numbers,
        restore=restore_quantiles,
    ),
    "gaussian": Head(
        columns=("mean", "std"),
        decode=decode_gaussian,
        loss=gaussian_nats,
        quantiles=gaussian_quantiles,
        restore=restore_gaussian,
    ),
}


def center(head: Head, numbers: Array) -> Array:
    """Returns the median of the quantiles, or the mean."""
    index = 0
    if "q0.5" in head.columns:
        index = head.columns.index("q0.5")
    return numbers[..., index]
