"""The folder of a run: all that `sample`, `inspect` and `convert` need, whole or not at all.

params.safetensors   the parameters and the expression of their network (`interop.safetensors`)
options.json         how it was trained; of a text also the vocabulary
example.safetensors  a batch that was not trained on, for `inspect`
history.csv          the metrics of each update
validation.csv       the metrics on the validation part, every so many updates
curve.png            a picture of both
"""

import contextlib
import csv
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from matplotlib.figure import Figure

from jaxrnn import check
from jaxrnn.cli import figures
from jaxrnn.cli.options import Options, UserError, at_fault
from jaxrnn.interop import safetensors as interop
from jaxrnn.types import Params

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows, where two trainings are told apart at the end only
    fcntl = None  # type: ignore[assignment]

Rows = Sequence[Mapping[str, int | float]]  # of a table, each with the same columns
Arrays = Mapping[str, np.ndarray]
Stamps = Mapping[str, tuple[int, ...]]  # of the files of a run, by name; they change with a file

FILES = (
    "params.safetensors",
    "options.json",
    "example.safetensors",
    "history.csv",
    "validation.csv",
    "curve.png",
)
PARAMS, OPTIONS, EXAMPLE, HISTORY, VALIDATION, CURVE = FILES

# Says of any failure within that it is the fault of this file: missing, damaged or another.
reading = functools.partial(at_fault, "FOLDER", expected="a file of `jaxrnn train`")


class Run(NamedTuple):
    """What a run leaves behind.

    Fields:
        network: a Network that jaxrnn's factories made.
        params: its parameters.
        options: all options of the command, and whatever else is needed to use the network.
        example: the arrays of a batch that was not trained on, by name.
        history: a row for each update.
        validation: a row for each evaluation on the validation part.
        curve: a picture of both.
    """

    network: Any
    params: Params
    options: Options
    example: Arrays
    history: Rows
    validation: Rows
    curve: Figure


@contextlib.contextmanager
def reserved(folder: Path, overwrite: bool = False) -> Iterator[Stamps]:
    """Make the folder, and keep other trainings out of it until the `with` block ends.

    Yields what `save` needs to know: the files of the run that may be overwritten.

    Raises:
        UserError: if nothing can be written there, if another training has the folder, and if
            there is a run in it already, unless that may be overwritten. A file of somebody else
            is never replaced.
    """
    with contextlib.ExitStack() as held:
        with at_fault("--out", folder, "a folder that can be written"):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            if fcntl is not None:
                descriptor = os.open(folder, os.O_RDONLY)
                held.callback(os.close, descriptor)  # which unlocks it, as the process's end does
        if fcntl is not None:
            _lock(descriptor, folder)
        stamps = _stamps(folder)
        is_run = {PARAMS, OPTIONS} <= stamps.keys()
        if stamps and not is_run:
            got = f"{str(folder)!r} with {', '.join(stamps)} in it, which is no whole run"
            raise UserError(f"--out: got {got}, expected a folder without such files")
        if is_run and not overwrite:
            got = f"{str(folder)!r}, which holds a run"
            raise UserError(f"--out: got {got}, expected another folder, or --overwrite")
        yield stamps


def save(folder: Path, run: Run, replaced: Stamps) -> Path:
    """Write all files of a run, then let them take their places; returns the folder.

    If another run was saved there since `reserved` saw the files `replaced`, the other run stays as
    it is, and this one goes to a new folder beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as name:
        unfinished = Path(name)
        interop.save(unfinished / PARAMS, run.network, run.params)
        text = json.dumps(vars(run.options), indent=2, default=str) + "\n"
        (unfinished / OPTIONS).write_text(text, "utf-8")
        example = {name: np.ascontiguousarray(x) for name, x in run.example.items()}
        (unfinished / EXAMPLE).write_bytes(safetensors.numpy.save(example))
        for table, rows in ((HISTORY, run.history), (VALIDATION, run.validation)):
            with (unfinished / table).open("w", newline="") as file:
                columns = rows[0] if rows else ()
                lines = [columns, *(row.values() for row in rows)]
                csv.writer(file, lineterminator="\n").writerows(lines)
        figures.save(run.curve, unfinished / CURVE, dpi=150)
        target = folder
        if _stamps(folder).items() - replaced.items():
            target = _new_folder_beside(folder)
        _take_places(unfinished, target)
    return target


def load_options(folder: Path, *tasks: str) -> Options:
    """The options of a run of one of these tasks; UserError if there is no such run."""
    with reading(folder / OPTIONS):
        options = Options(**json.loads((folder / OPTIONS).read_text("utf-8")))
    found, wanted = getattr(options, "task", None), " or ".join(map(repr, tasks))
    got = f"{str(folder)!r} of the task {found!r}"
    check.require(found in tasks, "FOLDER", got, f"the task {wanted}", UserError)
    return options


def load_network(folder: Path, argument: str = "FOLDER") -> tuple[Any, Params]:
    """The network of a run, made from the expression in its file, and its parameters.

    UserError, naming the argument, if the file is missing, damaged, or of a jaxrnn that did not
    write the expression.
    """
    with at_fault(argument, folder / PARAMS, "a file of `jaxrnn train`"):
        if "jaxrnn" not in interop.open_file(folder / PARAMS)[0]:
            raise ValueError("no network is named in it: an earlier jaxrnn wrote it; train again")
        return interop.load(folder / PARAMS)


def load_example(folder: Path, **dtypes: Any) -> list[np.ndarray]:
    """The arrays of the batch to inspect, by names and dtypes; UserError if they are not there."""
    with reading(folder / EXAMPLE):
        try:
            arrays = safetensors.numpy.load((folder / EXAMPLE).read_bytes())
        except (safetensors.SafetensorError, KeyError) as error:  # or a dtype that NumPy lacks
            raise ValueError(str(error)) from None
        for name, dtype in dtypes.items():
            got = check.describe(arrays[name]) if name in arrays else "none"
            fits = name in arrays and arrays[name].dtype == dtype
            check.require(fits, name, got, f"an array of {np.dtype(dtype).name}")
        return [arrays[name] for name in dtypes]


def _lock(descriptor: int, folder: Path) -> None:
    """Lock an open folder; UserError if another training has done so."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        got = f"{str(folder)!r}, where another training is about to save its run"
        raise UserError(f"--out: got {got}, expected another folder") from None
    except OSError:
        pass  # a file system without locks: `save` looks again


def _stamps(folder: Path) -> Stamps:
    """Which files of a run are there, and a mark of each that changes when it is replaced."""
    stamps = {}
    for name in FILES:
        with contextlib.suppress(FileNotFoundError):
            found = (folder / name).lstat()
            stamps[name] = (found.st_ino, found.st_size, found.st_mtime_ns)
    return stamps


def _new_folder_beside(folder: Path) -> Path:
    folder = folder.resolve()
    number = 2
    while True:
        beside = folder.with_name(f"{folder.name}-{number}")
        with contextlib.suppress(FileExistsError):
            beside.mkdir()
            return beside
        number += 1


def _take_places(unfinished: Path, folder: Path) -> None:
    """Move all files of a run to their folder; if one cannot be moved, none is."""
    earlier = unfinished / "earlier"
    earlier.mkdir()
    for name in _stamps(folder):
        shutil.copy2(folder / name, earlier / name)
    try:
        for name in FILES:
            (unfinished / name).replace(folder / name)
    except BaseException:
        for name in FILES:
            if (earlier / name).exists():
                os.rename(earlier / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        raise
