"""What truncation costs, and how far back a gradient must reach to cost less."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure
from reference import often

import jaxrnn
from jaxrnn.diagnostics import TruncationBias, plots

T, B, SIZE = 37, 3, 4


@functools.cache
def problem(cell_name="gru"):
    """A loss at every step of a layer after a layer, and its parameters."""
    net = jaxrnn.stacked(dict(jaxrnn.CELLS)[cell_name](5), jaxrnn.linear(SIZE))
    params = net.init(jax.random.key(0), SIZE, jnp.float64)
    xs = np.random.default_rng(0).standard_normal((T, B, SIZE))

    def loss(params, scale, loop=jaxrnn.bptt):
        _, ys = jaxrnn.unroll(net, params, scale * xs, loop=loop)
        return jnp.mean((ys - xs[::-1]) ** 2)

    return loss, params


def flat(grads):
    return np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)])


def double(k):
    return jaxrnn.truncated(k, 2 * k)


def by_definition(loss, params, loop):
    """Error and angle by their definitions."""
    exact, found = (flat(jax.grad(loss)(params, 1.0, loop=some)) for some in (jaxrnn.scan, loop))
    cosine = min(1.0, found @ exact / np.linalg.norm(found) / np.linalg.norm(exact))
    return np.linalg.norm(found - exact) / np.linalg.norm(exact), np.degrees(np.arccos(cosine))


def test_rows_are_errors_and_angles_of_truncated_gradients():
    loss, params = problem()
    rows = jaxrnn.diagnostics.truncation_bias(loss, params, 1.0)
    assert [row.k for row in rows] == [1, 2, 4, 8, 16, 32]
    for k, error, angle in rows:
        wanted = by_definition(loss, params, jaxrnn.truncated(k))
        np.testing.assert_allclose((error, angle), wanted, rtol=1e-6, atol=1e-5)
    assert rows[0].error > 5 * rows[-1].error > 0


def test_lengths_and_loops_are_the_users():
    loss, params = problem()
    others = {"make": double, "loop": jaxrnn.checkpointed()}
    first, exact = jaxrnn.diagnostics.truncation_bias(loss, params, 1.0, ks=(3, T), **others)
    assert (first.k, exact.k) == (3, T)
    wanted = by_definition(loss, params, jaxrnn.truncated(3, 6))
    np.testing.assert_allclose((first.error, first.angle), wanted, rtol=1e-5)
    assert exact.error < 1e-14
    assert exact.angle < 1e-12


def test_where_there_is_no_gradient_there_is_no_angle():
    loss, params = problem()
    (row,) = jaxrnn.diagnostics.truncation_bias(
        lambda *args, loop: 0 * loss(*args, loop=loop), params, 1.0, ks=[2]
    )
    assert np.isnan(row.error)
    assert np.isnan(row.angle)


@pytest.mark.parametrize("tolerance", often((0.3, 0.03, 0.003), (0.03,)))
@pytest.mark.parametrize("cell_name", often(("elman", "gru", "lstm"), ("lstm",)))
def test_the_bias_is_within_the_estimate_and_that_within_the_tolerance(cell_name, tolerance):
    loss, params = problem(cell_name)
    found = jaxrnn.diagnostics.adaptive_truncation(loss, params, 1.0, tolerance=tolerance)
    wanted = jaxrnn.truncated(found.k, 2 * found.k) if found.k < T else jaxrnn.bptt
    assert found.loop == wanted
    true, _ = by_definition(loss, params, found.loop)
    assert true <= found.bias + 1e-14
    assert found.bias <= tolerance
    assert found.bias < 4 * true
    if found.k > 2:  # Half of it would not do, even if it were known.
        half, _ = by_definition(loss, params, jaxrnn.truncated(found.k // 2, found.k))
        assert half > tolerance / 6


@pytest.mark.parametrize(("decay", "k"), [(0.5, 8), (0.9, 64)])
def test_of_a_geometric_decay_it_finds_the_least_power_of_two(decay, k):
    """h_t = a h_{t-1} + b, all dh_T/db = Σ aⁿ; ĝ lacks aᵏ of it where T is a multiple of k."""

    def loss(b, loop):
        return loop(lambda b, h, x: (decay * h + b, ()), b, jnp.zeros(()), jnp.zeros(1024))[0]

    found = jaxrnn.diagnostics.adaptive_truncation(loss, jnp.asarray(1.0), tolerance=0.01)
    lacking = decay ** np.array([2 * found.k, found.k])  # at k, which reaches 2k here, and at k / 2
    assert (found.k, found.loop) == (k // 2, jaxrnn.truncated(k // 2, k))
    assert lacking[0] <= found.bias <= 0.01 < lacking[1] / (1 - decay**found.k)


def test_what_does_not_decay_is_not_truncated():
    """The sum of all inputs; and a sequence too short to tell."""

    def loss(b, steps, loop=jaxrnn.bptt):
        return loop(lambda b, h, x: (h + b, ()), b, jnp.zeros(()), jnp.zeros(steps))[0]

    for steps in (64, 3, 1):
        found = jaxrnn.diagnostics.adaptive_truncation(loss, jnp.asarray(1.0), steps, tolerance=0.5)
        assert found == (steps, 0.0, jaxrnn.bptt)


@pytest.mark.thorough
def test_real_text_keeps_within_the_tolerance():
    """A character model on a page of English, as it starts and once it has learned a little."""
    text = np.frombuffer((jaxrnn.bptt.__doc__ * 2).encode("ascii", "replace"), np.uint8)
    tokens = jnp.asarray(text[: 128 * 9].reshape(9, 128).T, jnp.int32)
    embedding, net = jaxrnn.embedding(8), jaxrnn.stacked(jaxrnn.gru(16), jaxrnn.linear(128))
    keys = jax.random.split(jax.random.key(0))
    params = embedding.init(keys[0], 128), net.init(keys[1], 8)

    def loss(params, loop=jaxrnn.bptt):
        xs = embedding.apply(params[0], tokens[:-1])
        _, logits = jaxrnn.unroll(net, params[1], xs, loop=loop)
        nats = optax.softmax_cross_entropy_with_integer_labels
        return jaxrnn.masked_mean(nats, logits, tokens[1:])

    descend = jax.jit(lambda p: jax.tree.map(lambda p, g: p - 0.5 * g, p, jax.grad(loss)(p)))
    for steps in (0, 60):
        for _ in range(steps):
            params = descend(params)
        found = jaxrnn.diagnostics.adaptive_truncation(loss, params, tolerance=0.05)
        (row,) = jaxrnn.diagnostics.truncation_bias(loss, params, ks=[found.k], make=double)
        assert row.error <= found.bias <= 0.05


def test_bad_arguments_are_named():
    loss, params = problem()
    with pytest.raises(ValueError, match=r"tolerance: got 0.0, expected a number above 0"):
        jaxrnn.diagnostics.adaptive_truncation(loss, params, 1.0, tolerance=0.0)
    with pytest.raises(ValueError, match=r"loss: got one that does not call its loop"):
        jaxrnn.diagnostics.adaptive_truncation(lambda params, loop: 0.0, params)


def test_the_picture_has_a_line_for_each_name():
    axes = Figure().subplots()
    rows = [TruncationBias(1, 0.1, 3.0), TruncationBias(4, 0.001, 0.1), TruncationBias(8, 0.0, 0.0)]
    plots.plot_truncation_bias(axes, {"one": rows, "two": rows[:2]})
    one, two = axes.get_lines()
    np.testing.assert_allclose(one.get_xydata(), [[0, -1], [2, -3], [3, np.nan]])
    assert len(two.get_xydata()) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
