"""Plots of the diagnostics: each function draws on matplotlib axes and returns them.

The colours are those of Okabe and Ito and the map cividis, which colour-blind readers can
distinguish. Line styles, hatching and lightness carry the same information in print without colour.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxrnn import check, tree
from jaxrnn.diagnostics.dynamics import FixedPoints
from jaxrnn.diagnostics.influence import ParameterInfluence
from jaxrnn.diagnostics.online_errors import OnlineError
from jaxrnn.diagnostics.spectrum import JacobianSpectrum, MemoryHorizon
from jaxrnn.diagnostics.truncation import TruncationBias
from jaxrnn.transforms.rows import flatten_rows
from jaxrnn.types import Array, Carry, Params

Axes = Any  # of matplotlib, which only the extra `plot` installs
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
STYLES = ("solid", "dashed", "dotted", "dashdot", (0, (5, 1, 1, 1, 1, 1)))
# Of the kinds of fixed points: only stable ones are filled.
MARKERS = {
    "stable": {"marker": "o", "color": COLOURS[0]},
    "saddle": {"marker": "^", "edgecolors": COLOURS[1], "facecolors": "none"},
    "unstable": {"marker": "s", "edgecolors": COLOURS[3], "facecolors": "none"},
    "marginal": {"marker": "D", "edgecolors": COLOURS[2], "facecolors": "none"},
    "slow": {"marker": "x", "color": "black"},
}


def plot_gradient_flow(axes: Axes, norms: Sequence[Array], label: str = "recurrent layer") -> Axes:
    """Draws a heat map of ‖∂L/∂c_t‖, with time from left to right and one row for each array.

    Over the batch, the root mean square is drawn.

    Args:
        axes: matplotlib axes.
        norms: arrays `(T, *batch)`: `GradientFlow.norms`, or the norms of one layer at several
            updates.
        label: what a row of the map is; the label of the vertical axis.
    """
    _check_axes(axes)
    root_mean_squares = [np.sqrt(np.mean(_as_rows(norm) ** 2, axis=1)) for norm in norms]
    # Sequences of different lengths are padded with NaN, which is not drawn. The row of one NaN
    # keeps the table from being empty and is removed again.
    columns = itertools.zip_longest(*root_mean_squares, [np.nan], fillvalue=np.nan)
    table = np.array([*columns]).T[:-1]
    _draw_heat_map(axes, table, "log₁₀ ‖∂L/∂c_t‖")
    axes.yaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    title = "Gradient flow: how much of the loss reaches each step"
    axes.set(xlabel="step t", ylabel=label, title=title)
    return axes


def plot_memory_horizon(axes: Axes, horizons: Mapping[str, MemoryHorizon]) -> Axes:
    """Draws ‖∂c_T/∂c_{T-k}‖₂ against the lag k on a logarithmic axis, with the fitted line.

    Over the rows of the batch, the median is drawn.

    Args:
        axes: matplotlib axes.
        horizons: results of `memory_horizon`, by the name in the legend.
    """
    _check_axes(axes)
    _check_results("horizons", horizons)
    for name, horizon in horizons.items():
        check.require_instance(f"horizons[{name!r}]", horizon, MemoryHorizon)
    axes.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    for name, horizon in horizons.items():
        norms = _log10(np.median(_as_rows(horizon.spectral), axis=1))
        rate = np.median(horizon.decay_rate)
        label = f"{name}: × {rate:.3g} a step, sees {np.median(horizon.horizon):g} back"
        (line,) = axes.plot(norms, label=label)
        fit = np.log10(rate) * np.arange(len(norms))
        fit += np.nanmean(norms - fit)
        axes.plot(fit, color=line.get_color(), linestyle="solid", linewidth=0.5)
    title = "Memory horizon: what is left of a state after k steps"
    return _finish(axes, xlabel="lag k", ylabel="log₁₀ ‖∂c_T/∂c_{T-k}‖₂", title=title)


def plot_jacobian_spectrum(axes: Axes, spectrum: JacobianSpectrum) -> Axes:
    """Draws the Lyapunov exponents and the mean log singular values of single steps.

    Over the rows of the batch, the median is drawn.

    Args:
        axes: matplotlib axes.
        spectrum: the result of `jacobian_spectrum`.
    """
    _check_axes(axes)
    check.require_instance("spectrum", spectrum, JacobianSpectrum)
    with np.errstate(divide="ignore"):
        steps = np.log(spectrum.steps).mean(axis=0)
    curves = {"Lyapunov exponents": spectrum.exponents, "log singular values of a step": steps}
    axes.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    for name, values in curves.items():
        medians = np.median(np.reshape(values, (-1, np.shape(values)[-1])), axis=0)
        axes.plot(np.where(np.isfinite(medians), medians, np.nan), label=name)
    largest = np.median(spectrum.exponents[..., 0])
    direction = "converge" if largest < 0 else "diverge"
    title = f"Jacobian spectrum: nearby states {direction}, {largest:.3g} nats a step"
    return _finish(axes, xlabel="direction", ylabel="log growth a step", title=title)


def plot_saturation(axes: Axes, gates: Mapping[str, Array]) -> Axes:
    """Draws a bar for each gate: the shares of its values near the lower and near the upper end.

    Args:
        axes: matplotlib axes.
        gates: the result of `saturation`. Arrays of NaN, which have no range, are left out.
    """
    _check_axes(axes)
    _check_results("gates", gates)
    shares = {name: np.mean(g, axis=0) for name, g in gates.items() if np.all(np.isfinite(g))}
    low, high = np.reshape([*shares.values()], (-1, 2)).T
    axes.barh([*shares], low, color=COLOURS[0], label="near the lower end")
    axes.barh([*shares], high, left=low, color=COLOURS[4], hatch="//", label="near the upper end")
    title = "Saturation: gates whose slope is nearly zero"
    return _finish(axes, xlabel="share of all values", xlim=(0, 1), title=title)


def plot_per_step_gradients(axes: Axes, terms: Params) -> Axes:
    """Draws the norm of what each step adds to the gradient of each parameter of one layer.

    Args:
        axes: matplotlib axes.
        terms: one element of the result of `per_step_gradients`.
    """
    _check_axes(axes)
    check.require_arrays(terms=terms)
    axes.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    for name, term in tree.leaves_by_name(terms).items():
        axes.plot(_log10(np.linalg.norm(_as_rows(term), axis=1)), label=name)
    title = "Per-step gradients: what each step adds to the gradient"
    return _finish(axes, xlabel="step t", ylabel="log₁₀ of its norm", title=title)


def plot_truncation_bias(axes: Axes, biases: Mapping[str, Sequence[TruncationBias]]) -> Axes:
    """Draws the relative error of truncated gradients against k, both on logarithmic axes.

    An exact gradient has an error of zero, which has no logarithm and is not drawn.

    Args:
        axes: matplotlib axes.
        biases: results of `truncation_bias`, by the name in the legend.
    """
    _check_axes(axes)
    _check_results("biases", biases)
    axes.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    for name, rows in biases.items():
        errors = _log10(np.array([row.error for row in rows]))
        axes.plot(np.log2([row.k for row in rows]), errors, label=name)
    title = "Truncation: how far the gradient is from the exact one"
    return _finish(axes, xlabel="log₂ k", ylabel="log₁₀ ‖ĝ - g‖ / ‖g‖", title=title)


def plot_parameter_influence(axes: Axes, influence: ParameterInfluence) -> Axes:
    """Draws the norms of the terms of ∂c_t/∂w as a heat map: a row for t, a column for step i.

    Over the batch and the arrays of the carry, the root of the sum of squares is drawn. A row adds
    up to ∂c_t/∂w.

    Args:
        axes: matplotlib axes.
        influence: the result of `parameter_influence`.
    """
    _check_axes(axes)
    check.require_instance("influence", influence, ParameterInfluence)
    sums: list[np.ndarray] = []
    for terms in jax.tree.leaves(influence.terms):
        squares = np.abs(np.asarray(terms)) ** 2
        sums.append(squares.reshape(*squares.shape[:2], -1).sum(axis=2))
    _draw_heat_map(axes, np.sqrt(sum(sums)), "log₁₀ of the norm of the term")
    title = "Influence of one weight: what its use at step i adds at step t"
    axes.set(xlabel="step i", ylabel="step t", title=title)
    return axes


def plot_online_errors(axes: Axes, errors: Mapping[str, OnlineError]) -> Axes:
    """Draws the relative error of each learner against the bytes that it keeps.

    Both axes are logarithmic. An exact gradient has an error of zero or of rounding; it is drawn at
    the lower edge.

    Args:
        axes: matplotlib axes.
        errors: the result of `online_errors`.
    """
    _check_axes(axes)
    _check_results("errors", errors)
    axes.set_prop_cycle(color=COLOURS)
    for (name, row), marker in zip(errors.items(), itertools.cycle("os^Dv"), strict=False):
        check.require_instance(f"errors[{name!r}]", row, OnlineError)
        height = np.log10(max(row.error, 1e-6))
        axes.plot(np.log10(max(row.num_bytes, 1)), height, marker, label=name)
    title = "Online algorithms: error of the gradient and memory"
    return _finish(axes, xlabel="log₁₀ bytes kept", ylabel="log₁₀ ‖ĝ - g‖ / ‖g‖", title=title)


def plot_fixed_points(axes: Axes, found: FixedPoints, *, trajectories: Carry | None = None) -> Axes:
    """Draws fixed and slow points, and trajectories, in their first principal components.

    Args:
        axes: matplotlib axes; with `projection="3d"`, three components are drawn, else two.
        found: the result of `fixed_points`.
        trajectories: carries `(T, *batch, ...)`, such as those of `jaxrnn.history`. Their principal
            components are the axes; without them, those of the points.
    """
    _check_axes(axes)
    check.require_instance("found", found, FixedPoints)
    num_axes = 3 if hasattr(axes, "get_zlim") else 2
    points = np.asarray(flatten_rows(found.points, 1), float)
    lines = np.zeros((0, 0, points.shape[1]))
    if trajectories is not None:
        check.require_same_structure("trajectories", trajectories, found.points)
        # An array of the points has one axis, P, before its features; one of the trajectories has
        # time and the batch axes.
        line = jax.tree.leaves(trajectories)[0]
        point = jax.tree.leaves(found.points)[0]
        num_leading = line.ndim - (point.ndim - 1)
        rows = np.asarray(flatten_rows(trajectories, num_leading), float)
        lines = rows.reshape(len(rows), -1, rows.shape[-1])
    cloud = points if lines.size == 0 else lines.reshape(-1, lines.shape[-1])
    # Rows of zeros add axes if there are fewer numbers, or fewer points, than axes.
    centre = cloud.mean(axis=0) if len(cloud) else np.zeros(points.shape[1])
    padded = np.pad(cloud - centre, ((0, num_axes), (0, 0)))
    *_, right_vectors = np.linalg.svd(padded, full_matrices=False)
    components = right_vectors[:num_axes]
    components = np.pad(components, ((0, num_axes - len(components)), (0, 0)))
    for line in np.moveaxis(lines, 1, 0):
        axes.plot(*((line - centre) @ components.T).T, color="0.7", linewidth=0.5, zorder=1)
    kinds = np.array(found.kinds)
    for kind, look in MARKERS.items():
        chosen = points[kinds == kind] if len(kinds) else points
        if len(chosen):
            label = f"{len(chosen)} {kind}"
            axes.scatter(*((chosen - centre) @ components.T).T, label=label, zorder=2, **look)
    if num_axes == 3:
        axes.set_box_aspect(None, zoom=0.85)  # the labels of the axes need the room
    labels = {f"{letter}label": f"component {i + 1}" for i, letter in enumerate("xyz"[:num_axes])}
    return _finish(axes, **labels, title="Fixed points: where the state comes to rest")


def plot_eigenvalues(axes: Axes, found: FixedPoints) -> Axes:
    """Draws the eigenvalues at all points in the complex plane, with the unit circle.

    Args:
        axes: matplotlib axes.
        found: the result of `fixed_points`.
    """
    _check_axes(axes)
    check.require_instance("found", found, FixedPoints)
    angles = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angles), np.sin(angles), color="0.7", linewidth=1, label="|λ| = 1")
    kinds = np.array(found.kinds)
    for kind, look in MARKERS.items():
        values = found.eigenvalues[kinds == kind].ravel() if len(kinds) else np.zeros(0)
        if len(values):
            axes.scatter(values.real, values.imag, s=12, label=f"at {kind} points", **look)
    axes.set_aspect("equal")
    title = "Eigenvalues: directions outside the circle grow"
    return _finish(axes, xlabel="Re λ", ylabel="Im λ", title=title)


def _draw_heat_map(axes: Axes, table: np.ndarray, label: str) -> None:
    """Draws the logarithms of a table, whose first row is at the bottom, with a bar of colours."""
    mesh = axes.imshow(
        _log10(table), cmap="cividis", aspect="auto", origin="lower", interpolation="none"
    )
    axes.figure.colorbar(mesh, ax=axes, label=label)


def _check_axes(axes: Axes) -> None:
    """Raises an error unless `axes` can be drawn on."""
    fits = hasattr(axes, "plot") and hasattr(axes, "figure")
    check.require_type(fits, "axes", axes, "matplotlib axes, such as plt.subplots()[1]")


def _check_results(name: str, results: object) -> None:
    check.require_type(isinstance(results, Mapping), name, results, "a dict of results, by name")


def _as_rows(x: Array) -> np.ndarray:
    """Reshapes `(T, ...)` to a table of T rows."""
    return np.asarray(x, float).reshape(len(x), np.prod(x.shape[1:], dtype=int))


def _log10(x: np.ndarray) -> np.ndarray:
    """Returns the logarithm, or NaN, which is not drawn, where there is none."""
    return np.log10(np.where(np.isfinite(x) & (x > 0), x, np.nan))


def _finish(axes: Axes, **labels: Any) -> Axes:
    axes.set(**labels)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    return axes
