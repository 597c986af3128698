"""`jacobian_spectrum`, `memory_horizon` against jax.jacobian, closed forms, known exponents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.cells.orthogonal import orthogonal
from jaxrnn.diagnostics import jacobian_spectrum, memory_horizon

T, B, I, H = 6, 2, 2, 3


@functools.partial(jax.jit, static_argnums=0)
def found_of(step, params, carry, xs):
    return jacobian_spectrum(step, params, carry, xs)


@functools.cache
def problem(cell):
    rng = np.random.default_rng(0)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    return (
        params,
        cell.initial_carry((B,), jnp.float64),
        jnp.asarray(rng.standard_normal((T, B, I))),
    )


def real(carry):
    """All numbers of one row's carry as real ones."""
    leaves = jax.tree.leaves(carry)
    parts = [p for c in leaves for p in ((c.real, c.imag) if jnp.iscomplexobj(c) else (c,))]
    return jnp.concatenate([p.ravel() for p in parts])


def jacobians(cell, params, carry, xs, row):
    """Each D_t `(N, N)` of one row, by jax.jacobian of a function of real numbers."""
    leaves, form = jax.tree.flatten(jax.tree.map(lambda c: c[row], carry))

    def tree_of(flat):
        parts = iter(jnp.split(flat, len(flat) // H))
        filled = [
            jax.lax.complex(next(parts), next(parts)) if jnp.iscomplexobj(c) else next(parts)
            for c in leaves
        ]
        return form.unflatten(filled)

    @jax.jit
    def both(flat, x):
        def after(flat):
            return real(cell(params, tree_of(flat), x)[0])

        return after(flat), jax.jacobian(after)(flat)

    flat, found = real(leaves), []
    for x in xs[:, row]:
        flat, jacobian = both(flat, x)
        found.append(np.asarray(jacobian))
    return found


def complex_step(params, c, x):
    """Neither normal nor holomorphic."""
    return jnp.tanh(c @ params + 0.3 * jnp.conj(c)) + x[..., :1].astype(c.dtype), ()


@pytest.mark.parametrize("cell_name", ["lstm", "complex"])
def test_singular_values_and_norms_equal_those_of_jacobians(cell_name):
    cell = jaxrnn.lstm(H)
    args = problem(cell)
    if cell_name == "complex":
        rng = np.random.default_rng(1)
        w, start = rng.standard_normal((2, H, H)), rng.standard_normal((2, B, H))
        cell, args = (
            complex_step,
            (jnp.asarray(w[0] + 1j * w[1]), start[0] + 1j * start[1], args[2]),
        )
    found = found_of(cell, *args)
    reached = jax.jit(memory_horizon)(found)
    for row in range(B):
        steps = jacobians(cell, *args, row)
        product, products = np.eye(len(steps[0])), []
        for step in reversed(steps):
            products.append(product)
            product = product @ step
        products.append(product)
        wanted = [np.linalg.svd(p, compute_uv=False) for p in products]
        np.testing.assert_allclose(found.products[:, row], wanted, rtol=1e-9, atol=1e-14)
        singles = [np.linalg.svd(d, compute_uv=False) for d in steps]
        np.testing.assert_allclose(found.steps[:, row], singles, rtol=1e-10, atol=1e-14)
        norms = [np.linalg.norm(p) for p in products]
        np.testing.assert_allclose(reached.frobenius[:, row], norms, rtol=1e-10)
        norms = [np.linalg.norm(p, 2) for p in products]
        np.testing.assert_allclose(reached.spectral[:, row], norms, rtol=1e-10)
        slope = np.polyfit(np.arange(T + 1), np.log(norms), 1)[0]
        np.testing.assert_allclose(reached.decay_rate[row], np.exp(slope), rtol=1e-10)
        growth = np.sum(np.log([abs(np.linalg.det(d)) for d in steps])) / T
        np.testing.assert_allclose(np.sum(found.exponents[row]), growth, rtol=1e-9)


def linear(params, carry, x):
    return carry @ params + x, carry


def test_exponents_of_a_linear_recurrence_are_the_logs_of_its_eigenvalue_moduli():
    w = np.random.default_rng(3).standard_normal((4, 4)) / 2
    xs = jnp.zeros((2000, 4))
    exponents = found_of(linear, jnp.asarray(w), jnp.zeros(4), xs).exponents
    wanted = np.sort(np.log(np.abs(np.linalg.eigvals(w))))[::-1]
    np.testing.assert_allclose(exponents, wanted, atol=5e-3)


def test_a_tanh_cell_at_zero_input_is_its_kernel():
    cell = jaxrnn.elman(4)
    params = cell.init(jax.random.key(0), 1, jnp.float64)
    params["w_h"] = 0.9 * params["w_h"]  # orthogonal but for the factor
    found = found_of(cell, params, cell.initial_carry((), jnp.float64), jnp.zeros((50, 1)))
    np.testing.assert_allclose(found.exponents, np.full(4, np.log(0.9)), rtol=1e-12)
    reached = memory_horizon(found, threshold=0.1)
    np.testing.assert_allclose(reached.spectral, 0.9 ** np.arange(51), rtol=1e-10)
    assert float(reached.decay_rate) == pytest.approx(0.9, rel=1e-12)
    assert int(reached.horizon) == int(np.log(0.1) / np.log(0.9))


def henon(params, carry, x):
    a, b = params
    return {"x": 1 - a * carry["x"] ** 2 + carry["y"], "y": b * carry["x"]}, ()


def test_the_exponents_of_the_henon_map_are_those_published():
    # J. Sprott, "Chaos and Time-Series Analysis" (2003): 0.41922 and -1.62319.
    start = {"x": jnp.full(1, 0.1), "y": jnp.full(1, 0.1)}
    exponents = found_of(henon, (1.4, 0.3), start, jnp.arange(30000.0)).exponents
    np.testing.assert_allclose(exponents, [0.41922, -1.62319], atol=5e-3)
    assert float(jnp.sum(exponents)) == pytest.approx(np.log(0.3), rel=1e-10)


def test_few_probes_bound_and_estimate():
    cell = jaxrnn.elman(12)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    params["w_h"] = params["w_h"] * jnp.linspace(0.1, 1, 12)[:, None]
    xs = jnp.zeros((8, I))
    carry = cell.initial_carry((), jnp.float64)
    exact = memory_horizon(found_of(cell, params, carry, xs))

    @jax.jit
    def few(keys):
        return jax.lax.map(
            lambda key: memory_horizon(
                jacobian_spectrum(cell, params, carry, xs, probes=4, key=key)
            ),
            keys,
        )

    drawn = few(jax.random.split(jax.random.key(1), 400))
    assert (drawn.spectral <= exact.spectral[None] * (1 + 1e-12)).all()
    mean = jnp.sqrt(jnp.mean(drawn.frobenius**2, 0))
    np.testing.assert_allclose(mean, exact.frobenius, rtol=0.1)


def test_few_probes_see_the_jacobians_through_their_directions():
    """Singular values of Q ∂c_T/∂c_{T-k}, Q drawn by the key; of one step, at the end, of Q D_T."""
    rng, key = np.random.default_rng(4), jax.random.key(3)
    w, q = rng.standard_normal((7, 7)) / 2, orthogonal(key, (3, 7), jnp.float64)
    xs = jnp.zeros((T, 7))
    found = jax.jit(functools.partial(jacobian_spectrum, linear, probes=3, key=key))(
        w, jnp.zeros(7), xs
    )
    power = np.eye(7)
    for k in range(T + 1):
        wanted = np.linalg.svd(q @ power, compute_uv=False)
        np.testing.assert_allclose(found.products[k], wanted, rtol=1e-10)
        power = power @ w.T
    wanted = np.linalg.svd(q @ w.T, compute_uv=False)
    np.testing.assert_allclose(found.steps[-1], wanted, rtol=1e-10)
    bounds = np.linalg.svd(w, compute_uv=False)[:3]
    assert (np.asarray(found.steps) <= bounds * (1 + 1e-12)).all()


def test_a_reset_ends_the_horizon():
    cell = jaxrnn.elman(H)
    params, carry, xs = problem(cell)
    reset = jnp.zeros((T, B), bool).at[3, 0].set(True)
    step = jaxrnn.transforms.resettable(jaxrnn.transforms.masked(cell))
    inputs = jaxrnn.transforms.ResetInputs(
        jaxrnn.transforms.MaskedInputs(xs, jnp.ones((T, B), bool)), reset
    )
    found = found_of(step, jaxrnn.transforms.ResetParams(params, carry), carry, inputs)
    reached = memory_horizon(found)
    assert (np.asarray(reached.spectral)[:, 0] > 0).tolist() == [True] * 3 + [False] * 4
    assert int(reached.horizon[0]) == 2
    assert np.isfinite(np.asarray(reached.decay_rate)).all()


@pytest.mark.parametrize("steps", [0, 1])
def test_short_sequences(steps):
    cell = jaxrnn.elman(H)
    params, carry, xs = problem(cell)
    found = found_of(cell, params, carry, xs[:steps])
    assert found.exponents.shape == (B, H)
    assert found.products.shape == (steps + 1, B, H)
    assert memory_horizon(found).horizon.tolist() == [steps] * B


@pytest.mark.usefixtures("own_messages")
def test_wrong_arguments_are_named():
    cell = jaxrnn.elman(H)
    args = problem(cell)
    with pytest.raises(ValueError, match=r"probes: got 0, expected an int of at least 1"):
        jacobian_spectrum(cell, *args, probes=0)
    with pytest.raises(TypeError, match=r"key: got NoneType, expected a key"):
        jacobian_spectrum(cell, *args, probes=2)
    with pytest.raises(ValueError, match=r"threshold: got 0, expected a number above 0"):
        memory_horizon(None, threshold=0)
