"""Noise of cells, drawn once for a sequence and passed along with parameters and inputs.

A loop may run a step twice, such as to compute it again in the backward pass, so a step must not
draw anything itself. Noise is drawn before the loop and handed on as data. For a noisy cell A
around a noisy cell B,

    params    WithNoise(params, (shared noise of A, shared noise of B))
    xs        WithNoise(xs, (noise of A at each step, noise of B at each step))

A takes its own noise off and hands on `WithNoise(params, shared noise of B)` to B, and so on
inward (`separate_noise`).
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn.transforms.base import TransformedCell
from jaxrnn.types import Array, Carry, Key, Params, Part, PyTree, Weights, WithNoise


@dataclasses.dataclass(frozen=True, repr=False)
class NoisyCell(TransformedCell):
    """A Cell that draws noise, around an inner cell that may draw noise too.

    Noise that all steps share is passed along with the parameters, and noise with a time axis along
    with the inputs. A subclass defines `_draw`, and uses the drawn noise in `_project` and
    `_prepare`. Both get None if no noise was drawn.
    """

    @abc.abstractmethod
    def _draw(self, key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[PyTree, PyTree]:
        """Draws the noise of this cell alone: what all steps share, and what has a time axis."""

    def _project(self, params: Params, xs: PyTree, shared: PyTree, per_step: PyTree) -> PyTree:
        """Calls `project` of the inner cell, and applies the noise of this cell."""
        return self.cell.project(params, xs)

    def _prepare(self, params: Params, shared: PyTree) -> Weights:
        """Calls `prepare` of the inner cell, and applies the noise of this cell."""
        return self.cell.prepare(params)

    @property
    def is_noisy(self) -> bool:
        """True."""
        return True

    def draw_noise(
        self, key: Key, params: Params, carry: Carry, xs: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Returns pairs of the noise of this cell and the noise of the inner cell."""
        own_key, inner_key = jax.random.split(key)
        shared, per_step = self._draw(own_key, params, carry, xs)
        inner_shared, inner_per_step = self.cell.draw_noise(inner_key, params, carry, xs)
        return (shared, inner_shared), (per_step, inner_per_step)

    def project(self, params: Params, xs: PyTree) -> PyTree:
        """Returns the projected inputs, with the noise of params and xs applied."""
        inner_params, shared = separate_noise(params)
        inner_xs, per_step = separate_noise(xs)
        return self._project(inner_params, inner_xs, shared, per_step)

    def prepare(self, params: Params) -> Weights:
        """Returns the weights, with the noise of the parameters applied."""
        inner_params, shared = separate_noise(params)
        return self._prepare(inner_params, shared)

    def output(self, params: Params, carries: Carry) -> PyTree:
        """Returns the outputs of the inner cell."""
        inner_params, _ = separate_noise(params)
        return self.cell.output(inner_params, carries)


def add_noise(
    part: Part, key: Key, params: Params, carry: Carry, xs: PyTree
) -> tuple[WithNoise, WithNoise]:
    """Returns parameters and inputs, each with the noise that a part draws for it."""
    shared, per_step = part.draw_noise(key, params, carry, xs)
    return WithNoise(params, shared), WithNoise(xs, per_step)


def separate_noise(value: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the value for the inner cell, and the noise of the cell around it.

    The noise is None if none was drawn.
    """
    if not isinstance(value, WithNoise):
        return value, None
    noise, inner_noise = value.noise
    if inner_noise is None:
        return value.value, noise
    return WithNoise(value.value, inner_noise), noise


def dropout_factors(keep: Array | None, rate: float, dtype: DTypeLike) -> jax.Array | None:
    """Returns 1/(1-rate) where `keep` is True, else 0; None if `keep` is None."""
    if keep is None:
        return None
    return jnp.where(keep, 1 / (1 - rate), 0).astype(dtype)
