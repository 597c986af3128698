"""Measures how a small difference of states grows: in one step, in k steps, in the long run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.cells.orthogonal import orthogonal
from jaxrnn.diagnostics import linear_algebra
from jaxrnn.transforms.rows import flatten_rows, num_batch_axes
from jaxrnn.types import Carry, Key, Params, PyTree, Step


class JacobianSpectrum(NamedTuple):
    """Singular values and Lyapunov exponents of each row: R values in descending order.

    Fields:
        exponents: Lyapunov exponents `(*batch, R)`, in nats a step; -∞ where a step is singular.
        steps: singular values of ∂c_t/∂c_{t-1}, `(T, *batch, R)`.
        products: singular values of ∂c_T/∂c_{T-k} for k = 0..T, `(T+1, *batch, R)`.
        size: N, the number of real numbers in the carry of a row; a complex number counts as two.
    """

    exponents: jax.Array
    steps: jax.Array
    products: jax.Array
    size: int


class MemoryHorizon(NamedTuple):
    """How strongly the last state depends on the state k steps before it, for each row.

    Fields:
        frobenius: ‖∂c_T/∂c_{T-k}‖_F for k = 0..T, `(T+1, *batch)`.
        spectral: ‖∂c_T/∂c_{T-k}‖₂ for k = 0..T, `(T+1, *batch)`; 1 for k = 0.
        decay_rate: ρ of the fit, `(*batch)`.
        horizon: `(*batch)`, the largest k whose spectral norm is at or above the threshold; T if
            no norm is below it.
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
    key: Key | None = None,
) -> JacobianSpectrum:
    """Returns singular values of the Jacobians of a recurrence, and its Lyapunov exponents.

    Q `(R, N)` with orthonormal rows is propagated back through the sequence like a gradient, and
    orthonormalised again after each step,

        V_T = Q,   V_{t-1}ᵀ R_t = (V_t D_t)ᵀ  with D_t = ∂c_t/∂c_{t-1}, R_t triangular (QR)   (1)
        M_T = I,   M_{t-1} = R_t M_t          so that Q ∂c_T/∂c_t = M_tᵀ V_t                  (2)

    so the singular values of V_t D_t are those of R_t, those of Q ∂c_T/∂c_t are those of M_t, and
    the i-th exponent is the mean over time of log |(R_t)_ii|. With R = N, the singular values are
    exactly those of the Jacobians. With R < N, they are lower bounds, (N/R) ‖M_t‖² is an unbiased
    estimate of the squared Frobenius norm, and the exponents are the largest ones. The product of
    Jacobians grows at the same rate in both directions of time: with exponents below 0, states are
    forgotten and gradients vanish; with exponents above 0, both explode.

    Args:
        step: a Cell or any Step, also a transformed one, whose rows are independent of each other.
        params: the parameters of the step.
        carry: the carry before the first step, `(*batch, features)`.
        xs: the inputs of all steps, `(T, *batch, I)`.
        probes: R, the number of random directions. Defaults to N, with the N axes as directions, as
            does any number of at least N.
        key: a key to draw the directions; needed if `probes` is below N.

    Returns:
        A `JacobianSpectrum`. Singular values of a product below ε times its largest are rounding
        errors.

    Gradient: not supported. Time: R backward passes at once; per step and row, a QR decomposition
    of `(N, R)` and the singular values of two `(R, R)`, none of them by LAPACK (see
    `linear_algebra`). Memory: T carries, and R times one carry.

    Source: G. Benettin et al., "Lyapunov characteristic exponents", Meccanica 15 (1980); R.
    Engelken, F. Wolf, L. Abbott, "Lyapunov spectra of chaotic recurrent neural networks", Physical
    Review Research 5 (2023); for R < N, N. Halko, P. Martinsson, J. Tropp, "Finding structure with
    randomness", SIAM Review 53 (2011).

    Examples:
        >>> cell = jaxrnn.gru(8)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> carry, xs = cell.initial_carry((4,)), jnp.ones((20, 4, 3))
        >>> spectrum = jaxrnn.diagnostics.jacobian_spectrum(cell, params, carry, xs)
        >>> horizon = jaxrnn.diagnostics.memory_horizon(spectrum)
        >>> said = str(jaxrnn.diagnostics.diagnose(horizon, spectrum=spectrum))  # a sentence
    """
    params, carry = tree.checked_arguments(step, params, carry, xs)
    has_floats = any(map(check.is_inexact, jax.tree.leaves(carry)))
    check.require(has_floats, "carry", carry, "some floats")
    batch_rank = num_batch_axes(step, carry)
    qr = jnp.vectorize(linear_algebra.qr, signature="(n,r)->(n,r),(r,r)")
    singular_values = jnp.vectorize(linear_algebra.singular_values, signature="(r,n)->(r)")

    def flatten(carry: Carry) -> jax.Array:
        return flatten_rows(carry, batch_rank)

    def backward(
        state: tuple[jax.Array, jax.Array], inputs: tuple[Carry, PyTree]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
        v, m = state
        previous_carry, x = inputs
        vjp = tree.vjp_inexact(lambda c: flatten(step(params, c, x)[0]), previous_carry)

        def cotangent(row: jax.Array) -> jax.Array:
            # JAX's cotangent of a + ib is ∂/∂a - i ∂/∂b.
            return flatten(jax.tree.map(jnp.conj, vjp(row)[0]))

        v, r = qr(jax.vmap(cotangent, in_axes=-2, out_axes=-2)(v).mT)  # (1)
        m = jnp.matmul(r, m, precision="highest")  # (2)
        logs = jnp.log(jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)))
        # One call for both, since independent decompositions in one program can deadlock.
        of_step, of_product = singular_values(jnp.stack([r, m]))
        return (v.mT, m), (logs, of_step, of_product)

    flat = jax.eval_shape(flatten, carry)
    *batch, size = flat.shape
    if probes is None or check.require_int("probes", probes, least=1) >= size:
        q = jnp.eye(size, dtype=flat.dtype)
    else:
        q = orthogonal(check.require_key("key", key), (probes, size), flat.dtype)
    identity = jnp.eye(len(q), dtype=q.dtype)
    start = (
        jnp.broadcast_to(q, (*batch, *q.shape)),
        jnp.broadcast_to(identity, (*batch, *identity.shape)),
    )
    _, previous_carries = jax.lax.scan(lambda c, x: (step(params, c, x)[0], c), carry, xs)
    _, (logs, steps, products) = jax.lax.scan(backward, start, (previous_carries, xs), reverse=True)
    exponents = jnp.sort(jnp.sum(logs, 0) / max(1, len(logs)), axis=-1, descending=True)
    products = jnp.concatenate([jnp.ones_like(exponents)[None], jnp.flip(products, 0)])
    return JacobianSpectrum(exponents, steps, products, size)


def memory_horizon(spectrum: JacobianSpectrum, *, threshold: float = 0.01) -> MemoryHorizon:
    """Returns the norms of products of Jacobians by lag, their decay rate and the horizon.

        ‖∂c_T/∂c_{T-k}‖₂ ≈ a ρᵏ     by least squares of the logarithms over k = 0..T         (1)

    Args:
        spectrum: the result of `jacobian_spectrum`. With R < N probes, the spectral norm is a lower
            bound and the Frobenius norm an estimate.
        threshold: the norm below which a state counts as forgotten, above 0.

    Returns:
        A `MemoryHorizon`. The fit leaves out norms that are too small to have a logarithm.

    Gradient: not supported.

    Source: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013.
    """
    check.require_positive("threshold", threshold)
    check.require_instance("spectrum", spectrum, JacobianSpectrum)
    values = spectrum.products
    spectral = values[..., 0]
    share = spectrum.size / values.shape[-1]  # N / R, for fewer probes than numbers
    frobenius = jnp.linalg.norm(values, axis=-1) * jnp.asarray(share, values.dtype) ** 0.5
    lags = jax.lax.broadcasted_iota(values.dtype, spectral.shape, 0)
    # A weight of 0 leaves a norm out of the fit, whose rate is the exponential of the slope.
    weights = (spectral > jnp.finfo(values.dtype).tiny).astype(values.dtype)
    deviations = weights * (lags - jnp.average(lags, 0, weights, keepdims=True))
    variance = jnp.sum(deviations * lags, 0)
    covariance = jnp.sum(deviations * jnp.log(jnp.where(weights > 0, spectral, 1)), 0)
    rate = jnp.exp(covariance / jnp.where(variance > 0, variance, 1))  # (1)
    horizon = jnp.max(jnp.where(spectral >= threshold, lags, 0), axis=0).astype(jnp.int32)
    return MemoryHorizon(frobenius, spectral, rate, horizon)
