"""Draws each table as a chart, in a file next to its numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

plt.rcParams["svg.fonttype"] = "none"  # text stays text in the SVG

Rows = list[dict[str, Any]]


def draw(name: str, rows: Rows, folder: Path) -> None:
    """Writes `FOLDER_NAME.svg`, if there is a chart for rows of this kind."""
    panel = _panel_of(rows)
    if panel is None:
        return
    cells = list(dict.fromkeys(row.get("cell", "") for row in rows))
    size = 4 * len(cells) + 2, 4
    figure, axes = plt.subplots(1, len(cells), sharey=True, figsize=size, squeeze=False)
    for axis, cell in zip(axes[0], cells, strict=True):
        axis.set_title(cell)
        ylabel = panel(axis, [row for row in rows if row.get("cell", "") == cell])
    axes[0][0].set_ylabel(ylabel)
    handles = axes[0][-1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", fontsize=8)
    figure.savefig(folder.with_name(f"{folder.name}_{name}.svg"), bbox_inches="tight")
    plt.close(figure)


def _panel_of(rows: Rows) -> Callable[[Axes, Rows], str] | None:
    """Returns the function that draws such rows, by the keys of the first row."""
    for key, panel in PANELS.items():
        if rows and isinstance(rows[0].get(key), dict):
            return panel
    return None


def _shares(axis: Axes, rows: Rows) -> str:
    """Draws the time of every side at each shape, as a multiple of the first side's time."""
    sides = list(dict.fromkeys(side for row in rows for side in row["samples"]))
    for number, side in enumerate(sides):
        positions, shares = [], []
        for position, row in enumerate(rows):
            times = row["milliseconds"]
            if side in times:
                positions.append(position)
                shares.append(times[side] / times[sides[0]])
        style = "o" if number < 10 else "s"
        axis.plot(positions, shares, style, label=side, color=f"C{number % 10}")
    axis.axhline(1, color="0.7", zorder=0)
    labels = ["\n".join(map(str, row["shape"].values())) for row in rows]
    axis.set(yscale="log", xticks=range(len(rows)), xticklabels=labels)
    axis.set_xlabel(", ".join(rows[0]["shape"]))
    axis.tick_params("x", labelrotation=90 if "step" in rows[0]["shape"] else 0)
    return f"time, as a multiple of {sides[0]}'s"


def _growth(axis: Axes, rows: Rows, key: str) -> str:
    """Draws the number of every side against the length of the sequence."""
    for side in rows[0][key]:
        axis.plot([row["T"] for row in rows], [row[key][side] for row in rows], "o-", label=side)
    axis.set(xscale="log", yscale="log", xlabel="T")
    axis.grid(alpha=0.3)
    return key


PANELS = {
    "milliseconds": _shares,
    "bytes": lambda axis, rows: _growth(axis, rows, "bytes"),
    "seconds": lambda axis, rows: _growth(axis, rows, "seconds"),
}
