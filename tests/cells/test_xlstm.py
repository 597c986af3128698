"""What is special about xLSTM: exponential gates that do not overflow, heads, a zero state."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance, noise, sigmoid

import jaxrnn

T, B, I, H, N = 7, 3, 4, 6, 2


def drawn(cell, seed=0):
    rng = np.random.default_rng(seed)
    params = cell.init(jax.random.key(seed), I, jnp.float64)
    params = jax.tree.map(lambda p, n: p + n / 2, params, noise(rng, params))
    return params, jnp.asarray(rng.standard_normal((T, B, I)))


def peer(path):
    """A module of the authors' package, which warns where there is no GPU."""
    torch = pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch, pytest.importorskip(path, reason="xlstm is a peer, not a dependency")


def test_the_first_step_forgets_the_zero_state():
    """The paper's n_0 is 0: all weight is on the first input, whatever the gates are."""
    cell = jaxrnn.slstm(H, num_heads=N)
    params, xs = drawn(cell)
    carry, y = cell(params, cell.initial_carry((B,), jnp.float64), xs[0])
    x, w_x, b = (np.asarray(array) for array in (xs[0], params["w_x"], params["b"]))
    a_i, _, a_g, a_o = np.split(x @ w_x + b, 4, axis=-1)
    assert distance(y, sigmoid(a_o) * np.tanh(a_g)) < 1e-14
    assert distance(carry.m, a_i) < 1e-14


@pytest.mark.parametrize(("size", "limit"), [(1e2, 1e-4), (1e4, 1e-2), (-1e4, 1e-2)])
def test_large_exponents_neither_overflow_nor_lose_what_is_stored(size, limit):
    """In float32 exp(100) overflows; the mean of all values with equal weights does not.

    The logarithm of a weight is as exact as float32 is at its size.
    """
    cell = jaxrnn.slstm(1, forget_bias=50.0)
    params = cell.init(jax.random.key(0), 1)
    params = {name: jnp.zeros_like(p) for name, p in params.items()} | {"b": params["b"]}
    params["b"] = params["b"].at[0].set(size)
    params["w_x"] = params["w_x"].at[0, 2].set(1.0)
    xs = jnp.linspace(-1, 1, 50, dtype=jnp.float32)[:, None] + 0.3

    def total(params):
        carry, ys = jaxrnn.unroll(cell, params, xs)
        return jnp.sum(ys), carry

    grads, carry = jax.grad(total, has_aux=True)(params)
    np.testing.assert_allclose(carry.c, np.mean(np.tanh(xs), keepdims=True)[0], rtol=limit)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_each_block_of_a_kernel_starts_orthogonal_for_each_gate():
    size = H // N
    w_h = jaxrnn.slstm(H, num_heads=N).init(jax.random.key(0), I, jnp.float64)["w_h"]
    for block in w_h:
        for gate in jnp.split(block, 4, axis=-1):
            np.testing.assert_allclose(gate.T @ gate, np.eye(size), atol=1e-12)


def test_one_head_per_unit_lets_each_unit_read_itself_alone():
    cell = jaxrnn.slstm(H, num_heads=H)
    params, xs = drawn(cell)

    def last(carry):
        return cell(params, carry, xs[0, 0])[0].h

    carry = jax.tree.map(jnp.cos, cell.initial_carry((), jnp.float64))
    slopes = jax.jacrev(last)(carry).h
    assert distance(slopes, np.diag(np.diag(slopes))) == 0
    assert np.all(np.diag(slopes) != 0)


def test_dropout_of_the_state_has_a_number_for_each_unit_of_each_head():
    cell = jaxrnn.transforms.variational_dropout(jaxrnn.slstm(H, num_heads=N), state_rate=0.5)
    params, xs = drawn(cell)
    ((_, keep), _), _ = cell.draw_noise(jax.random.key(0), params, None, xs)
    assert keep.shape == (B, H)
    ys = jaxrnn.unroll(cell, params, xs, key=jax.random.key(0))[1]
    assert distance(ys, jaxrnn.unroll(cell, params, xs)[1]) > 1e-2


@pytest.mark.parametrize("loop", [jaxrnn.scan, jaxrnn.bptt])
def test_slstm_equals_the_package_of_its_authors(loop):
    torch, module = peer("xlstm.blocks.slstm.src.vanilla.slstm")
    cell = jaxrnn.slstm(H)
    params, xs = drawn(cell)
    carry = cell.initial_carry((B,), jnp.float64)
    _, ys = jax.jit(functools.partial(loop, cell))(params, carry, xs)
    states = torch.zeros((4, B, H), dtype=torch.float64)
    w_x, w_h, b = (torch.tensor(np.asarray(params[name])) for name in ("w_x", "w_h", "b"))
    for x, y in zip(np.array(xs), ys, strict=True):
        states, _ = module.slstm_forward_pointwise(
            torch.tensor(x) @ w_x, states[0] @ w_h[0], b, states, {}
        )
        assert distance(y, states[0].numpy()) < 1e-13


def test_mlstm_retrieves_a_value_by_its_key():
    """Two keys at right angles: the query of one gives back its value, whatever came between."""
    cell = jaxrnn.mlstm(2, key_size=2)
    params = {"w_x": jnp.eye(10), "b": jnp.zeros(10).at[7].set(50.0).at[8:].set(50.0)}  # f = o = 1
    stored, other, asked = np.zeros((3, 10))
    stored[2:6] = 100, 0, 0.25, -0.75
    other[2:6] = 0, 100, 0.5, 0.5
    asked[:2], asked[6] = (1, 0), -50.0  # which stores nothing
    _, ys = jaxrnn.unroll(cell, params, jnp.asarray(np.stack([stored, other, asked])))
    np.testing.assert_allclose(ys[2], stored[4:6], rtol=1e-12)


@pytest.mark.parametrize("m", [-1e3, 1e3])
def test_a_stabilizer_of_any_size_has_finite_gradients(m):
    """exp(1000) overflows; there a query at right angles to all keys would divide 0 by 0."""
    cell = jaxrnn.mlstm(H, num_heads=N)
    params, xs = drawn(cell)
    zeros = jax.tree.map(jnp.zeros_like, params)
    carry = cell.initial_carry((B,), jnp.float64)
    carry = carry._replace(m=carry.m + m)
    for weights in (params, zeros):
        for loop in (jaxrnn.scan, jaxrnn.bptt):
            grads = jax.grad(lambda p, c, loop=loop: jnp.sum(loop(cell, p, c, xs)[1]), (0, 1))
            assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads(weights, carry)))


@pytest.mark.parametrize("loop", [jaxrnn.scan, jaxrnn.bptt])
def test_mlstm_equals_the_package_of_its_authors(loop):
    """Which adds 1e-6 to the denominator, here 0, and has its output gate elsewhere."""
    torch, module = peer("xlstm.blocks.mlstm.backends")
    cell = jaxrnn.mlstm(H, num_heads=N)
    params, xs = drawn(cell)
    zero = cell.initial_carry((B,), jnp.float64)
    _, ys = jax.jit(functools.partial(loop, cell))(params, zero, xs)
    z = cell.project(params, xs)
    z = jax.tree.map(lambda x: torch.tensor(np.array(x)), z._replace(k=z.k * z.k.shape[-1] ** 0.5))
    states = [torch.tensor(np.array(c)) for c in zero[1:]]
    states = [states[0], states[1][..., None], states[2][..., None, None]]
    for t, y in enumerate(ys):
        q, k, v = (part[t][:, :, None] for part in (z.q, z.k, z.v))
        i, f = (part[t][..., None, None] for part in (z.i, z.f))
        h, states = module.recurrent_step_stabilized_simple(*states, q, k, v, i, f, eps=0.0)
        wanted = (torch.sigmoid(z.o[t]) * h[:, :, 0]).reshape(B, H)
        assert distance(y, wanted.numpy()) < 1e-13
