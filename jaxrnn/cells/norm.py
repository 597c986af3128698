"""Layer normalisation inside a cell, with a hand-written adjoint.

    â = (a - mean a) / σ,    σ² = mean (a - mean a)² + ε                                     (N1)

over the last axis, and backward, with g = ∂L/∂â,

    ∂L/∂a = (g - mean g - â mean(g ⊙ â)) / σ                                                 (N2)

So the backward pass needs only â, and 1/σ, one number for each row. A row of equal numbers has â =
0.

A cell that normalises its recurrent product uses p̂ ⊙ gain_h, where p̂ is the normalised product
p = h_{t-1} W_h. The cotangent of p̂ ⊙ gain_h is called `d_gained` here.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.kernels import Gates, RecurrentKernel, Vector
from jaxrnn.types import Array, Params, PyTree, State


@runtime_checkable
class NormalizedArray(Protocol):
    """A normalised array, over all its features or over groups of them."""

    @property
    def values(self) -> Array:
        """The normalised values â, `(*lead, F)`."""

    def adjoint(self, d_values: Array) -> Array:
        """Returns ∂L/∂a of (N2), from g = ∂L/∂â."""


class Normalized(NamedTuple):
    """â of (N1), `(*lead, F)`, and 1/σ, `(*lead, 1)`, which is float32 at least."""

    values: Float[Array, "*lead F"]
    inverse_std: Float[Array, "*lead 1"]

    def adjoint(self, d_values: Float[Array, "*lead F"]) -> Float[Array, "*lead F"]:
        """Returns ∂L/∂a of (N2), from g = ∂L/∂â."""
        g = jnp.asarray(d_values, self.inverse_std.dtype)
        values = jnp.asarray(self.values, self.inverse_std.dtype)
        mean_g = jnp.mean(g, axis=-1, keepdims=True)
        mean_product = jnp.mean(g * values, axis=-1, keepdims=True)
        d_a = (g - mean_g - values * mean_product) * self.inverse_std
        return d_a.astype(d_values.dtype)


class NormalizedSaved(NamedTuple):
    """The values of the gates, and the normalised recurrent product."""

    gates: PyTree
    product: NormalizedArray


def normalize(a: Float[Array, "*lead F"], epsilon: float) -> Normalized:
    """Returns (N1), with mean and variance in float32 at least."""
    wide = jnp.asarray(a, kernels.at_least_float32(a.dtype))
    # Centred before it is squared: mean a² - (mean a)² would cancel.
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    inverse_std = lax.rsqrt(variance + epsilon)
    return Normalized((centred * inverse_std).astype(a.dtype), inverse_std)


def check_epsilon(epsilon: float) -> float:
    """Returns ε if it is a finite number above 0; raises an error otherwise."""
    return check.require_finite("epsilon", check.require_positive("epsilon", epsilon))


def product_adjoint(product: NormalizedArray, gain_h: Vector, d_gained: Gates) -> Gates:
    """Returns ∂L/∂p, from the cotangent of p̂ ⊙ gain_h."""
    return product.adjoint(kernels.scale(d_gained, gain_h))


def product_gradients(
    w_h: RecurrentKernel, gain_h: Vector, h_tm1: State, product: NormalizedArray, d_gained: Gates
) -> tuple[RecurrentKernel, Vector]:
    """Returns ∂L/∂W_h and ∂L/∂gain_h."""
    # ∂L/∂p once more, for all steps at once, so that no array over time is kept for it.
    d_product = product_adjoint(product, gain_h, d_gained)
    d_w_h = kernels.recurrent_kernel_gradient(h_tm1, d_product, w_h)
    return d_w_h, kernels.bias_gradient(d_gained * product.values)


def project_gates(product: NormalizedArray, params: Params, num_gates: int) -> list[jax.Array]:
    """Returns p̂ ⊙ gain_x + b for the normalised input product, one array for each gate."""
    gained = kernels.scale(product.values, params["gain_x"])
    return list(kernels.split_gates(kernels.add_bias(gained, params["b"]), num_gates))
