"""Pictures of the gradient: each takes matplotlib axes, draws on them, and returns them.

Colours are Okabe and Ito's and cividis, told apart by every eye; in print without colour the line
styles, the hatching and the lightness say the same.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrnn import tree
from jaxrnn.diagnostics import spectrum, truncation
from jaxrnn.types import Array, Params

Axes = Any  # matplotlib's, which only the extra `plot` brings
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
STYLES = ("solid", "dashed", "dotted", "dashdot", (0, (5, 1, 1, 1, 1, 1)))


def plot_gradient_flow(axes: Axes, norms: Sequence[Array], rows: str = "recurrent layer") -> Axes:
    """A heat map of ‖∂L/∂c_t‖, time from left to right, one row for each `(T, *batch)` of `norms`.

    `norms` is `GradientFlow.norms`, or those of one layer at several updates; `rows` says which. Over the
    batch the root of the mean square is taken.
    """
    means = [np.sqrt(np.mean(_flat(norm) ** 2, axis=1)) for norm in norms]
    table = np.array([*itertools.zip_longest(*means, [np.nan], fillvalue=np.nan)]).T[:-1]
    look = {"cmap": "cividis", "aspect": "auto", "origin": "lower", "interpolation": "none"}
    mesh = axes.imshow(_log10(table), **look)
    axes.figure.colorbar(mesh, ax=axes, label="log₁₀ ‖∂L/∂c_t‖")
    axes.yaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    title = "Gradient flow: what of the loss reaches each step"
    axes.set(xlabel="step t", ylabel=rows, title=title)
    return axes


def plot_memory_horizon(axes: Axes, reaches: Mapping[str, spectrum.MemoryHorizon]) -> Axes:
    """‖∂c_T/∂c_{T-k}‖₂ against the lag k on a logarithmic axis, with the fitted line, by name.

    Over rows the median is taken.
    """
    axes.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    for name, found in reaches.items():
        norms, rate = _log10(np.median(_flat(found.spectral), axis=1)), np.median(found.decay_rate)
        label = f"{name}: × {rate:.3g} a step, sees {np.median(found.horizon):g} back"
        (line,) = axes.plot(norms, label=label)
        fit = np.log10(rate) * np.arange(len(norms))
        fit += np.nanmean(norms - fit)
        axes.plot(fit, color=line.get_color(), linestyle="solid", linewidth=0.5)
    title = "MemoryHorizon: what is left of a state after k steps"
    return _finished(axes, xlabel="lag k", ylabel="log₁₀ ‖∂c_T/∂c_{T-k}‖₂", title=title)


def plot_jacobian_spectrum(axes: Axes, found: spectrum.JacobianSpectrum) -> Axes:
    """Lyapunov exponents in falling order beside the mean log singular values of single steps.

    Over rows the median is taken.
    """
    with np.errstate(divide="ignore"):
        steps = np.log(found.steps).mean(axis=0)
    named = {"Lyapunov exponents": found.exponents, "log singular values of a step": steps}
    axes.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    for name, values in named.items():
        values = np.median(np.reshape(values, (-1, np.shape(values)[-1])), axis=0)
        axes.plot(np.where(np.isfinite(values), values, np.nan), label=name)
    largest = np.median(found.exponents[..., 0])
    title = f"JacobianSpectrum: neighbours {'meet' if largest < 0 else 'part'}, {largest:.3g} nats a step"
    return _finished(axes, xlabel="direction", ylabel="log growth a step", title=title)


def plot_saturation(axes: Axes, gates: Mapping[str, Array]) -> Axes:
    """A bar for each gate: the shares of its values near the lower and near the upper end."""
    shares = {name: np.mean(g, axis=0) for name, g in gates.items() if np.all(np.isfinite(g))}
    low, high = np.reshape([*shares.values()], (-1, 2)).T
    axes.barh([*shares], low, color=COLOURS[0], label="near the lower end")
    axes.barh([*shares], high, left=low, color=COLOURS[4], hatch="//", label="near the upper end")
    title = "Saturation: gates whose slope is nearly zero"
    return _finished(axes, xlabel="share of all values", xlim=(0, 1), title=title)


def plot_per_step_gradients(axes: Axes, terms: Params) -> Axes:
    """The norm of what each step adds to the gradient of each parameter of one layer."""
    axes.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    for name, term in tree.leaves_by_name(terms).items():
        axes.plot(_log10(np.linalg.norm(_flat(term), axis=1)), label=name)
    title = "Contributions: what each step adds to the gradient"
    return _finished(axes, xlabel="step t", ylabel="log₁₀ of its norm", title=title)


def plot_truncation_bias(
    axes: Axes, biases: Mapping[str, Sequence[truncation.TruncationBias]]
) -> Axes:
    """The relative error of truncated gradients against k, both logarithmic, by name.

    What is exact has no logarithm and is not drawn.
    """
    axes.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    for name, rows in biases.items():
        errors = _log10(np.array([row.error for row in rows]))
        axes.plot(np.log2([row.k for row in rows]), errors, label=name)
    title = "Truncation: how far the gradient is from the exact one"
    return _finished(axes, xlabel="log₂ k", ylabel="log₁₀ ‖ĝ - g‖ / ‖g‖", title=title)


def _flat(x: Array) -> np.ndarray:
    """`(T, ...)` as a table of T rows."""
    return np.asarray(x, float).reshape(len(x), np.prod(x.shape[1:], dtype=int))


def _log10(x: np.ndarray) -> np.ndarray:
    """NaN, which is not drawn, for what has no logarithm."""
    return np.log10(np.where(np.isfinite(x) & (x > 0), x, np.nan))


def _finished(axes: Axes, **labels: Any) -> Axes:
    axes.set(**labels)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return axes
