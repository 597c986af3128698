"""The folder of a run: written whole or not at all, and read again.

params.safetensors  the parameters, each by its path, such as `cell.w_h`
options.json        all options, and whatever else the model is made from
history.csv         the metrics over the steps
curve.png           a picture of them
"""

import contextlib
import csv
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from jaxrnn import check
from jaxrnn.app.options import Options, UserError
from jaxrnn.interop import safetensors
from jaxrnn.types import Params

History = Sequence[Mapping[str, int | float]]

FILES = "params.safetensors", "options.json", "history.csv", "curve.png"
PARAMS, OPTIONS, HISTORY, CURVE = FILES

# What reading a file that is missing, damaged or of something else can raise.
FAULTS = OSError, ValueError, TypeError, AttributeError, UserError, ArithmeticError, RecursionError


def prepare(folder: Path) -> None:
    """Make the folder; UserError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        got = f"{str(folder)!r} ({error.strerror})"
        raise UserError(f"--out: got {got}, expected a folder that can be written") from None


def save(folder: Path, params: Params, options: Options, history: History, curve: Figure) -> None:
    """Write the four files; once all are complete, they take the place of an earlier run's."""
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as name:
        unfinished = Path(name)
        (unfinished / PARAMS).write_bytes(safetensors.packed(params))
        text = json.dumps(vars(options), indent=2, default=str) + "\n"
        (unfinished / OPTIONS).write_text(text, "utf-8")
        with (unfinished / HISTORY).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(history[0]) if history else (), lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)
        curve.savefig(unfinished / CURVE, dpi=150)
        for file_name in FILES:
            (unfinished / file_name).replace(folder / file_name)


def load_options(folder: Path, *tasks: str) -> Options:
    """The options of a run of one of these tasks; UserError if there is no such run."""
    with reading(folder / OPTIONS):
        options = Options(**json.loads((folder / OPTIONS).read_text("utf-8")))
    found, wanted = getattr(options, "task", None), " or ".join(map(repr, tasks))
    got = f"{str(folder)!r} of the task {found!r}"
    check.that(found in tasks, "FOLDER", got, f"the task {wanted}", UserError)
    return options


def load_params(folder: Path, like: Params) -> Params:
    """The parameters of a run; UserError if their form is not that of `like`."""
    with reading(folder / PARAMS):
        _, arrays = safetensors.opened(folder / PARAMS)
        return safetensors.filled(like, arrays, OPTIONS)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of any failure within that it is the fault of this file."""
    try:
        yield
    except FAULTS as error:
        got = f"{str(path)!r} ({error.strerror if isinstance(error, OSError) else error})"
        raise UserError(f"FOLDER: got {got}, expected a file of `jaxrnn train`") from None
