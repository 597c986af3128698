"""Writes figures, with titles that fit their panels."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from jaxrnn.cli.options import as_user_error, option_type


def picture_file() -> Callable[[str], Path]:
    """Returns the type of an option that is the name of a picture."""
    suffixes = sorted(FigureCanvasBase.get_supported_filetypes())
    expected = f"a name that ends in one of {', '.join(suffixes)}"
    return option_type(Path, lambda path: path.suffix.lower()[1:] in suffixes, expected)


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
