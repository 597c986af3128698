"""How far back does the last state depend on the states before it?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.diagnostics.spectrum import Spectrum


class Reach(NamedTuple):
    """How strongly the last state depends on the one k steps before, of each row.

    Fields:
        frobenius: ‖∂c_T/∂c_{T-k}‖_F for k = 0..T, `(T+1, *batch)`.
        spectral: ‖∂c_T/∂c_{T-k}‖₂, likewise; 1 for k = 0.
        rate: ρ of the fit, `(*batch)`.
        horizon: `(*batch)`, the largest k whose spectral norm is not below the threshold; T if it
            never falls there.
    """

    frobenius: jax.Array
    spectral: jax.Array
    rate: jax.Array
    horizon: jax.Array


def reach(found: Spectrum, *, threshold: float = 0.01) -> Reach:
    """The norms of products of Jacobians against their lag, with the fitted rate and the horizon.

        ‖∂c_T/∂c_{T-k}‖₂ ≈ a ρᵏ     by least squares of the logarithms over k = 0..T         (1)

    Args:
        found: what `spectrum` gives; with R < N probes the spectral norm is a lower bound and the
            Frobenius norm an estimate.
        threshold: below which a state counts as forgotten, above 0.

    Returns:
        A `Reach`. Norms too small to have a logarithm have no say in the fit.

    Gradient: not meant.

    Source: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013.
    """
    check.positive("threshold", threshold)
    values, spectral = found.products, found.products[..., 0]
    share = found.size / values.shape[-1]
    frobenius = jnp.linalg.norm(values, axis=-1) * jnp.asarray(share, values.dtype) ** 0.5
    lags = jax.lax.broadcasted_iota(values.dtype, spectral.shape, 0)
    known = (spectral > jnp.finfo(values.dtype).tiny).astype(values.dtype)
    weight = known / jnp.maximum(1, jnp.sum(known, 0, keepdims=True))
    from_mean = weight * (lags - jnp.sum(weight * lags, 0, keepdims=True))
    spread = jnp.sum(from_mean * lags, 0)
    slope = jnp.sum(from_mean * jnp.log(jnp.where(known > 0, spectral, 1)), 0)
    rate = jnp.exp(slope / jnp.where(spread > 0, spread, 1))  # (1)
    horizon = jnp.max(jnp.where(spectral >= threshold, lags, 0), axis=0).astype(jnp.int32)
    return Reach(frobenius, spectral, rate, horizon)
