"""The folder of a run: written whole or not at all, and read again.

params.safetensors  the parameters, each by its path, such as `cell.w_h`
options.json        all options, and whatever else the model is made from
history.csv         the metrics over the steps
curve.png           a picture of them
"""

import csv
import functools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from jaxrnn import check
from jaxrnn.app.options import Options, UserError, at_fault
from jaxrnn.interop import safetensors
from jaxrnn.types import Params

History = Sequence[dict[str, int | float]]

FILES = "params.safetensors", "options.json", "history.csv", "curve.png"
PARAMS, OPTIONS, HISTORY, CURVE = FILES

# Says of any failure within that it is the fault of this file: missing, damaged or another.
reading = functools.partial(at_fault, "FOLDER", expected="a file of `jaxrnn train`")


def prepare(folder: Path) -> None:
    """Make the folder; UserError if nothing can be written there."""
    with at_fault("--out", folder, "a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def save(folder: Path, params: Params, options: Options, history: History, curve: Figure) -> None:
    """Write the four files; once all are complete, they take the place of an earlier run's."""
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as name:
        unfinished = Path(name)
        (unfinished / PARAMS).write_bytes(safetensors.packed(params))
        text = json.dumps(vars(options), indent=2, default=str) + "\n"
        (unfinished / OPTIONS).write_text(text, "utf-8")
        with (unfinished / HISTORY).open("w", newline="") as file:
            names = history[0] if history else ()
            csv.writer(file, lineterminator="\n").writerows([names, *map(dict.values, history)])
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
