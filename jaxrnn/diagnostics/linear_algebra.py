"""Linear algebra without LAPACK: QR decomposition and singular values, by sums and products.

`jnp.linalg` calls LAPACK on CPU. On jaxlib 0.10.1, a program that calls LAPACK in two independent
places can deadlock (see pyproject.toml). `jacobian_spectrum` of two layers is such a program.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn.types import Array

MAX_SWEEPS = 60  # of `singular_values`; 6 to 12 are usual, 23 is the largest observed in float64

# Rows a and b, paired by place, and the largest |cosine| of the angle of a pair in this sweep.
Pairs = tuple[jax.Array, jax.Array, jax.Array]


class Sweeps(NamedTuple):
    """The state of the Jacobi rotations, between two sweeps.

    Fields:
        pairs: the rows.
        num_sweeps: the number of sweeps so far.
    """

    pairs: Pairs
    num_sweeps: jax.Array | int


_product = functools.partial(jnp.matmul, precision="highest")


@jax.jit
def qr(a: Array) -> tuple[jax.Array, jax.Array]:
    """Returns the QR decomposition A = Q R, computed by Householder reflections.

        H_k = I - 2 v_k v_kᵀ,   R = H_R ⋯ H_1 A,   Q = H_1 ⋯ H_R I                            (1)

    The unit vector v_k makes column k zero below the diagonal. The columns of A are normalised
    before the reflections and R is scaled back afterwards, so that no square overflows or
    underflows.

    Args:
        a: `(N, R)`, N at least R, float32 or float64.

    Returns:
        Q `(N, R)`, whose columns are orthonormal even if A is singular, and R `(R, R)`, upper
        triangular, with diagonal entries of either sign. NaN in A gives NaN.

    Gradient: not supported. Time: 2R reflections of `(N, R)`, one after another.

    Source: A. Householder, "Unitary triangularization of a nonsymmetric matrix", Journal of the ACM
    5 (1958).
    """
    n, size = a.shape
    lengths = _replace_zeros(_row_lengths(a.T))[None]
    rows = jnp.arange(n)

    def eliminate(a: Array, k: Array) -> tuple[jax.Array, jax.Array]:
        below = jnp.where(rows < k, 0, a[:, k])
        length = jnp.sqrt(jnp.sum(below * below))
        # Of the two reflections, the one in which no digits cancel.
        v = below.at[k].add(jnp.where(below[k] < 0, -length, length))
        v = v / _replace_zeros(jnp.sqrt(jnp.sum(v * v)))
        return reflect(a, v), v

    def reflect(a: Array, v: Array) -> jax.Array:
        return jnp.subtract(a, 2 * v[:, None] * _product(v, a)[None])

    r, vs = jax.lax.scan(eliminate, a / lengths, rows[:size])  # (1)
    identity = jnp.eye(n, size, dtype=a.dtype)
    q, _ = jax.lax.scan(lambda q, v: (reflect(q, v), None), identity, vs, reverse=True)
    return q, jnp.triu(r[:size]) * lengths


@jax.jit
def singular_values(a: Array) -> jax.Array:
    """Returns the singular values of A in descending order, by one-sided Jacobi rotations.

    Pairs of rows a, b are rotated until all rows are orthogonal. The singular values are then the
    lengths of the rows.

        a ← c a - s b,   b ← s a + c b,   c² + s² = 1                                        (1)
        s/c = t, the smaller solution of t² + t (|b|² - |a|²) / (a·b) = 1                    (2)

    Pairs that share no row are rotated at the same time. A sweep rotates every pair once: R - 1
    rounds of R/2 pairs.

    Args:
        a: `(R, N)`, R at most N, float32 or float64. An upper triangular A needs the fewest sweeps.

    Returns:
        `(R,)`. Values below ε times the largest are rounding errors. NaN in A gives NaN.

    Gradient: not supported. Time: a sweep is R - 1 rounds, one after another, each a few passes
    over A.

    Source: M. Hestenes, "Inversion of matrices by biorthogonalization and related results", SIAM
    Journal 6 (1958). The order of the rounds: R. Brent, F. Luk, "The solution of singular-value and
    symmetric eigenvalue problems on multiprocessor arrays", SIAM Journal on Scientific and
    Statistical Computing 6 (1985).
    """
    eps = float(jnp.finfo(a.dtype).eps)
    size = len(a)
    half = max(2, (size + 1) // 2)
    peak = _replace_zeros(jnp.max(jnp.abs(a)))
    # Rows of zeros make the number of rows even, and at least four.
    rows = jnp.pad(a / peak, ((0, 2 * half - size), (0, 0)))

    def rotate(_: jax.Array | int, state: Pairs) -> Pairs:
        """Rotates each row of a with the row of b at its place, and forms new pairs."""
        a, b, largest_cosine = state
        p = jnp.sum(a * a, axis=1)
        q = jnp.sum(b * b, axis=1)
        d = jnp.sum(a * b, axis=1)
        cosine = jnp.abs(d) / _replace_zeros(jnp.sqrt(p) * jnp.sqrt(q))
        # A row below ε is all rounding error, so its angle to another row means nothing.
        cosine = jnp.where(jnp.minimum(p, q) < eps**2, 0, cosine)
        largest_cosine = jnp.maximum(largest_cosine, jnp.max(cosine))
        x = (q - p) / _replace_zeros(p + q)
        y = 2 * d / _replace_zeros(p + q)
        t = jnp.where(x < 0, -y, y) / _replace_zeros(jnp.abs(x) + jnp.sqrt(x * x + y * y))  # (2)
        c = 1 / jnp.sqrt(1 + t * t)[:, None]
        s = c * t[:, None]
        a, b = c * a - s * b, s * a + c * b  # (1)
        # The first row keeps its place. The others move on by one place, which forms new pairs.
        next_a = jnp.concatenate([a[:1], b[:1], a[1:-1]])
        next_b = jnp.concatenate([b[1:], a[-1:]])
        return next_a, next_b, largest_cosine

    def sweep(state: Sweeps) -> Sweeps:
        (a, b, _), count = state
        zero = jnp.zeros((), a.dtype)
        return Sweeps(jax.lax.fori_loop(0, 2 * half - 1, rotate, (a, b, zero)), count + 1)

    def is_unfinished(state: Sweeps) -> jax.Array:
        (_, _, largest_cosine), count = state
        return (largest_cosine > eps * (size + 10)) & (count < MAX_SWEEPS)

    start = rows[:half], rows[half:], jnp.full((), jnp.inf, rows.dtype)
    (a, b, _), _ = jax.lax.while_loop(is_unfinished, sweep, Sweeps(start, 0))
    return peak * jnp.sort(_row_lengths(jnp.concatenate([a, b])), descending=True)[:size]


def _row_lengths(rows: Array) -> jax.Array:
    """Returns the Euclidean length of each row; no square overflows or underflows."""
    peak = _replace_zeros(jnp.max(jnp.abs(rows), axis=1))
    return peak * jnp.sqrt(jnp.sum((rows / peak[:, None]) ** 2, axis=1))


def _replace_zeros(x: Array) -> jax.Array:
    """Replaces 0 by 1, so that a division by the result is safe."""
    return jnp.where(x == 0, 1, x)
