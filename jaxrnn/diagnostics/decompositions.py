"""QR decomposition and singular values by sums and products alone.

`jnp.linalg` calls LAPACK on CPU. A program that calls it in two independent places can wait for
ever on jaxlib 0.10.1 (see pyproject.toml), and `spectrum` of two layers is such a program.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn.types import Array

MAX_SWEEPS = 60  # of `singular_values`; 6 to 12 are usual, 23 the most seen in float64

_product = functools.partial(jnp.matmul, precision="highest")


@jax.jit
def qr(a: Array) -> tuple[jax.Array, jax.Array]:
    """The QR decomposition A = Q R by Householder reflections.

        H_k = I - 2 v_k v_kᵀ,   R = H_R ⋯ H_1 A,   Q = H_1 ⋯ H_R I                            (1)

    where v_k, of length 1, makes the part of column k below the diagonal zero. Columns are brought
    to length 1 before and R back after, so that no square overflows or is lost.

    Args:
        a: `(N, R)`, N at least R, float32 or float64.

    Returns:
        Q `(N, R)` with orthonormal columns, also where A is singular, and R `(R, R)`, upper
        triangular, its diagonal of either sign. NaN in A gives NaN.

    Gradient: not meant. Time: 2R reflections of `(N, R)`, one after another.

    Source: A. Householder, "Unitary triangularization of a nonsymmetric matrix", Journal of the ACM
    5 (1958).
    """
    (n, size), sizes = a.shape, _positive(_lengths(a.T))[None]
    rows = jnp.arange(n)

    def eliminated(a: Array, k: Array) -> tuple[jax.Array, jax.Array]:
        below = jnp.where(rows < k, 0, a[:, k])
        length = jnp.sqrt(jnp.sum(below * below))
        v = below.at[k].add(jnp.where(below[k] < 0, -length, length))
        v = v / _positive(jnp.sqrt(jnp.sum(v * v)))
        return reflected(a, v), v

    def reflected(a: Array, v: Array) -> jax.Array:
        return jnp.subtract(a, 2 * v[:, None] * _product(v, a)[None])

    r, vs = jax.lax.scan(eliminated, a / sizes, rows[:size])  # (1)
    identity = jnp.eye(n, size, dtype=a.dtype)
    q, _ = jax.lax.scan(lambda q, v: (reflected(q, v), None), identity, vs, reverse=True)
    return q, jnp.triu(r[:size]) * sizes


@jax.jit
def singular_values(a: Array) -> jax.Array:
    """The singular values of A, in falling order, by one-sided Jacobi rotations.

    Pairs of rows a, b are turned until all rows are orthogonal; then the singular values are their
    lengths.

        a ← c a - s b,   b ← s a + c b,   c² + s² = 1                                        (1)
        s/c = t, the smaller solution of t² + t (|b|² - |a|²) / (a·b) = 1                    (2)

    Pairs without a row in common are turned at once; a sweep, in which every pair has its turn, is
    R - 1 rounds of R/2 pairs.

    Args:
        a: `(R, N)`, R at most N, float32 or float64; fewest sweeps where it is upper triangular.

    Returns:
        `(R,)`; what is less than ε times the largest is rounding. NaN in A gives NaN.

    Gradient: not meant. Time: R - 1 rounds a sweep, each some passes over A, one after another.

    Source: M. Hestenes, "Inversion of matrices by biorthogonalization and related results", SIAM
    Journal 6 (1958); of the rounds R. Brent, F. Luk, "The solution of singular-value and symmetric
    eigenvalue problems on multiprocessor arrays", SIAM Journal on Scientific and Statistical
    Computing 6 (1985).
    """
    eps, size = float(jnp.finfo(a.dtype).eps), len(a)
    half = max(2, (size + 1) // 2)
    peak = _positive(jnp.max(jnp.abs(a)))
    rows = jnp.pad(a / peak, ((0, 2 * half - size), (0, 0)))  # with rows of zeros, at least four

    def turned(_: Array, state: Any) -> Any:
        a, b, furthest = state
        p, q, d = (jnp.sum(product, axis=1) for product in (a * a, b * b, a * b))
        cosine = jnp.abs(d) / _positive(jnp.sqrt(p) * jnp.sqrt(q))
        cosine = jnp.where(jnp.minimum(p, q) < eps**2, 0, cosine)  # a row that is all rounding
        furthest = jnp.maximum(furthest, jnp.max(cosine))
        x, y = (q - p) / _positive(p + q), 2 * d / _positive(p + q)
        t = jnp.where(x < 0, -y, y) / _positive(jnp.abs(x) + jnp.sqrt(x * x + y * y))  # (2)
        c = 1 / jnp.sqrt(1 + t * t)[:, None]
        s = c * t[:, None]
        a, b = c * a - s * b, s * a + c * b  # (1)
        # The first row stays; the others move on by one place around it, to the next pairs.
        return jnp.concatenate([a[:1], b[:1], a[1:-1]]), jnp.concatenate([b[1:], a[-1:]]), furthest

    def sweep(state: Any) -> Any:
        a, b, _, count = state
        nothing = jnp.zeros((), a.dtype)
        return *jax.lax.fori_loop(0, 2 * half - 1, turned, (a, b, nothing)), count + 1

    def is_far(state: Any) -> jax.Array:
        *_, furthest, count = state
        return (furthest > eps * (size + 10)) & (count < MAX_SWEEPS)

    start = rows[:half], rows[half:], jnp.full((), jnp.inf, rows.dtype), 0
    a, b, *_ = jax.lax.while_loop(is_far, sweep, start)
    return peak * jnp.sort(_lengths(jnp.concatenate([a, b])), descending=True)[:size]


def _lengths(rows: Array) -> jax.Array:
    """Of each row; squares neither overflow nor are lost."""
    peak = _positive(jnp.max(jnp.abs(rows), axis=1))
    return peak * jnp.sqrt(jnp.sum((rows / peak[:, None]) ** 2, axis=1))


def _positive(x: Array) -> jax.Array:
    """1 in the place of 0, for what is to be divided."""
    return jnp.where(x == 0, 1, x)
