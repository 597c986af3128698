"""Layer normalisation inside a cell, with its adjoint by hand.

    â = (a - mean a) / σ,    σ² = mean (a - mean a)² + ε                                     (N1)

over the last axis, and backward, with g = ∂L/∂â,

    ∂L/∂a = (g - mean g - â mean(g ⊙ â)) / σ                                                 (N2)

So â and 1/σ, one number a row, are all that is remembered. A row of equal numbers has â = 0.
"""

from collections import namedtuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from jaxrnn.cells import parts
from jaxrnn.types import Array


class Normed(namedtuple("Normed", "values rate")):
    """â of (N1), `(*lead, F)`, and 1/σ, `(*lead, 1)`, in float32 at least."""


class NormedSaved(namedtuple("NormedSaved", "gates p")):
    """The gates' values, and the normalised recurrent product."""


def normed(a: Float[Array, "*lead F"], epsilon: float) -> Normed:
    """Apply (N1), with its statistics in float32 at least."""
    wide = jnp.asarray(a, parts.at_least_float32(a.dtype))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    rate = lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + epsilon)
    return Normed((centred * rate).astype(a.dtype), rate)


def normed_adjoint(d_values: Float[Array, "*lead F"], seen: Normed) -> Float[Array, "*lead F"]:
    """∂L/∂a of (N2), given g = ∂L/∂â."""
    g, values = (jnp.asarray(x, seen.rate.dtype) for x in (d_values, seen.values))
    along = jnp.mean(g * values, axis=-1, keepdims=True)
    d_a = (g - jnp.mean(g, axis=-1, keepdims=True) - values * along) * seen.rate
    return d_a.astype(d_values.dtype)
