"""Each table as a picture, beside its numbers."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def draw(name: str, rows: list[dict[str, Any]], folder: Path) -> None:
    """Write `FOLDER_NAME.svg`: of each row every side's time, as a multiple of the first side's."""
    rows = [row for row in rows if "milliseconds" in row]
    if not rows:
        return
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    figure, axes = plt.subplots(1, len(cells), sharey=True, figsize=(4 * len(cells), 4))
    for axis, cell in zip(axes, cells, strict=True):
        own = [row for row in rows if row["cell"] == cell]
        sides = list(dict.fromkeys(side for row in own for side in row["samples"]))
        for number, side in enumerate(sides):
            there = [i for i, row in enumerate(own) if side in row["milliseconds"]]
            times = [own[i]["milliseconds"] for i in there]
            shares = [time[side] / time[sides[0]] for time in times]
            style = "o" if number < 10 else "s"
            axis.plot(there, shares, style, label=side, color=f"C{number % 10}")
        axis.axhline(1, color="0.7", zorder=0)
        labels = ["\n".join(map(str, row["shape"].values())) for row in own]
        axis.set(title=cell, yscale="log", xticks=range(len(own)), xticklabels=labels)
        axis.set_xlabel("T, B, I, H")
    axes[0].set_ylabel(f"time, as a multiple of {sides[0]}'s")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(folder.with_name(f"{folder.name}_{name}.svg"), bbox_inches="tight")
    plt.close(figure)
