"""QR and singular values by products against LAPACK's, for matrices of every sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.diagnostics.linear_algebra import qr, singular_values

SHAPES = [(1, 1), (1, 7), (2, 2), (2, 5), (3, 3), (5, 9), (8, 8), (24, 40), (33, 33)]


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.standard_normal((columns, rows)))[0].T


def halved(rng, r, n):
    few = max(1, r // 2)
    return rng.standard_normal((r, few)) @ rng.standard_normal((few, n))


# Of an array of random numbers and a shape (R, N), R at most N, a matrix.
SORTS = {
    "random": lambda rng, r, n: rng.standard_normal((r, n)),
    "graded": lambda rng, r, n: (
        (orthonormal(rng, r, r) * np.logspace(0, -20, r)) @ orthonormal(rng, r, n)
    ),
    "graded rows": lambda rng, r, n: (
        rng.standard_normal((r, n)) * rng.permutation(np.logspace(0, -30, r))[:, None]
    ),
    "graded columns": lambda rng, r, n: rng.standard_normal((r, n)) * np.logspace(-30, 0, n),
    "clustered": lambda rng, r, n: (
        (orthonormal(rng, r, r) * (1 + 1e-9 * rng.standard_normal(r))) @ orthonormal(rng, r, n)
    ),
    "orthonormal": orthonormal,
    "identity": lambda rng, r, n: np.eye(r, n),
    "near the identity": lambda rng, r, n: np.eye(r, n) + 1e-9 * rng.standard_normal((r, n)),
    "of half the rank": halved,
    "of rank 1": lambda rng, r, n: np.ones((r, n)),
    "zero": lambda rng, r, n: np.zeros((r, n)),
    "with zero rows": lambda rng, r, n: rng.standard_normal((r, n)) * (np.arange(r) % 2)[:, None],
    "with zero columns": lambda rng, r, n: rng.standard_normal((r, n)) * (np.arange(n) % 2),
    "a Jordan block": lambda rng, r, n: np.eye(r, n) + np.eye(r, n, k=1),
    "huge": lambda rng, r, n: 1e30 * rng.standard_normal((r, n)),
    "tiny": lambda rng, r, n: 1e-30 * rng.standard_normal((r, n)),
}

every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def matrices(shape, dtype):
    """One of each sort, `(sorts, R, N)`."""
    rng = np.random.default_rng(sum(shape))
    return np.stack([make(rng, *shape) for make in SORTS.values()]).astype(dtype)


@every_dtype
@every_shape
def test_singular_values_are_those_of_lapack(shape, dtype):
    a = matrices(shape, dtype)
    wanted = np.linalg.svd(a.astype(np.float64), compute_uv=False)
    found = np.asarray(jax.vmap(singular_values)(a), np.float64)
    limit = (10 + shape[0]) * np.finfo(dtype).eps * wanted[:, :1]
    wrong = (np.abs(found - wanted) > limit).any(axis=1)
    assert [name for name, is_wrong in zip(SORTS, wrong, strict=True) if is_wrong] == []
    assert (np.diff(found) <= 0).all()


@every_dtype
@every_shape
def test_singular_values_of_a_triangular_matrix_are_those_of_lapack(shape, dtype):
    """As `jacobian_spectrum` has them."""
    a = np.stack([np.linalg.qr(x.T)[1] for x in matrices(shape, np.float64)]).astype(dtype)
    wanted = np.linalg.svd(a.astype(np.float64), compute_uv=False)
    found = np.asarray(jax.vmap(singular_values)(a), np.float64)
    limit = (10 + shape[0]) * np.finfo(dtype).eps * wanted[:, :1]
    assert (np.abs(found - wanted) <= limit).all()


@every_dtype
@every_shape
def test_qr_is_a_qr_decomposition_column_by_column(shape, dtype):
    """Orthonormal Q, also where a column is zero; and no column is lost beside a larger one."""
    a = np.swapaxes(matrices(shape, dtype), 1, 2)
    q, r = (np.asarray(x, np.float64) for x in jax.vmap(qr)(a))
    eps, size = np.finfo(dtype).eps, shape[0]
    np.testing.assert_allclose(
        np.swapaxes(q, 1, 2) @ q, np.broadcast_to(np.eye(size), r.shape), atol=(10 + size) * eps
    )
    assert (np.tril(r, -1) == 0).all()
    a = a.astype(np.float64)
    peaks = np.abs(a).max(axis=1, keepdims=True)
    assert (np.abs(q @ r - a) <= (10 + size) * eps * peaks * shape[1] ** 0.5).all()


def test_the_diagonal_of_r_is_that_of_lapack_but_for_signs():
    a = np.random.default_rng(0).standard_normal((9, 5))
    wanted = np.abs(np.diagonal(np.linalg.qr(a)[1]))
    np.testing.assert_allclose(np.abs(np.diagonal(qr(a)[1])), wanted, rtol=1e-13)


def test_a_matrix_of_nan_spoils_no_other_and_ends():
    a = np.random.default_rng(0).standard_normal((3, 4, 6))
    a[1, 2, 3] = np.nan
    found, (q, _) = jax.vmap(singular_values)(a), jax.vmap(qr)(np.swapaxes(a, 1, 2))
    assert np.isnan(found[1]).all()
    assert np.isnan(q[1]).any()
    for i in (0, 2):
        np.testing.assert_allclose(found[i], np.linalg.svd(a[i], compute_uv=False), rtol=1e-13)
        assert np.isfinite(q[i]).all()


def test_infinity_ends():
    assert np.isnan(singular_values(jnp.array([[1.0, np.inf], [2.0, 3.0]]))).any()
