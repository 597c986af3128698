"""Writes figures, with titles that fit their panels."""

import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from jaxrnn.cli.options import as_user_error


def require_writable(path: Path) -> None:
    """Raises a UserError if no file can be written at `path`, before there is a figure."""
    with as_user_error("--out", path, "a file that can be written"):
        tempfile.TemporaryFile(dir=path.parent).close()


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Writes a figure; a title that is wider than its panel gets a smaller font.

    The layout of matplotlib makes room for labels, but not for the width of a title.
    """
    for _ in range(3):  # the width of a title is not exactly proportional to its font size
        figure.draw_without_rendering()
        for axes in figure.axes:
            room = axes.get_window_extent().width
            width = axes.title.get_window_extent().width
            if width > room:
                axes.title.set_fontsize(float(axes.title.get_fontsize()) * room / width)
    figure.savefig(path, dpi=dpi)
