"""The folder of a run, with everything that `sample`, `inspect` and `convert` need.

A run is written as a whole or not at all:

params.safetensors   the parameters and the expression of their network (`interop.safetensors`)
options.json         the options of the training; for a text also the vocabulary
example.safetensors  a batch of the validation part, for `inspect`
history.csv          the metrics of each update
validation.csv       the metrics of each evaluation on the validation part
curve.png            a picture of both
"""

import contextlib
import csv
import functools
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from jax.typing import DTypeLike
from matplotlib.figure import Figure

from jaxrnn import check
from jaxrnn.cli import figures, resuming
from jaxrnn.cli.options import Options, UserError, as_user_error
from jaxrnn.interop import safetensors as interop
from jaxrnn.types import Network, Params

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no locks; there, only `save` detects another training
    fcntl = None  # type: ignore[assignment]

Rows = Sequence[Mapping[str, int | float]]  # of a table; all rows have the same columns
Arrays = Mapping[str, np.ndarray]
# By the name of a file of a run: numbers that change when the file is replaced.
Stamps = Mapping[str, tuple[int, ...]]

FILES = (
    "params.safetensors",
    "options.json",
    "example.safetensors",
    "history.csv",
    "validation.csv",
    "curve.png",
)
PARAMS, OPTIONS, EXAMPLE, HISTORY, VALIDATION, CURVE = FILES

# Turns any error of reading a file of a run into a UserError about the argument FOLDER.
reading = functools.partial(as_user_error, "FOLDER", expected="a file of `jaxrnn train`")


class Run(NamedTuple):
    """The results of a training.

    Fields:
        network: a Network made by jaxrnn's factories.
        params: the parameters of the network.
        options: all options of the command, and any other value that is needed to use the network.
        example: the arrays of a batch of the validation part, by name.
        history: the metrics of each update.
        validation: the metrics of each evaluation on the validation part.
        curve: a picture of both.
    """

    network: Network
    params: Params
    options: Options
    example: Arrays
    history: Rows
    validation: Rows
    curve: Figure


@contextlib.contextmanager
def reserve(folder: Path, overwrite: bool = False, resume: bool = False) -> Iterator[Stamps]:
    """Makes the folder, and locks it against other trainings until the `with` block ends.

    Yields the stamps of the files that `save` may overwrite.

    Raises:
        UserError: if the folder cannot be written; if another training has locked it. Unless the
            run in it is resumed, also if it holds a run or checkpoints, unless `overwrite` is True;
            if it holds some files with the names of a run, but not a whole run.
    """
    argument = "--out"
    if resume:
        argument = "--resume"
    with contextlib.ExitStack() as stack:
        with as_user_error(argument, folder, "a folder that can be written"):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # fails now rather than after the training
            if fcntl is not None:
                descriptor = os.open(folder, os.O_RDONLY)
                # Closing unlocks, as does the end of the process.
                stack.callback(os.close, descriptor)
        if fcntl is not None and _lock(descriptor, folder, argument):
            # Nobody else is writing here, so what is unfinished was left by a process that died.
            resuming.remove_temporary(folder)
        stamps = _stamps(folder)
        if not resume:  # a process that was killed may have moved some files only
            _require_free(folder, stamps, overwrite)
        yield stamps


def _require_free(folder: Path, stamps: Stamps, overwrite: bool) -> None:
    """Raises a UserError unless a new run may be saved in a folder."""
    is_run = {PARAMS, OPTIONS} <= stamps.keys()
    is_unfinished = resuming.has_checkpoints(folder)
    others: list[str] = []
    if not is_run:
        others += stamps
    if not is_unfinished:
        if (folder / resuming.FOLDER).exists():
            others.append(resuming.FOLDER)
        got = f"{str(folder)!r} with {', '.join(others)} in it, which is no whole run"
        expected = "a folder without such files"
        check.require(not others, "--out", got, expected, UserError)
    if is_unfinished and not overwrite:
        got = f"{str(folder)!r}, which holds checkpoints of an unfinished run"
        expected = f"another folder, `train --resume {folder}`, or --overwrite"
        raise UserError(f"--out: got {got}, expected {expected}")
    if is_run and not overwrite:
        got = f"{str(folder)!r}, which holds a run"
        raise UserError(f"--out: got {got}, expected another folder, or --overwrite")


def save(folder: Path, run: Run, replaced: Stamps) -> Path:
    """Writes all files of a run, moves them to the folder, and returns the folder.

    If another run was saved there since `reserve` returned the stamps `replaced`, that run is kept
    and this one is moved to a new folder next to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=resuming.TEMPORARY, dir=folder) as name:
        unfinished = Path(name)
        interop.save(unfinished / PARAMS, run.network, run.params)
        options = {name: value for name, value in vars(run.options).items() if name != "resume"}
        text = json.dumps(options, indent=2, default=str) + "\n"
        (unfinished / OPTIONS).write_text(text, "utf-8")
        example = {name: np.ascontiguousarray(x) for name, x in run.example.items()}
        (unfinished / EXAMPLE).write_bytes(safetensors.numpy.save(example))
        for table, rows in ((HISTORY, run.history), (VALIDATION, run.validation)):
            with (unfinished / table).open("w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(rows[0] if rows else ())  # the names of the columns
                writer.writerows(row.values() for row in rows)
        figures.save(run.curve, unfinished / CURVE, dpi=150)
        target = folder
        if _stamps(folder).items() - replaced.items():  # files that were not there, or others
            target = _make_sibling(folder)
        _move_files(unfinished, target)
    return target


def load_options(folder: Path, *tasks: str) -> Options:
    """Returns the options of a run of one of these tasks; UserError if there is no such run."""
    with reading(folder / OPTIONS):
        options = Options(**json.loads((folder / OPTIONS).read_text("utf-8")))
    task = getattr(options, "task", None)
    got = f"{str(folder)!r} of the task {task!r}"
    expected = " or ".join(map(repr, tasks))
    check.require(task in tasks, "FOLDER", got, f"the task {expected}", UserError)
    return options


def load_network(folder: Path, argument: str = "FOLDER") -> tuple[Any, Params]:
    """Returns the network of a run and its parameters.

    Raises a UserError about the argument if the file is missing or damaged, or if it was written by
    an earlier jaxrnn and has no expression of the network.
    """
    with as_user_error(argument, folder / PARAMS, "a file of `jaxrnn train`"):
        if "jaxrnn" not in interop.open_file(folder / PARAMS)[0]:
            raise ValueError("no network is named in it: an earlier jaxrnn wrote it; train again")
        return interop.load(folder / PARAMS)


def load_example(folder: Path, **dtypes: DTypeLike) -> list[np.ndarray]:
    """Returns arrays of the example by name and dtype; UserError if one is missing."""
    with reading(folder / EXAMPLE):
        try:
            arrays = safetensors.numpy.load((folder / EXAMPLE).read_bytes())
        except (safetensors.SafetensorError, KeyError) as error:  # KeyError: NumPy lacks the dtype
            raise ValueError(str(error)) from None
        for name, dtype in dtypes.items():
            expected = f"an array of {np.dtype(dtype).name}"
            check.require(name in arrays, name, "none", expected)
            array = arrays[name]
            check.require(array.dtype == dtype, name, check.describe(array), expected)
        return [arrays[name] for name in dtypes]


def _lock(descriptor: int, folder: Path, argument: str) -> bool:
    """Locks an open folder, and returns whether it is locked now.

    Raises a UserError if another training has locked it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        got = f"{str(folder)!r}, where another training is about to save its run"
        raise UserError(f"{argument}: got {got}, expected another folder") from None
    except OSError:
        return False  # a file system without locks; `save` detects another run
    return True


def _stamps(folder: Path) -> Stamps:
    """Returns a stamp of each file of a run that exists."""
    stamps = {}
    for name in FILES:
        with contextlib.suppress(FileNotFoundError):
            status = (folder / name).lstat()
            stamps[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return stamps


def _make_sibling(folder: Path) -> Path:
    """Makes a new folder `NAME-2`, `NAME-3`, … next to a folder."""
    folder = folder.resolve()
    for number in itertools.count(2):
        sibling = folder.with_name(f"{folder.name}-{number}")
        with contextlib.suppress(FileExistsError):
            sibling.mkdir()
            return sibling
    raise AssertionError("unreachable")


def _move_files(unfinished: Path, folder: Path) -> None:
    """Moves all files of a run to their folder; if one cannot be moved, none is."""
    earlier = unfinished / "earlier"
    earlier.mkdir()
    for name in _stamps(folder):
        shutil.copy2(folder / name, earlier / name)
    try:
        for name in FILES:
            (unfinished / name).replace(folder / name)
    except BaseException:  # Ctrl-C too
        for name in FILES:
            if (earlier / name).exists():
                os.rename(earlier / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        raise
