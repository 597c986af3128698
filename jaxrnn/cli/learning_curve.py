"""The picture of a training: a metric over the updates, and the gradient flow."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxrnn.cli.options import Options
from jaxrnn.cli.progress import Progress
from jaxrnn.diagnostics import plots

WINDOWS = 100  # the curve is a running mean over 1/100 of the updates


def picture(progress: Progress, measure: str, levels: Mapping[str, float], args: Options) -> Figure:
    """Draws the learning curve of a metric, with levels of baselines, and the gradient flow."""
    cells = f"{args.cell} of {args.hidden_size}"
    if args.layers > 1:
        cells = f"{args.layers} layers, {cells}"
    title = f"Learning {args.task}: {cells}, {args.loop}"
    values = [row[measure] for row in progress.history]
    scores = {int(row["step"]): row[measure] for row in progress.validation}
    best = None
    if progress.best is not None:
        best, _ = progress.best
    figure = curve(measure, values, title, levels, scores, best)
    if progress.norms:
        axes = figure.add_subplot(1, 2, 2)
        plots.plot_gradient_flow(axes, progress.norms, f"updates / {args.inspect_every}")
    return figure


def curve(
    measure: str,
    values: Sequence[float],
    title: str,
    levels: Mapping[str, float],
    scores: Mapping[int, float] | None = None,
    best: int | None = None,
) -> Figure:
    """Draws a smoothed learning curve and the levels of baselines in the left half of a figure.

    Args:
        measure: the name of the metric.
        values: the metric of each update.
        title: the title of the figure.
        levels: the metric of baselines without training, by name.
        scores: the metric on the validation part, by update.
        best: the update that was selected.
    """
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.add_subplot(1, 2, 1)
    colour, score_colour, *level_colours = plots.COLOURS
    _, _, *level_styles = plots.STYLES
    if values:
        width = max(1, len(values) // WINDOWS)
        smooth = np.convolve(values, np.full(width, 1 / width), mode="valid")
        axes.plot(np.arange(width, len(values) + 1), smooth, color=colour, label="training")
    if scores:
        look: Any = {"color": score_colour, "marker": ".", "markersize": 4, "linewidth": 1}
        axes.plot([*scores], [*scores.values()], label="validation", **look)
        if best is not None:
            label = f"saved: update {best}"
            axes.plot(best, scores[best], "*", color=score_colour, markersize=12, label=label)
    for (name, level), colour, style in zip(
        levels.items(), level_colours, level_styles, strict=False
    ):
        axes.axhline(level, color=colour, linestyle=style, label=name)
    axes.set(xlabel="updates", ylabel=measure.replace("_", " "), title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return figure
