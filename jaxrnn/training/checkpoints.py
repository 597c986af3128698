"""Checkpoints of a training: what comes next is decided by what they hold, to the bit."""

import contextlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn import check, tree
from jaxrnn.training import stored_arrays
from jaxrnn.training.trainers import TrainState
from jaxrnn.types import Array, Part
from jaxrnn.version import __version__

FORMAT = 1  # of what is written here; another format is refused
# The two items of a checkpoint: its arrays, and a text that says what they are.
STATE = "state"
DESCRIPTION = "description"


class Checkpoint(NamedTuple):
    """What `Checkpoints.restore` returns.

    Fields:
        state: the state of the training.
        metadata: the JSON value that was passed to `save`.
        arrays: the arrays that were passed to `save`, by name.
    """

    state: TrainState
    metadata: Any
    arrays: dict[str, np.ndarray]


class Checkpoints:
    """The checkpoints of one training in a folder, by orbax.

    A checkpoint is a folder `STEP` that exists as a whole or not at all: a process that is killed
    while it writes one leaves the earlier ones as they are. All files are written in the
    background; `save` waits only until the arrays are copied and the checkpoint before is written.

    Under `jax.distributed`, every process makes the same calls, in a folder that all share. A
    checkpoint is written once, and any number of processes restores it.

    Use it in a `with` block, which waits for the last checkpoint at its end:

        with Checkpoints("checkpoints", network=network, optimizer="adamw(1e-2)") as checkpoints:
            if checkpoints.latest_step is not None:
                state, metadata, _ = checkpoints.restore(state)
            ...
            checkpoints.save(state, metadata={"position": position})

    Args:
        folder: is made if there is none. One training at a time uses it.
        network: the network or cell, whose expression is compared when a checkpoint is restored.
        optimizer: a text that names the optimizer and its options. It is compared too. Without it,
            two optimizers whose states have the same types and shapes cannot be told apart.
        keep: the number of last checkpoints that are kept.

    Raises:
        ModuleNotFoundError: if orbax-checkpoint is not installed.
        OSError: if the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        network: Part | None = None,
        optimizer: str | None = None,
        keep: int = 3,
    ) -> None:
        check.require_path("folder", folder)
        is_text = optimizer is None or isinstance(optimizer, str)
        check.require_option_type("optimizer", optimizer, is_text, "a text or None")
        check.require_int("keep", keep, least=1)
        self.folder = Path(folder).absolute()  # as orbax demands
        self._network = None
        if network is not None:
            self._network = _spell(network)
        self._optimizer = optimizer
        self._orbax = _import_orbax()
        policy = self._orbax.checkpoint_managers.LatestN(keep)
        options = self._orbax.CheckpointManagerOptions(
            preservation_policy=policy, cleanup_tmp_directories=True
        )
        with _as_folder_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)  # orbax would take a file for a folder
            self._manager = self._orbax.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OSError:
            if error is None:  # else the error of the block says more
                raise

    @property
    def steps(self) -> list[int]:
        """The steps of all whole checkpoints, in increasing order."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """The step of the last checkpoint; None if there is none."""
        return max(self.steps, default=None)

    def save(
        self,
        state: TrainState,
        *,
        metadata: Any = None,
        arrays: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes a checkpoint in the background, named by `state.step`.

        Args:
            state: the state after an update. Its arrays are copied before `save` returns, so that
                the next update may donate them.
            metadata: any JSON value, such as the position in the data.
            arrays: further arrays by name, such as the losses so far.

        Raises:
            OSError: if this checkpoint, or the one before, cannot be written. The earlier ones stay
                as they are.
            TypeError: if metadata is no JSON value, or an array is none.
            ValueError: if the folder has a checkpoint of this step or a later one.

        Time: one copy and a checksum of all arrays, then in the background their writing.
        """
        check.require_instance("state", state, TrainState)
        check.require_concrete(state=state, arrays=arrays)
        state = tree.to_arrays("state", state)
        # One by one, since a dict that is mapped as a tree is sorted.
        named = (arrays or {}).items()
        arrays = {name: tree.to_arrays(f"arrays[{name!r}]", x) for name, x in named}
        step = int(state.step)
        latest = self.latest_step
        expected = f"one after {latest}, the last checkpoint in {str(self.folder)!r}"
        check.require(latest is None or step > latest, "state.step", step, expected)
        stored = [*map(stored_arrays.to_stored, [*jax.tree.leaves(state), *arrays.values()])]
        description = {
            "format": FORMAT,
            **self._made_by(),
            "nodes": stored_arrays.describe_nodes(state, "state"),
            "arrays": {name: check.describe(x) for name, x in arrays.items()},
            "checksums": [*map(stored_arrays.checksum, stored)],
            "metadata": metadata,
        }
        try:
            text = json.dumps(description)
        except (TypeError, ValueError) as error:
            raise TypeError(f"metadata: got {error}, expected a JSON value") from None
        args = self._orbax.args
        # A flat dict by number: orbax need not know the classes of the state to read it again.
        # It cannot write an array without elements.
        items = {
            STATE: args.PyTreeSave({str(i): x for i, x in enumerate(stored) if x.size}),
            DESCRIPTION: args.JsonSave({"text": text, "checksum": zlib.crc32(text.encode())}),
        }
        with _as_folder_error(self.folder):
            self._manager.save(step, args=args.Composite(**items))

    def metadata(self, step: int | None = None) -> Any:
        """Returns the metadata of a checkpoint, the last one by default, without its arrays.

        Raises:
            ValueError: if there is no such checkpoint, or if it is damaged.
        """
        return self._described(self._checked_step(step))["metadata"]

    def restore(self, like: TrainState, step: int | None = None) -> Checkpoint:
        """Returns a checkpoint, the last one by default.

        Nothing that is read is run: arrays are read by tensorstore, all else is JSON.

        Args:
            like: a state of the same training, such as a new one, or its `jax.eval_shape`. Each
                array is placed on the devices of the array in `like`.
            step: the step of the checkpoint.

        Raises:
            ValueError: if there is no such checkpoint, if it is damaged, or if it belongs to
                another version of jaxrnn, another network, or another optimizer. The error names
                the first array that differs.
        """
        check.require_instance("like", like, TrainState)
        step = self._checked_step(step)
        described = self._described(step)
        place = self._place(step)
        for name, expected in self._made_by().items():
            got = f"{described[name]!r} in {place}"
            fits = expected is None or described[name] == expected
            check.require(fits, name, got, repr(expected))
        like = jax.tree.map(_to_template, like)
        nodes = stored_arrays.describe_nodes(like, "state")
        stored_arrays.require_same_nodes(described["nodes"], nodes, place)
        try:
            leaves, treedef = jax.tree.flatten(like)
            named = described["arrays"]
            types = [*leaves, *map(stored_arrays.parse_description, named.values())]
            stored = self._read_arrays(step, [*map(stored_arrays.stored_type, types)])
            checksums = [*map(stored_arrays.checksum, stored)]
            stored_arrays.require_same_checksums(checksums, described["checksums"])
        except Exception as error:  # orbax and tensorstore raise all sorts for a damaged file
            raise _damaged(place, error) from None
        # The arrays of the state come first, then the named ones; `map` ends with the leaves.
        restored = [*map(stored_arrays.from_stored, stored, leaves)]
        arrays = dict(zip(named, stored[len(leaves) :], strict=True))
        return Checkpoint(jax.tree.unflatten(treedef, restored), described["metadata"], arrays)

    def wait(self) -> None:
        """Waits until all checkpoints are written; OSError if one cannot be."""
        with _as_folder_error(self.folder):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until all checkpoints are written; OSError if one cannot be."""
        with _as_folder_error(self.folder):
            self._manager.close()

    def _made_by(self) -> dict[str, str | None]:
        """Returns what has to be the same when a checkpoint is restored."""
        return {"version": __version__, "network": self._network, "optimizer": self._optimizer}

    def _place(self, step: int) -> str:
        return f"the checkpoint {str(self.folder / str(step))!r}"

    def _checked_step(self, step: int | None) -> int:
        steps = self.steps
        got = f"{str(self.folder)!r} without checkpoints"
        expected = "a folder with one"
        check.require(steps, "folder", got, expected)
        if step is None:
            return steps[-1]
        check.require_int("step", step, least=0)
        check.require(step in steps, "step", step, f"one of {steps}")
        return step

    def _described(self, step: int) -> dict[str, Any]:
        """Returns the description of a checkpoint; ValueError if it is damaged."""
        place = self._place(step)
        args = self._orbax.args
        try:
            items = {DESCRIPTION: args.JsonRestore()}
            item = self._manager.restore(step, args=args.Composite(**items))[DESCRIPTION]
            if item["checksum"] != zlib.crc32(item["text"].encode()):
                raise ValueError("a description with another checksum")
            described = json.loads(item["text"])
            found = described["format"]
            types = {"nodes": dict, "arrays": dict, "checksums": list}
            for name, wanted in types.items():
                check.require_instance(name, described[name], wanted)
            for name in ("version", "network", "optimizer", "metadata"):
                described[name]  # a KeyError if it is missing
        except Exception as error:
            raise _damaged(place, error) from None
        check.require(found == FORMAT, "folder", f"format {found!r} of {place}", str(FORMAT))
        return described

    def _read_arrays(self, step: int, types: list[jax.ShapeDtypeStruct]) -> list[Array]:
        """Returns the stored arrays of these types, those that are spread on their devices."""
        items = {str(i): x for i, x in enumerate(types) if np.prod(x.shape)}
        options = {name: self._restore_args(x) for name, x in items.items()}
        args = self._orbax.args
        restore = args.PyTreeRestore(item=items, restore_args=options)
        read = self._manager.restore(step, args=args.Composite(**{STATE: restore}))[STATE]
        # An array without elements is not stored.
        arrays = [read.get(str(i), np.zeros(x.shape, x.dtype)) for i, x in enumerate(types)]
        check.require_same_tree("arrays", arrays, types)
        return arrays

    def _restore_args(self, x: jax.ShapeDtypeStruct) -> Any:
        # What this process holds as a whole is read as NumPy's, and placed by `from_stored`. Of an
        # array that is spread over processes, each reads its part, which only orbax can do.
        if x.sharding is None or x.sharding.is_fully_addressable:
            return self._orbax.RestoreArgs(restore_type=np.ndarray)
        return self._orbax.ArrayRestoreArgs(sharding=x.sharding)


def _import_orbax() -> Any:
    # Imported only here: it takes a third of a second, and needs packages that nothing else does.
    try:
        import orbax.checkpoint
    except ModuleNotFoundError as error:
        expected = "orbax-checkpoint (pip install 'jaxrnn[checkpoint]')"
        raise ModuleNotFoundError(
            f"jaxrnn.training.Checkpoints: got no package {error.name!r}, expected {expected}",
            name=error.name,
        ) from None
    return orbax.checkpoint


@contextlib.contextmanager
def _as_folder_error(folder: Path) -> Iterator[None]:
    """Turns any error of writing a checkpoint into an OSError that names the folder."""
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise all sorts for a full disk
        got = f"{str(folder)!r} ({_first_line(error)})"
        expected = "a folder in which checkpoints can be written"
        raise OSError(f"folder: got {got}, expected {expected}") from error


def _first_line(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return reason.partition("\n")[0][:300]


def _damaged(place: str, error: Exception) -> ValueError:
    got = f"{place} ({type(error).__name__}: {_first_line(error)})"
    expected = "a whole checkpoint of this library, or its folder deleted to go on from another"
    return ValueError(f"folder: got {got}, expected {expected}")


def _to_template(x: Any) -> stored_arrays.Template:
    """Returns an array or a struct as it is; a number as the array that `save` makes of it."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    return tree.to_arrays("like", x)


def _spell(network: Part) -> str:
    """Returns the expression of a network, without addresses, which differ in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(network))
