"""The picture of a run: its metric over the steps, beside rivals who learned nothing."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxrnn.diagnostics.pictures import COLOURS

# Okabe and Ito's colours, told apart by every eye; the line styles tell them apart without colour.
LEVEL_STYLES = (("#D55E00", "dashed"), ("#009E73", "dotted"), ("#CC79A7", "dashdot"))
WINDOWS = 100  # the curve is a running mean over so small a part of the steps


def curve(measure: str, values: Sequence[float], title: str, levels: Mapping[str, float]) -> Figure:
    """The values of each step, smoothed, and a level line for each name, beside an empty half."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.add_subplot(1, 2, 1)
    if values:
        width = max(1, len(values) // WINDOWS)
        smooth = np.convolve(values, np.full(width, 1 / width), mode="valid")
        axes.plot(np.arange(width, len(values) + 1), smooth, color=COLOURS[0], label="training")
    for (name, level), (colour, style) in zip(levels.items(), LEVEL_STYLES, strict=False):
        axes.axhline(level, color=colour, linestyle=style, label=name)
    axes.set(xlabel="updates", ylabel=measure.replace("_", " "), title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return figure
