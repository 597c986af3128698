"""The progress of a training: its state, and everything that was measured on the way."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import jaxrnn
from jaxrnn.types import Array, Params

Row = dict[str, int | float]  # of a table, by column
Arrays = Mapping[str, Array]


@dataclasses.dataclass
class Progress:
    """The progress of a training.

    Fields:
        state: the state after the last update.
        history: the metrics of each update.
        validation: the metrics of each evaluation.
        norms: ‖∂L/∂c_t‖ of the first recurrent layer, once every `inspect_every` updates.
        best: the update with the smallest validation loss, and the parameters after it.
    """

    state: jaxrnn.training.TrainState
    history: list[Row] = dataclasses.field(default_factory=list)
    validation: list[Row] = dataclasses.field(default_factory=list)
    norms: list[Array] = dataclasses.field(default_factory=list)
    best: tuple[int, Params] | None = None

    def record(
        self,
        state: jaxrnn.training.TrainState,
        row: Row,
        norms: Sequence[jax.Array],
        evaluation: Mapping[str, float] | None,
    ) -> None:
        """Records an update: all of it, in no time, so that Ctrl-C finds a whole one.

        The state comes last: `RunCheckpoints.save` knows half a record by a step that is behind the
        history.
        """
        step = int(row["step"])
        if evaluation is not None:
            losses = [row["loss"] for row in self.validation if np.isfinite(row["loss"])]
            if evaluation["loss"] < min(losses, default=np.inf):
                self.best = step, state.params
            self.validation.append({"step": step, **evaluation})
        self.norms += norms
        self.history.append(row)
        self.state = state

    @property
    def step(self) -> int:
        """The number of updates."""
        return int(self.state.step)

    @property
    def has_diverged(self) -> bool:
        """Whether the last loss is not a finite number."""
        return bool(self.history) and not np.isfinite(self.history[-1]["loss"])

    @property
    def selected(self) -> tuple[int, Params]:
        """The update whose parameters are saved, and these parameters.

        These are the best parameters. They are the last ones if there was no evaluation, or if the
        loss is not finite: then `jaxrnn inspect` can find the first number that is not finite.
        """
        if self.has_diverged or self.best is None:
            return self.step, self.state.params
        return self.best

    def arrays(self) -> dict[str, Array]:
        """Returns everything but the state, as arrays by name."""
        arrays: dict[str, Array] = {}
        for table in ("history", "validation"):
            rows = getattr(self, table)
            if rows:  # all rows have the columns of the first
                for column in rows[0]:
                    arrays[f"{table}.{column}"] = np.array([row[column] for row in rows])
        if self.norms:
            arrays["norms"] = np.stack([np.asarray(norms) for norms in self.norms])
        if self.best:
            step, params = self.best
            arrays["best"] = np.array(step)
            leaves = enumerate(jax.tree.leaves(params))
            arrays |= {f"best.{number}": leaf for number, leaf in leaves}
        return arrays

    @classmethod
    def from_arrays(cls, state: jaxrnn.training.TrainState, arrays: Arrays) -> "Progress":
        """Returns the progress whose arrays these are."""
        best = None
        if "best" in arrays:
            structure: Any = jax.tree.structure(state.params)
            leaves = [arrays[f"best.{number}"] for number in range(structure.num_leaves)]
            best = int(arrays["best"]), jax.tree.unflatten(structure, leaves)
        return cls(
            state,
            history=_rows(arrays, "history"),
            validation=_rows(arrays, "validation"),
            norms=[*arrays.get("norms", ())],
            best=best,
        )


def _rows(arrays: Arrays, table: str) -> list[Row]:
    """Returns the rows of a table whose columns are arrays."""
    prefix = f"{table}."
    columns = {
        name.removeprefix(prefix): array.tolist()
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    rows = []
    for values in zip(*columns.values(), strict=True):
        rows.append(dict(zip(columns, values, strict=True)))
    return rows
