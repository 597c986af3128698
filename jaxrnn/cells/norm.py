"""Layer normalisation inside a cell, with a hand-written adjoint.

    â = (a - mean a) / σ,    σ² = mean (a - mean a)² + ε                                     (N1)

over the last axis, and backward, with g = ∂L/∂â,

    ∂L/∂a = (g - mean g - â mean(g ⊙ â)) / σ                                                 (N2)

So the backward pass needs only â, and 1/σ, one number for each row. A row of equal numbers has â =
0.
"""

from collections import namedtuple
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.kernels import Gates, RecurrentKernel, Vector
from jaxrnn.types import Array, State


class Normalized(namedtuple("Normalized", "values inverse_std")):
    """â of (N1), `(*lead, F)`, and 1/σ, `(*lead, 1)`, which is float32 at least."""

    def adjoint(self, d_values: Float[Array, "*lead F"]) -> Float[Array, "*lead F"]:
        """Returns ∂L/∂a of (N2), from g = ∂L/∂â."""
        g, values = (jnp.asarray(x, self.inverse_std.dtype) for x in (d_values, self.values))
        mean_g = jnp.mean(g, axis=-1, keepdims=True)
        mean_product = jnp.mean(g * values, axis=-1, keepdims=True)
        d_a = (g - mean_g - values * mean_product) * self.inverse_std
        return d_a.astype(d_values.dtype)


class NormalizedSaved(namedtuple("NormalizedSaved", "gates product")):
    """The values of the gates, and the normalised recurrent product."""


def normalize(a: Float[Array, "*lead F"], epsilon: float) -> Normalized:
    """Returns (N1), with mean and variance in float32 at least."""
    wide = jnp.asarray(a, kernels.at_least_float32(a.dtype))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    inverse_std = lax.rsqrt(variance + epsilon)
    return Normalized((centred * inverse_std).astype(a.dtype), inverse_std)


def check_epsilon(epsilon: float) -> float:
    """Returns ε if it is a finite number above 0; raises an error otherwise."""
    return check.require_finite("epsilon", check.require_positive("epsilon", epsilon))


def product_adjoint(w: Any, product: Any, d_gained: Gates) -> Gates:
    """Returns ∂L/∂p of the normalised product p, from the cotangent of p̂ ⊙ gain_h."""
    return product.adjoint(kernels.scale(d_gained, w.gain_h))


def product_gradients(
    w: Any, h_tm1: State, product: Any, d_gained: Gates
) -> tuple[RecurrentKernel, Vector]:
    """Returns ∂L/∂W_h and ∂L/∂gain_h."""
    d_product = product_adjoint(w, product, d_gained)
    d_w_h = kernels.recurrent_kernel_gradient(h_tm1, d_product, w.w_h)
    return d_w_h, kernels.bias_gradient(d_gained * product.values)


def project_gates(p: Any, params: Any, gates: int) -> list[Any]:
    """Returns p̂ ⊙ gain_x + b for the normalised input product, one array for each gate."""
    gained = kernels.scale(p.values, params["gain_x"])
    return list(kernels.split_gates(kernels.add_bias(gained, params["b"]), gates))
