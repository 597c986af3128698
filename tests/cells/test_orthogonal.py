"""`orthogonal`: orthonormal to rounding whatever is drawn, and uniform among such matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.cells.orthogonal import orthogonal, polar

SHAPES = [
    (1, 1),
    (1, 7),
    (7, 1),
    (2, 2),
    (3, 3),
    (5, 4),
    (17, 17),
    (64, 256),
    (256, 64),
    (300, 300),
]


def gap(x):
    """The largest entry of XᵀX - I in units of ε √n, over any matrices; of XXᵀ of wide ones."""
    eps = jnp.finfo(x.dtype).eps
    x = np.asarray(x, np.float64)
    x = np.swapaxes(x, -1, -2) if x.shape[-2] < x.shape[-1] else x
    n = x.shape[-1]
    return np.abs(np.swapaxes(x, -1, -2) @ x - np.eye(n)).max() / eps / n**0.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_or_columns_are_orthonormal_to_rounding(shape, dtype):
    x = orthogonal(jax.random.key(0), shape, jnp.dtype(dtype))
    assert (x.shape, x.dtype) == (shape, dtype)
    assert gap(x) < 6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2048, 2048), (1024, 2048), (1000, 1000)], ids=str)
@pytest.mark.thorough
def test_large_matrices_are_orthonormal_to_rounding(shape, dtype):
    assert gap(orthogonal(jax.random.key(0), shape, jnp.dtype(dtype))) < 6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_a_thousand_starts_at_once_however_nearly_singular_their_draws(n, dtype):
    keys = jax.random.split(jax.random.key(1), 1000)
    x = jax.jit(jax.vmap(lambda key: orthogonal(key, (n, n), jnp.dtype(dtype))))(keys)
    assert gap(x) < 6
    if n > 1:
        draw = jax.vmap(lambda key: jax.random.normal(key, (n, n), jnp.dtype(dtype)))(keys)
        assert np.linalg.cond(np.asarray(draw)).max() > 500
    else:
        assert set(np.sign(x).ravel().tolist()) == {-1.0, 1.0}


def parts_of_a_matrix(m, n, condition, dtype, kind):
    """U, σ, Vᵀ with singular values from 1 down to 1 / condition."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((k, n)))[0] for k in (m, n))
    values = {
        "evenly": np.logspace(0, -np.log10(condition), n),
        "one small": np.append(np.ones(n - 1), 1 / condition),
        "one large": np.append(1.0, np.full(n - 1, 1 / condition)),
    }
    return u, values[kind], v.T


@pytest.mark.parametrize("kind", ["evenly", "one small", "one large"])
@pytest.mark.parametrize("shape", [(2, 2), (9, 5), (40, 40)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "condition"),
    [("float64", 1.0), ("float64", 1e6), ("float64", 1e15), ("float32", 1e3), ("float32", 1e7)],
)
def test_the_worst_conditioned_matrices_have_their_polar_factor(shape, dtype, condition, kind):
    u, values, v_t = parts_of_a_matrix(*shape, condition, dtype, kind)
    x = polar(jnp.asarray(1e5 * (u * values) @ v_t, jnp.dtype(dtype)))
    assert gap(x) < 6
    # Moving a matrix by ε moves its polar factor by 2 ε / (σ_n + σ_{n-1}), a tall one's by ε / σ_n.
    least = np.sort(values)[: 2 if shape[0] == shape[1] else 1].mean()
    np.testing.assert_allclose(x, u @ v_t, atol=100 * float(jnp.finfo(x.dtype).eps) / least)


@pytest.fixture(scope="module")
def drawn():
    """100,000 matrices of three rows and columns."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(2), 100_000)
        return np.asarray(jax.jit(jax.vmap(lambda key: orthogonal(key, (3, 3), jnp.float64)))(keys))


# Of O(n) with n = 3: B. Collins, P. Śniady, "Integration with respect to the Haar measure on
# unitary, orthogonal and symplectic group", Communications in Mathematical Physics 264 (2006).
MOMENTS = {
    "x": (lambda x: x[:, 0, 1], 0),
    "x²": (lambda x: x[:, 2, 1] ** 2, 1 / 3),
    "x⁴": (lambda x: x[:, 1, 1] ** 4, 3 / (3 * 5)),
    "x² of one row": (lambda x: x[:, 0, 0] ** 2 * x[:, 0, 1] ** 2, 1 / (3 * 5)),
    "x² of two rows": (lambda x: x[:, 0, 0] ** 2 * x[:, 1, 1] ** 2, 4 / (2 * 3 * 5)),
    "a rectangle": (
        lambda x: x[:, 0, 0] * x[:, 1, 1] * x[:, 0, 1] * x[:, 1, 0],
        -1 / (2 * 3 * 5),
    ),
    "determinant": (np.linalg.det, 0),
    "trace": (lambda x: np.trace(x, axis1=1, axis2=2), 0),
    "trace²": (lambda x: np.trace(x, axis1=1, axis2=2) ** 2, 1),
    "trace of the square": (lambda x: np.trace(x @ x, axis1=1, axis2=2), 1),
    "trace⁴": (lambda x: np.trace(x, axis1=1, axis2=2) ** 4, 3),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_moments_are_those_of_the_uniform_distribution(drawn, name):
    of, wanted = MOMENTS[name]
    values = of(drawn)
    assert abs(values.mean() - wanted) < 4.5 * values.std() / len(values) ** 0.5


def test_an_entry_of_three_is_uniform(drawn):
    """A column is a point on the sphere, and so its height uniform (Archimedes); so is a row."""
    for values in (drawn[:, 0, 0], drawn[:, 1, 2], drawn[:, 2, 0]):
        distance = np.abs(np.sort(values) - np.linspace(-1, 1, len(values))).max() / 2
        assert distance < 2.2 / len(values) ** 0.5  # Kolmogorov: 1 in 10,000


def test_a_wide_start_projects_on_every_direction_alike():
    keys = jax.random.split(jax.random.key(3), 20_000)
    x = np.asarray(jax.jit(jax.vmap(lambda key: orthogonal(key, (2, 5), jnp.float64)))(keys))
    projections = np.swapaxes(x, 1, 2) @ x
    error = projections.std(0) / len(x) ** 0.5
    assert (np.abs(projections.mean(0) - np.eye(5) * 2 / 5) < 4.5 * error).all()


def test_a_key_decides():
    def draw(seed):
        return orthogonal(jax.random.key(seed), (6, 6), jnp.float64)

    np.testing.assert_array_equal(draw(0), draw(0))
    assert np.abs(draw(0) - draw(1)).max() > 0.1
    both = jax.jit(jax.vmap(lambda key: orthogonal(key, (6, 6), jnp.float64)))
    together = both(jnp.stack([jax.random.key(0), jax.random.key(1)]))
    np.testing.assert_allclose(together, [draw(0), draw(1)], atol=1e-12)
    shape = jax.eval_shape(lambda key: orthogonal(key, (6, 4)), jax.random.key(0))
    assert (shape.shape, shape.dtype) == ((6, 4), "float32")
