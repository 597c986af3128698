"""The checkpoints in the folder of a run: `--checkpoint-every` writes them, `--resume` reads them.

checkpoints/options.json   the options of the run and the checksum of its data
checkpoints/STEP           the progress after that update (`jaxrnn.training.Checkpoints`)

They go when the run is complete.
"""

import contextlib
import json
import logging
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxrnn import check
from jaxrnn.cli.options import Options, UserError, as_user_error
from jaxrnn.cli.progress import Progress
from jaxrnn.training import Checkpoints
from jaxrnn.types import Part

FOLDER = "checkpoints"
OPTIONS = "options.json"
TEMPORARY = ".unfinished-"  # how the names of folders begin that a process is writing
# Of the options, those that belong to the command, not to the run, and what the data tell again.
NOT_RESUMED = ("command", "task", "out", "resume", "overwrite", "vocabulary", "setup")
POSITIONAL = ("file",)  # the arguments of a task that have no name


class RunCheckpoints:
    """The checkpoints of a run that is being trained; without `--checkpoint-every`, none.

    Args:
        args: the options of the run.
        network: the network of the run.
        optimizer: a text that names the optimizer and its options.
    """

    def __init__(self, args: Options, network: Part, optimizer: str) -> None:
        self._every = args.checkpoint_every
        self._folder = args.out / FOLDER
        self._progress: Progress | None = None
        self._checkpoints: Checkpoints | None = None
        if self._every is not None:
            _silence_orbax()
            self._checkpoints = Checkpoints(self._folder, network=network, optimizer=optimizer)

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits until all checkpoints are written; after Ctrl-C, writes one more before."""
        if self._checkpoints is not None:
            if isinstance(error, KeyboardInterrupt) and self._progress is not None:
                # A full disk, or Ctrl-C while orbax begins to write this very step: the last whole
                # checkpoint stays, and the run can be saved.
                with contextlib.suppress(OSError, ValueError):
                    self.save(self._progress)
            self._checkpoints.__exit__(kind, error, traceback)

    def restore(self, progress: Progress) -> Progress:
        """Returns the progress of the last checkpoint; the argument if there is none."""
        if self._checkpoints is not None and self._checkpoints.latest_step is not None:
            try:
                state, _, arrays = self._checkpoints.restore(progress.state)
                progress = Progress.from_arrays(state, arrays)
            except (ValueError, KeyError) as error:
                raise UserError(re.sub("^folder", "--resume", str(error))) from None
        self._progress = progress
        return progress

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after this update."""
        return self._every is not None and step % self._every == 0

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint in the background, unless it exists or half an update is recorded."""
        if self._checkpoints is not None:
            # Without it nothing could be resumed, and orbax would make the folder anew.
            if not (self._folder / OPTIONS).exists():
                got = f"{str(self._folder)!r}, which is gone"
                raise OSError(f"folder: got {got}, expected it to stay while the run is trained")
            is_whole = progress.step == len(progress.history)
            is_new = progress.step != self._checkpoints.latest_step
            if is_whole and is_new:
                self._checkpoints.save(progress.state, arrays=progress.arrays())


def begin(folder: Path, args: Options, data: str) -> None:
    """Makes the folder of the checkpoints of a new run, and removes those of an earlier one."""
    remove(folder)
    if args.checkpoint_every is None:
        return
    # Written beside and renamed, so that the folder of checkpoints never lacks its options.
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as name:
        unfinished = Path(name) / FOLDER
        unfinished.mkdir()
        options = {name: value for name, value in vars(args).items() if name not in NOT_RESUMED}
        content = {"task": args.task, "data": data, "options": options}
        text = json.dumps(content, indent=2, default=str) + "\n"
        (unfinished / OPTIONS).write_text(text, "utf-8")
        unfinished.rename(folder / FOLDER)


def remove(folder: Path) -> None:
    """Removes all checkpoints in the folder of a run, at once for whoever looks."""
    if has_checkpoints(folder):
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as name:
            (folder / FOLDER).rename(Path(name) / FOLDER)


def remove_temporary(folder: Path) -> None:
    """Removes what a process that was killed was writing."""
    for path in folder.glob(TEMPORARY + "*"):
        shutil.rmtree(path, ignore_errors=True)


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder holds checkpoints of a run that is not complete."""
    return (folder / FOLDER / OPTIONS).exists()


def options_of(
    folder: Path, tasks: Iterable[str], parse: Callable[[list[str]], Options]
) -> Options:
    """Returns the options of the run in a folder; UserError if there is none to resume.

    They are parsed as those of a command of one of the tasks, so that nothing else is accepted.
    """
    got = f"{str(folder)!r} without checkpoints of an unfinished run"
    expected = "a folder where `jaxrnn train ... --checkpoint-every N` did not end"
    check.require(has_checkpoints(folder), "--resume", got, expected, UserError)
    with _reading(folder):
        content = _content(folder)
        task = content["task"]
        check.require(task in [*tasks], "task", repr(task), f"one of {[*tasks]}")
        arguments = [*_arguments(content["options"])]
        # A damaged file could hold it; argparse would print a text and end the process.
        check.require("--help" not in arguments, "options", "help", "options of a training")
        options = parse(["train", task, *arguments])
    options.out = folder
    options.resume = folder
    return options


def require_same_data(folder: Path, data: str) -> None:
    """Raises a UserError if a run began with other data."""
    with _reading(folder):
        begun_with = _content(folder)["data"]
    got = f"{str(folder)!r}, which began with other data"
    expected = "the data it began with"
    check.require(begun_with == data, "--resume", got, expected, UserError)


def _content(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / FOLDER / OPTIONS).read_text("utf-8"))
    check.require_instance("content", content, dict)
    missing = {"task", "data", "options"} - content.keys()
    check.require(not missing, "content", f"no {sorted(missing)}", "it")
    check.require_instance("options", content["options"], dict)
    return content


def _reading(folder: Path) -> contextlib.AbstractContextManager[None]:
    return as_user_error("--resume", folder / FOLDER / OPTIONS, "a file of `jaxrnn train`")


def _arguments(options: dict[str, Any]) -> Iterator[str]:
    """Yields the arguments of a command with these options."""
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if name in POSITIONAL:
            yield str(Path(value).absolute())  # begins like no option
        elif value is True:
            yield flag
        elif value is not None and value is not False:
            yield f"{flag}={value}"


def _silence_orbax() -> None:
    """Leaves errors to us, who say them in one line.

    Orbax logs them too. Where it fails, tensorstore's callbacks find their event loops closed.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    hook = sys.unraisablehook
    if hook is not _report_unless_loop_closed:
        _hooks.append(hook)
        sys.unraisablehook = _report_unless_loop_closed


_hooks: list[Callable[[Any], object]] = []  # the hook of the process, before ours


def _report_unless_loop_closed(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        _hooks[-1](unraisable)
