"""Layer normalisation inside a cell, with its adjoint by hand.

    â = (a - mean a) / σ,    σ² = mean (a - mean a)² + ε                                     (N1)

over the last axis, and backward, with g = ∂L/∂â,

    ∂L/∂a = (g - mean g - â mean(g ⊙ â)) / σ                                                 (N2)

So â and 1/σ, one number a row, are all that is remembered. A row of equal numbers has â = 0.

A cell normalises its product with W_h here, and that with W_x by its `Form`; each has a gain.
"""

import functools
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.cells.parts import Joined, Kernel, Vector
from jaxrnn.types import Array, State


class Normed(namedtuple("Normed", "values rate")):
    """â of (N1), `(*lead, F)`, and 1/σ, `(*lead, 1)`, in float32 at least."""

    def adjoint(self, d_values: Float[Array, "*lead F"]) -> Float[Array, "*lead F"]:
        """∂L/∂a of (N2), given g = ∂L/∂â."""
        g, values = (jnp.asarray(x, self.rate.dtype) for x in (d_values, self.values))
        along = jnp.mean(g * values, axis=-1, keepdims=True)
        d_a = (g - jnp.mean(g, axis=-1, keepdims=True) - values * along) * self.rate
        return d_a.astype(d_values.dtype)


class NormedSaved(namedtuple("NormedSaved", "gates p")):
    """The gates' values, and the normalised recurrent product."""


def normaliser(epsilon: float) -> Callable[[Array], Normed]:
    """`normed` with this ε, a finite number above 0; otherwise our error."""
    epsilon = check.finite("epsilon", check.positive("epsilon", epsilon))
    return functools.partial(normed, epsilon=epsilon)


def normed(a: Float[Array, "*lead F"], epsilon: float) -> Normed:
    """Apply (N1), with its statistics in float32 at least."""
    wide = jnp.asarray(a, parts.at_least_float32(a.dtype))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    rate = lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + epsilon)
    return Normed((centred * rate).astype(a.dtype), rate)


def product_adjoint(w: Any, p: Any, d_gained: Joined) -> Joined:
    """∂L/∂p of the product whose norm is p, given what is sent back to p̂ ⊙ gain_h."""
    return p.adjoint(parts.scaled(d_gained, w.gain_h))


def product_gathered(w: Any, h_tm1: State, p: Any, d_gained: Joined) -> tuple[Kernel, Vector]:
    """∂L/∂W_h and ∂L/∂gain_h."""
    d_w_h = parts.product_gathered(h_tm1, product_adjoint(w, p, d_gained), w.w_h)
    return d_w_h, parts.summed(d_gained * p.values)
