"""Orthogonal initialisation by matrix products alone."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn.types import Array, Key

# A singular value grows 1.5 times in each iteration at least, and 1.5¹⁰⁰ > 10¹⁷ is enough for every
# one above rounding error.
MAX_ITERATIONS = 100


class _Iterate(NamedTuple):
    """The state of the iteration (2), (3).

    Fields:
        x: X_k.
        gram: X_kᵀ X_k, which goes to the identity.
        low: l_k, which is where the least singular value of X_k usually lies.
        k: the number of iterations.
    """

    x: Array
    gram: Array
    low: Array
    k: Array | int


def orthogonal(key: Key, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws a matrix with orthonormal columns, or with orthonormal rows if it is wide.

        X = G (GᵀG)^{-1/2},    independent normal numbers in G                               (1)

    G and UG have the same distribution for every orthogonal U, and so do X and UX: the distribution
    of X is uniform (Haar).

    Args:
        key: a key; the same key draws the same matrix.
        shape: `(rows, columns)`, both at least 1.
        dtype: float32 or float64.

    Returns:
        X of that shape, or the transpose of X if there are more columns than rows.

    `jax.nn.initializers.orthogonal` draws from the same distribution by a QR decomposition; `polar`
    says why this function does not.

    Source: A. Saxe, J. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of
    learning in deep linear neural networks", ICLR 2014; for (1) Y. Chikuse, "Statistics on special
    manifolds", section 2.2, Springer 2003.
    """
    rows, columns = shape
    x = polar(jax.random.normal(key, (max(shape), min(shape)), dtype))
    return x if rows >= columns else x.T


@jax.jit
def polar(g: Array) -> jax.Array:
    """Returns the orthogonal polar factor G (GᵀG)^{-1/2} of a matrix of full rank.

        X_0 = G / ‖GᵀG‖_F^{1/2},   X_{k+1} = s_k X_k (3 I - s_k² X_kᵀX_k) / 2                  (2)
        s_k² = 3 / (1 + l_k + l_k²),   l_{k+1} = s_k l_k (3 - s_k² l_k²) / 2                   (3)

    One iteration maps each singular value σ to s σ (3 - s²σ²) / 2, which is at most 1 for σ up to
    1. With (3) a small σ grows 2.6 times in each iteration. As l_k → 1 the last iterations become
    those of Newton and Schulz, which double the number of correct digits. l_0 is where the least
    singular value of a Gaussian matrix usually lies; a smaller one grows 1.5 times in each
    iteration once l_k is 1.

    The function uses matrix products alone. A program that calls LAPACK in two independent places
    can deadlock on jaxlib 0.10.1 (see pyproject.toml), and the initialisation of an ensemble is
    such a program.

    Args:
        g: `(m, n)`, m at least n, float32 or float64.

    Returns:
        X `(m, n)` with XᵀX = I to rounding.

    Time: 2 products of `(n, m)` and `(m, n)` for each iteration, 7 to 25 iterations. Under `vmap`,
    all matrices take as many iterations as the slowest.

    Source: N. Higham, "Functions of Matrices", section 8.3, SIAM 2008; for (3) J. Chen, E. Chow, "A
    stable scaling of Newton-Schulz for improving the sign function computation of a Hermitian
    matrix", Argonne preprint ANL/MCS-P5059-0114 (2014).
    """
    m, n = g.shape
    product = functools.partial(jnp.matmul, precision="highest")
    identity = jnp.eye(n, dtype=g.dtype)
    tolerance = (jnp.finfo(g.dtype).eps * n**0.5) ** 0.5  # the last iteration squares the error

    def next_x(x: Array, gram: Array, s: Array | float) -> jax.Array:
        return product(x, s / 2 * (3 * identity - s * s * gram))  # (2)

    def is_far(state: _Iterate) -> jax.Array:
        distance = jnp.linalg.norm(state.gram - identity)
        return (distance > tolerance) & (state.k < MAX_ITERATIONS)

    def iterate(state: _Iterate) -> _Iterate:
        low = state.low
        s = jnp.sqrt(3 / (1 + low + low * low))  # (3)
        x = next_x(state.x, state.gram, s)
        gram = product(x.T, x)
        next_low = s * low * (3 - s * s * low * low) / 2  # (3)
        return _Iterate(x, gram, next_low, state.k + 1)

    gram = product(g.T, g)
    size = jnp.linalg.norm(gram)
    # The least singular value of G is near √m - √(n-1), and its size ‖GᵀG‖_F^{1/2} near (mn)^{1/2}.
    low = jnp.asarray((m**0.5 - (n - 1) ** 0.5) / (m * n) ** 0.5, g.dtype)
    first = _Iterate(g / jnp.sqrt(size), gram / size, low, 0)
    last = jax.lax.while_loop(is_far, iterate, first)
    # Once more with s = 1, which squares the error that is left.
    return next_x(last.x, last.gram, 1.0)
