"""How pictures are written: with titles that are never cut off."""

import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from jaxrnn.cli.options import at_fault


def require_writable(path: Path) -> None:
    """Raise a UserError unless a picture can be written there, before there is one."""
    with at_fault("--out", path, "a file that can be written"):
        tempfile.TemporaryFile(dir=path.parent).close()


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Write a picture whose titles are no wider than their panels: a wide one gets a smaller font.

    matplotlib's layout makes room for labels, but not for the width of a title.
    """
    for _ in range(3):  # since a width is not quite proportional to the size of the font
        figure.draw_without_rendering()
        for axes in figure.axes:
            room, width = axes.get_window_extent().width, axes.title.get_window_extent().width
            if width > room:
                axes.title.set_fontsize(float(axes.title.get_fontsize()) * room / width)
    figure.savefig(path, dpi=dpi)
