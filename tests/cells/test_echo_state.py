"""What is special about the echo state network: its weights are scaled, and never learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import distance, often

import jaxrnn
from jaxrnn.cells.echo_state import spectral_radius

LOOPS = dict(jaxrnn.LOOPS)
T, B, I, H = 6, 3, 2, 5


def matrices():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        yield f"dense {size}", rng.uniform(-1, 1, (size, size))
    sparse = rng.uniform(-1, 1, (40, 40))
    yield "sparse", np.where(rng.random((40, 40)) < 0.1, sparse, 0)
    yield "rotation", np.array([[0.0, -3.0], [3.0, 0.0]])
    yield "far from normal", np.array([[0.5, 100.0, 0.0], [0.0, 0.5, 100.0], [0.0, 0.0, -0.25]])
    yield "large", rng.uniform(-1, 1, (9, 9)) * 1e30
    yield "small", rng.uniform(-1, 1, (9, 9)) * 1e-30
    yield "of rank 1", np.outer(rng.uniform(0, 1, 9), rng.uniform(0, 1, 9))


@pytest.mark.parametrize(
    ("name", "matrix"), [*matrices()], ids=lambda x: x if type(x) is str else ""
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_spectral_radius_is_the_largest_eigenvalue(name, matrix, dtype):
    wanted = np.abs(np.linalg.eigvals(matrix)).max()
    # An eigenvalue that is double has the error of the root of a rounding, for NumPy too.
    limit = 1e-2 if name == "far from normal" else 1e-4 if dtype == jnp.float32 else 1e-9
    np.testing.assert_allclose(spectral_radius(jnp.asarray(matrix, dtype)), wanted, rtol=limit)


def test_a_matrix_without_eigenvalues_has_the_radius_zero_and_is_not_scaled():
    assert spectral_radius(jnp.asarray(np.triu(np.ones((4, 4)), 1))) == 0
    params = jaxrnn.echo_state(3, density=1e-9).init(jax.random.key(0), I)
    assert not np.any(params["w_h"])


@pytest.mark.parametrize("radius", [0.5, 1.2])
def test_a_reservoir_starts_with_its_radius_density_and_scale(radius):
    cell = jaxrnn.echo_state(100, spectral_radius=radius, density=0.2, input_scale=3.0)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    w_h = np.asarray(params["w_h"])
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(w_h)).max(), radius, rtol=1e-9)
    assert abs((w_h != 0).mean() - 0.2) < 0.02
    assert 2.9 < np.abs(params["w_x"]).max() < 3


def test_a_start_calls_no_lapack():
    init = jax.jit(jax.vmap(lambda key: jaxrnn.echo_state(H).init(key, I)))
    assert "custom_call" not in init.lower(jax.random.split(jax.random.key(0), 2)).as_text()


@pytest.mark.parametrize("loop_name", often(LOOPS, ("scan", "bptt", "truncated:2:5")))
def test_weights_have_no_gradient_and_inputs_have_one(loop_name):
    cell, loop = jaxrnn.echo_state(H, leak=0.5), LOOPS[loop_name]
    params = cell.init(jax.random.key(0), I, jnp.float64)
    carry, xs = jnp.ones((B, H)), jnp.ones((T, B, I))

    def value(*args):
        last, ys = loop(cell, *args)
        return jnp.sum(ys) + jnp.sum(last)

    d_params, d_carry, d_xs = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(params, carry, xs)
    assert all((d == 0).all() for d in jax.tree.leaves(d_params))
    assert (d_carry != 0).all()
    assert (d_xs != 0).all()


def test_only_the_readout_of_a_stack_learns():
    """To say what came two steps before, which the reservoir holds."""
    net = jaxrnn.stacked(jaxrnn.echo_state(50), jaxrnn.linear(1))
    params = net.init(jax.random.key(0), 1)
    xs = jax.random.uniform(jax.random.key(1), (300, 1), jnp.float32, -0.5, 0.5)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def update(_, state):
        params, moments = state
        grads = jax.grad(loss)(params)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), moments

    def loss(params):
        ys = jaxrnn.unroll(net, params, xs)[1]
        return jnp.mean((ys[2:] - xs[:-2]) ** 2)

    with jax.numpy_dtype_promotion("standard"):
        trained, _ = jax.lax.fori_loop(0, 300, update, (params, optimizer.init(params)))
    assert distance(trained[0], params[0]) == 0
    assert loss(trained) < loss(params) / 10
    assert loss(trained) < 0.2 * jnp.var(xs)


def test_a_certificate_sees_a_gradient_where_the_step_stops_it():
    cell = jaxrnn.echo_state(H)

    class Learning(jaxrnn.echo_state):
        def prepare(self, params):
            return jaxrnn.elman.prepare(self, params)

        def _gradients(self, w, residuals, deltas):
            return jaxrnn.elman._gradients(self, w, residuals, deltas)

        def _product_gradient(self, hs, deltas, w):
            return jaxrnn.elman._product_gradient(self, hs, deltas, w)

    assert jaxrnn.certify(cell).ok
    args = cell.init(jax.random.key(0), I), cell.initial_carry((B,)), jnp.ones((T, B, I))

    def loop(step, *args):
        return jaxrnn.bptt(Learning(H) if step is cell else step, *args)

    rows = jaxrnn.certify(cell, *args, loop=loop).rows
    wrong = {(row.reference, row.array) for row in rows if not row.ok}
    assert ("autodiff", "params['w_h']") in wrong
    assert ("finite differences", "params['w_h']") in wrong
