"""`fixed_points` against closed forms, bisection, NumPy's eigenvalues, and steps that have none."""

import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn.diagnostics import fixed_points, plots
from jaxrnn.transforms.rows import flatten_rows, unflatten_rows

S, N = 20, 4


def starts_of(*shape, seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape))


def residuals(step, params, found, x):
    """‖F(c) - c‖ of each point, by the step alone."""
    after = jax.vmap(lambda c: step(params, c, x)[0])(found.points)
    return np.linalg.norm(flatten_rows(after, 1) - flatten_rows(found.points, 1), axis=-1)


def linear(params, carry, x):
    return params @ carry + x, ()


def test_a_linear_map_has_one_fixed_point_in_closed_form():
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal((N, N)), rng.standard_normal(N)
    found = fixed_points(linear, jnp.asarray(w), starts_of(S, N), jnp.asarray(x))
    wanted = np.linalg.solve(np.eye(N) - w, x)
    np.testing.assert_allclose(found.points, wanted[None], rtol=1e-10)
    np.testing.assert_allclose(found.jacobians[0], w, rtol=1e-12, atol=1e-12)
    moduli = np.sort(np.abs(np.linalg.eigvals(w)))[::-1]
    np.testing.assert_allclose(np.abs(found.eigenvalues[0]), moduli, rtol=1e-10)
    assert found.counts.tolist() == [S]
    assert found.num_unconverged == 0
    assert found.kinds == ["saddle"]
    assert found.num_unstable.tolist() == [np.sum(moduli > 1)]
    assert (residuals(linear, w, found, x) <= 1e-10).all()


@pytest.mark.parametrize(("factor", "kind"), [(0.9, "stable"), (1.1, "unstable")])
def test_a_rotation_shrinks_or_grows(factor, kind):
    angle = 0.3
    w = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = fixed_points(linear, jnp.asarray(w), starts_of(S, 2), jnp.zeros(2))
    assert found.kinds == [kind]
    assert found.is_stable.tolist() == [kind == "stable"]
    wanted = factor * np.exp([1j * angle, -1j * angle])
    np.testing.assert_allclose(np.sort_complex(found.eigenvalues[0]), np.sort_complex(wanted))


def scalar_tanh(w, carry, x):
    return {"h": jnp.tanh(w * carry["h"] + x)}, ()


def roots_of_scalar_tanh(w, x):
    """By bisection between the signs of tanh(w h + x) - h on a grid."""

    def f(h):
        return np.tanh(w * h + x) - h

    grid = np.linspace(-1.5, 1.5, 1002)
    roots = []
    for low, high in itertools.pairwise(grid):
        if f(low) * f(high) > 0:
            continue
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if f(low) * f(middle) > 0 else (low, middle)
        roots.append(low)
    return roots


@pytest.mark.parametrize(
    ("w", "x", "kinds"),
    [(0.5, 0.2, ["stable"]), (2.0, 0.1, ["stable", "stable", "unstable"]), (2.0, 0.9, ["stable"])],
)
def test_points_of_a_scalar_tanh_are_those_of_bisection(w, x, kinds):
    roots = roots_of_scalar_tanh(w, x)
    assert len(roots) == len(kinds)
    starts = {"h": jnp.linspace(-2.0, 2.0, 30)}
    found = fixed_points(scalar_tanh, w, starts, x)
    fixed = found.select(found.is_fixed)
    np.testing.assert_allclose(np.sort(fixed.points["h"]), roots, atol=1e-12)
    assert fixed.kinds == kinds
    slopes = w * (1 - np.tanh(w * np.asarray(fixed.points["h"]) + x) ** 2)
    np.testing.assert_allclose(fixed.eigenvalues[:, 0], slopes, rtol=1e-10)
    assert np.sum(found.counts) + found.num_unconverged == 30


def test_a_slow_point_is_where_the_speed_is_least():
    # Past the saddle-node bifurcation h stays near -0.7 for a while: q has a minimum above zero.
    w, x = 2.0, 0.7
    found = fixed_points(scalar_tanh, w, {"h": jnp.linspace(-2.0, 2.0, 30)}, x)
    assert found.kinds == ["stable", "slow"]
    assert not found.is_stable[1]
    grid = np.linspace(-1, 0, 100001)
    speeds = (np.tanh(w * grid + x) - grid) ** 2 / 2
    assert float(found.points["h"][1]) == pytest.approx(grid[np.argmin(speeds)], abs=1e-4)
    assert found.speeds[1] == pytest.approx(np.min(speeds), rel=1e-6)


def test_an_lstm_has_points_that_its_step_confirms():
    """Its carry is two arrays: points are within the tolerance, and each is found once."""
    cell = jaxrnn.lstm(N)
    params = jax.tree.map(lambda p: 3 * p, cell.init(jax.random.key(0), 2, jnp.float64))
    x = jnp.asarray([0.3, -0.2])
    starts = jaxrnn.LSTMCarry(starts_of(40, N), starts_of(40, N, seed=1))
    found = fixed_points(cell, params, starts, x)
    fixed = found.select(found.is_fixed)
    assert isinstance(fixed.points, jaxrnn.LSTMCarry)
    assert len(fixed.speeds) > 0
    errors = residuals(cell, params, fixed, x)
    assert (errors <= 1e-10).all()
    np.testing.assert_allclose(np.sqrt(2 * fixed.speeds), errors, atol=1e-14)
    rows = np.asarray(flatten_rows(found.points, 1))
    gaps = np.linalg.norm(rows[:, None] - rows[None], axis=-1) + np.eye(len(rows))
    assert gaps.min() > 1e-3
    assert np.sum(found.counts) + found.num_unconverged == 40

    def after(row):
        carry = jaxrnn.LSTMCarry(row[:N], row[N:])
        return jnp.concatenate(cell(params, carry, x)[0])

    for row, jacobian, eigenvalues in zip(rows, found.jacobians, found.eigenvalues, strict=True):
        wanted = np.asarray(jax.jacobian(after)(row))
        np.testing.assert_allclose(jacobian, wanted, rtol=1e-9, atol=1e-12)
        assert (np.diff(np.abs(eigenvalues)) <= 1e-12).all()
        np.testing.assert_allclose(
            np.sort_complex(eigenvalues), np.sort_complex(np.linalg.eigvals(wanted)), atol=1e-7
        )


def test_a_line_of_fixed_points_is_marginal_and_solved_although_singular():
    w = jnp.diag(jnp.asarray([1.0, 0.5]))
    found = fixed_points(linear, w, starts_of(5, 2), jnp.zeros(2))
    np.testing.assert_allclose(found.points[:, 1], np.zeros(5), atol=1e-10)
    assert found.kinds == ["marginal"] * 5
    assert found.num_unconverged == 0


def test_a_point_where_the_slope_is_one_converges_although_slowly():
    found = fixed_points(scalar_tanh, 1.0, {"h": jnp.asarray([0.5, -0.3])}, 0.0)
    np.testing.assert_allclose(found.points["h"], [0.0], atol=1e-4)
    assert (found.kinds, found.counts.tolist()) == (["marginal"], [2])


def test_a_step_without_fixed_points_says_so():
    """It moves by a constant: every point is a minimum of the speed, and none is fixed."""

    def drift(params, carry, x):
        return carry + x, ()

    found = fixed_points(drift, None, starts_of(3, 1), jnp.ones(1))
    assert found.kinds == ["slow"] * 3
    np.testing.assert_allclose(found.speeds, [0.5] * 3)


def test_starts_that_do_not_converge_are_counted():
    def escaping(params, carry, x):  # the speed falls for ever, and is nowhere zero
        return carry + jnp.exp(-carry), ()

    found = fixed_points(escaping, None, starts_of(3, 1), jnp.zeros(()), max_iterations=5)
    assert (len(found.speeds), found.num_unconverged) == (0, 3)
    assert str(found) == "3 starts did not converge"
    assert found.kinds == []

    def broken(params, carry, x):
        return jnp.where(carry > 0, jnp.nan, 0.5 * carry), ()

    found = fixed_points(broken, None, jnp.asarray([[1.0], [-1.0]]), jnp.zeros(()))
    np.testing.assert_allclose(found.points, [[0.0]], atol=1e-10)
    assert found.num_unconverged == 1

    def kinked(params, carry, x):  # at zero it is fixed, and its slope is not a number
        return jnp.sqrt(carry * carry) / 2, ()

    found = fixed_points(kinked, None, jnp.zeros((1, 1)), jnp.zeros(()))
    assert (len(found.speeds), found.num_unconverged) == (0, 1)


def test_numbers_that_overflow_raise_no_warning():
    def exploding(params, carry, x):
        return jnp.exp(jnp.exp(carry)), ()

    found = fixed_points(exploding, None, jnp.linspace(-5, 50, 40)[:, None], jnp.zeros(()))
    assert found.kinds == ["slow"]  # exp(exp(c)) > c everywhere
    assert found.num_unconverged + found.counts.sum() == 40


def test_ends_within_the_distance_are_one_point():
    starts = {"h": jnp.linspace(-2.0, 2.0, 30)}
    found = fixed_points(scalar_tanh, 2.0, starts, 0.1, merge_distance=10.0)
    assert len(found.speeds) == 1
    assert found.counts.sum() + found.num_unconverged == 30


def test_complex_numbers_count_as_two_and_integers_stay():
    def step(params, carry, x):
        z, count = carry
        return (params * z + x, count), ()

    w, x = 0.5 + 0.2j, jnp.asarray(1.0 - 1.0j)
    starts = (jax.lax.complex(starts_of(S), starts_of(S, seed=1)), jnp.arange(S))
    found = fixed_points(step, w, starts, x)
    z, count = found.points
    np.testing.assert_allclose(z, [x / (1 - w)], rtol=1e-12)
    assert count.dtype == starts[1].dtype
    np.testing.assert_allclose(
        np.sort_complex(found.eigenvalues[0]), np.sort_complex([w, np.conj(w)]), rtol=1e-10
    )


def test_float32_and_a_network():
    network = jaxrnn.stacked(jaxrnn.gru(3), jaxrnn.linear(2))
    params = network.init(jax.random.key(0), 2, jnp.float32)
    starts = (starts_of(8, 3).astype(jnp.float32), ())
    found = fixed_points(network, params, starts, jnp.zeros(2, jnp.float32))
    assert found.points[0].dtype == jnp.float32
    assert found.is_fixed.any()
    assert (residuals(network, params, found, jnp.zeros(2, jnp.float32)) <= 1e-5).all()


def test_no_program_is_compiled_twice_for_one_step():
    traced = []

    def step(params, carry, x):
        traced.append(x)
        return params * carry + x, ()

    fixed_points(step, 0.5, starts_of(S, 1), jnp.ones(1))
    before = len(traced)
    fixed_points(step, 0.4, starts_of(S, 1, seed=2), jnp.zeros(1))
    assert len(traced) == before > 0


def test_lines_tell_each_point():
    found = fixed_points(scalar_tanh, 2.0, {"h": jnp.linspace(-2.0, 2.0, 30)}, 0.1)
    lines = str(found).splitlines()
    assert len(lines) == len(found.speeds) + 1
    assert lines[0].startswith("stable: speed ")
    assert lines[-1] == f"{found.num_unconverged} starts did not converge"


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_rows_are_flattened_and_back(dtype):
    carry = (starts_of(2, 3).astype(dtype), starts_of(2, 2, 2), jnp.arange(2))
    if dtype == "complex128":
        carry = (jax.lax.complex(starts_of(2, 3), starts_of(2, 3, seed=1)), *carry[1:])
    rows = flatten_rows(carry, 1)
    again = unflatten_rows(rows, jax.tree.map(jnp.zeros_like, carry))
    for got, wanted in zip(again[:2], carry[:2], strict=True):
        assert (got == wanted).all()
        assert got.dtype == wanted.dtype


@pytest.fixture
def found():
    return fixed_points(scalar_tanh, 2.0, {"h": jnp.linspace(-2.0, 2.0, 30)}, 0.1)


def test_pictures_have_each_kind_in_two_and_three_dimensions(found):
    figure = Figure()
    flat = figure.add_subplot(1, 3, 1)
    assert plots.plot_fixed_points(flat, found) is flat
    labels = flat.get_legend_handles_labels()[1]
    assert labels == [f"{found.kinds.count(k)} {k}" for k in dict.fromkeys(found.kinds)]
    space = figure.add_subplot(1, 3, 2, projection="3d")
    lines = {"h": starts_of(8, 2, 3)}  # 8 steps of 2 · 3 rows
    plots.plot_fixed_points(space, found, trajectories=lines)
    assert len(space.lines) == 6
    plane = plots.plot_eigenvalues(figure.add_subplot(1, 3, 3), found)
    assert plane.get_legend_handles_labels()[1][0] == "|λ| = 1"
    figure.savefig(io.BytesIO())


def test_a_picture_of_no_points_is_empty(found):
    axes = Figure().subplots()
    plots.plot_fixed_points(axes, found.select(np.zeros(len(found.speeds), bool)))
    plots.plot_eigenvalues(axes, found.select(np.zeros(len(found.speeds), bool)))


def test_components_are_those_of_largest_variance():
    """Of points on a line, the first component is the line, and the second is nothing."""

    def step(params, carry, x):
        return jnp.tanh(3 * carry.sum(keepdims=True)) * params, ()

    direction = jnp.asarray([0.6, 0.8, 0.0])
    found = fixed_points(step, direction, starts_of(S, 3), jnp.zeros(()))
    axes = plots.plot_fixed_points(Figure().subplots(), found)
    drawn = np.concatenate([c.get_offsets() for c in axes.collections])
    points = np.asarray(found.points)
    lengths = np.linalg.norm(points - points.mean(0), axis=-1)
    np.testing.assert_allclose(np.sort(abs(drawn[:, 0])), np.sort(lengths), atol=1e-9)
    np.testing.assert_allclose(drawn[:, 1], 0, atol=1e-9)


def test_wrong_trajectories_are_named(found):
    with pytest.raises(TypeError, match="trajectories: got the tree"):
        plots.plot_fixed_points(Figure().subplots(), found, trajectories=starts_of(3, 1))
    with pytest.raises(ValueError, match="mask: got bool"):
        found.select(np.ones(9, bool))
