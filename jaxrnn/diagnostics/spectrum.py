"""How do neighbouring states meet or part: in one step, in k steps, and in the long run?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.cells.orthogonal import orthogonal
from jaxrnn.diagnostics import decompositions
from jaxrnn.transforms.rows import flatten_rows
from jaxrnn.types import Carry, Key, Params, PyTree, Step


class JacobianSpectrum(NamedTuple):
    """Of each row; R values of N in falling order.

    Fields:
        exponents: Lyapunov exponents `(*batch, R)`, nats a step; -∞ where a step is singular.
        steps: singular values of ∂c_t/∂c_{t-1}, `(T, *batch, R)`.
        products: singular values of ∂c_T/∂c_{T-k} for k = 0..T, `(T+1, *batch, R)`.
        size: N, the real numbers in the carry of a row; a complex one counts as two.
    """

    exponents: jax.Array
    steps: jax.Array
    products: jax.Array
    size: int


class MemoryHorizon(NamedTuple):
    """How strongly the last state depends on the one k steps before, of each row.

    Fields:
        frobenius: ‖∂c_T/∂c_{T-k}‖_F for k = 0..T, `(T+1, *batch)`.
        spectral: ‖∂c_T/∂c_{T-k}‖₂, likewise; 1 for k = 0.
        decay_rate: ρ of the fit, `(*batch)`.
        horizon: `(*batch)`, the largest k whose spectral norm is not below the threshold; T if it
            never falls there.
    """

    frobenius: jax.Array
    spectral: jax.Array
    decay_rate: jax.Array
    horizon: jax.Array


def jacobian_spectrum(
    step: Step,
    params: Params,
    carry: Carry,
    xs: PyTree,
    *,
    probes: int | None = None,
    key: Key = None,
) -> JacobianSpectrum:
    """Singular values of the Jacobians of a recurrence, and its Lyapunov exponents.

    Q `(R, N)` with orthonormal rows is sent back through the sequence as a gradient is, and made
    orthonormal again after each step,

        V_T = Q,   V_{t-1}ᵀ R_t = (V_t D_t)ᵀ  with D_t = ∂c_t/∂c_{t-1}, R_t triangular (QR)   (1)
        M_T = I,   M_{t-1} = R_t M_t          so that Q ∂c_T/∂c_t = M_tᵀ V_t                  (2)

    so the singular values of V_t D_t are those of R_t, those of Q ∂c_T/∂c_t those of M_t, and the
    i-th exponent is the mean over time of log |(R_t)_ii|. With R = N the singular values are those
    of the Jacobians, exactly. With fewer they are lower bounds, and (N/R) ‖M_t‖² is without bias
    for the square of the Frobenius norm; the exponents are the largest ones. They belong to a
    product, which grows the same in both directions of time: below 0 states forget and gradients
    vanish, above 0 both explode.

    Args:
        step: a Cell or any Step, transformed ones too, whose rows do not see each other.
        params: as for a loop, like carry and xs.
        carry: ″.
        xs: ″.
        probes: R, the number of directions drawn by `key`; unless it is below N, the N axes.
        key: needed with fewer probes than N.

    Returns:
        A `JacobianSpectrum`. Singular values of a product below ε times its largest are rounding.

    Gradient: not meant. Time: R backward passes at once, a QR decomposition of `(N, R)` and
    singular values of two `(R, R)` a step and row, none of them by LAPACK (see `decompositions`).
    Memory: T carries, and R times one.

    Source: G. Benettin et al., "Lyapunov characteristic exponents", Meccanica 15 (1980); R.
    Engelken, F. Wolf, L. Abbott, "Lyapunov spectra of chaotic recurrent neural networks", Physical
    Review Research 5 (2023); for R < N, N. Halko, P. Martinsson, J. Tropp, "Finding structure with
    randomness", SIAM Review 53 (2011).
    """
    params, carry = tree.checked_arguments(step, params, carry, xs)
    check.require(any(map(check.is_inexact, jax.tree.leaves(carry))), "carry", carry, "some floats")

    def backward(state: tuple[jax.Array, jax.Array], at_t: tuple[Carry, PyTree]) -> PyTree:
        (v, m), (carry_tm1, x) = state, at_t
        back = tree.vjp_inexact(lambda c: flatten_rows(step(params, c, x)[0]), carry_tm1)

        def sent_back(row: jax.Array) -> jax.Array:
            # JAX's cotangent of a + ib is ∂/∂a - i ∂/∂b.
            return flatten_rows(jax.tree.map(jnp.conj, back(row)[0]))

        v, r = qr(jax.vmap(sent_back, in_axes=-2, out_axes=-2)(v).mT)  # (1)
        m = jnp.matmul(r, m, precision="highest")  # (2)
        logs = jnp.log(jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)))
        return (v.mT, m), (logs, *singular_values(jnp.stack([r, m])))

    qr = jnp.vectorize(decompositions.qr, signature="(n,r)->(n,r),(r,r)")
    singular_values = jnp.vectorize(decompositions.singular_values, signature="(r,n)->(r)")
    form = jax.eval_shape(flatten_rows, carry)
    *batch, size = form.shape
    if probes is None or check.require_int("probes", probes, least=1) >= size:
        q = jnp.eye(size, dtype=form.dtype)
    else:
        check.require_key("key", key)
        q = orthogonal(key, (probes, size), form.dtype)
    identity = jnp.eye(len(q), dtype=q.dtype)
    q, identity = (jnp.broadcast_to(x, (*batch, *x.shape)) for x in (q, identity))
    _, carries_tm1 = jax.lax.scan(lambda c, x: (step(params, c, x)[0], c), carry, xs)
    start = q, identity
    _, (logs, steps, products) = jax.lax.scan(backward, start, (carries_tm1, xs), reverse=True)
    exponents = jnp.sort(jnp.sum(logs, 0) / max(1, len(logs)), axis=-1, descending=True)
    products = jnp.concatenate([jnp.ones_like(exponents)[None], jnp.flip(products, 0)])
    return JacobianSpectrum(exponents, steps, products, size)


def memory_horizon(spectrum: JacobianSpectrum, *, threshold: float = 0.01) -> MemoryHorizon:
    """The norms of products of Jacobians against their lag, with the fitted rate and the horizon.

        ‖∂c_T/∂c_{T-k}‖₂ ≈ a ρᵏ     by least squares of the logarithms over k = 0..T         (1)

    Args:
        spectrum: what `jacobian_spectrum` gives; with R < N probes the spectral norm is a lower bound and the
            Frobenius norm an estimate.
        threshold: below which a state counts as forgotten, above 0.

    Returns:
        A `MemoryHorizon`. Norms too small to have a logarithm have no say in the fit.

    Gradient: not meant.

    Source: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013.
    """
    check.require_positive("threshold", threshold)
    check.require_instance("spectrum", spectrum, JacobianSpectrum)
    values, spectral = spectrum.products, spectrum.products[..., 0]
    share = spectrum.size / values.shape[-1]
    frobenius = jnp.linalg.norm(values, axis=-1) * jnp.asarray(share, values.dtype) ** 0.5
    lags = jax.lax.broadcasted_iota(values.dtype, spectral.shape, 0)
    known = (spectral > jnp.finfo(values.dtype).tiny).astype(values.dtype)
    from_mean = known * (lags - jnp.average(lags, 0, known, keepdims=True))
    spread = jnp.sum(from_mean * lags, 0)
    slope = jnp.sum(from_mean * jnp.log(jnp.where(known > 0, spectral, 1)), 0)
    rate = jnp.exp(slope / jnp.where(spread > 0, spread, 1))  # (1)
    horizon = jnp.max(jnp.where(spectral >= threshold, lags, 0), axis=0).astype(jnp.int32)
    return MemoryHorizon(frobenius, spectral, rate, horizon)
