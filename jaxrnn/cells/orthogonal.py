"""Orthogonal starts made of matrix products alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn.types import Array, Key

MAX_STEPS = 100  # 1.5¹⁰⁰ is above 10¹⁷: enough for every singular value that rounding leaves


def orthogonal(key: Key, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws a matrix with orthonormal columns, or rows where it has more columns than rows.

        X = G (GᵀG)^{-1/2}                  with independent normal numbers in G             (1)

    G and UG have one distribution for every orthogonal U, so X and UX have too: X is uniformly
    (Haar) distributed.

    Args:
        key: a key; the same key gives the same matrix.
        shape: `(rows, columns)`, both at least 1.
        dtype: float32 or float64.

    Returns:
        X, or its transpose, of that shape: an initializer like those of `jax.nn.initializers`,
        where `orthogonal` is the same by a QR decomposition. See `polar` for why this one has none.

    Source: A. Saxe, J. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of
    learning in deep linear neural networks", ICLR 2014; of (1) Y. Chikuse, "Statistics on special
    manifolds", section 2.2, Springer 2003.
    """
    rows, columns = shape
    x = polar(jax.random.normal(key, (max(shape), min(shape)), dtype))
    return x if rows >= columns else x.T


@jax.jit
def polar(g: Array) -> jax.Array:
    """The orthogonal polar factor G (GᵀG)^{-1/2} of a matrix of full rank, by products alone.

        X_0 = G / ‖GᵀG‖_F^{1/2},   X_{k+1} = s_k X_k (3 I - s_k² X_kᵀX_k) / 2                  (1)
        s_k² = 3 / (1 + l_k + l_k²),   l_{k+1} = s_k l_k (3 - s_k² l_k²) / 2                   (2)

    A step maps each singular value σ to s σ (3 - s²σ²) / 2, which is at most 1 for σ up to 1. With
    (2) it grows 2.6 times while it is small, and l_k → 1 makes the last steps those of Newton and
    Schulz, which double the correct digits. l_0 is where the least singular value of a Gaussian
    matrix usually lies; a smaller one grows 1.5 times a step when l_k has come to 1.

    A program that calls LAPACK in two independent places can wait for ever on jaxlib 0.10.1 (see
    pyproject.toml), and an ensemble of starts is such a program.

    Args:
        g: `(m, n)`, m at least n, float32 or float64.

    Returns:
        X `(m, n)` with XᵀX = I to rounding.

    Time: 2 products of `(n, m)` and `(m, n)` a step; 7 to 25 steps. Under `vmap` as many as the
    matrix that needs most.

    Source: N. Higham, "Functions of Matrices", section 8.3, SIAM 2008; of (2) J. Chen, E. Chow, "A
    stable scaling of Newton-Schulz for improving the sign function computation of a Hermitian
    matrix", Argonne preprint ANL/MCS-P5059-0114 (2014).
    """
    m, n = g.shape
    product = functools.partial(jnp.matmul, precision="highest")
    identity = jnp.eye(n, dtype=g.dtype)
    tolerance = (jnp.finfo(g.dtype).eps * n**0.5) ** 0.5  # which a last step squares

    def moved(x: Array, gram: Array, s: Array | float) -> jax.Array:
        return product(x, s / 2 * (3 * identity - s * s * gram))  # (1)

    def is_far(state: Any) -> jax.Array:
        _, gram, _, k = state
        return (jnp.linalg.norm(gram - identity) > tolerance) & (k < MAX_STEPS)

    def step(state: Any) -> Any:
        x, gram, low, k = state
        s = jnp.sqrt(3 / (1 + low + low * low))
        x = moved(x, gram, s)
        return x, product(x.T, x), s * low * (3 - s * s * low * low) / 2, k + 1  # (2)

    gram = product(g.T, g)
    size = jnp.linalg.norm(gram)
    low = jnp.asarray((m**0.5 - (n - 1) ** 0.5) / (m * n) ** 0.5, g.dtype)
    x, gram, *_ = jax.lax.while_loop(is_far, step, (g / jnp.sqrt(size), gram / size, low, 0))
    return moved(x, gram, 1.0)
