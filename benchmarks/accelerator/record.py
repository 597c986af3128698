"""The file of a run, rewritten after every point, so that an interrupted run has results too."""

import json
import os
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Record:
    """The results of a run so far; every method that changes them rewrites the file.

    Fields:
        path: the file. It is replaced as a whole, so that a reader never sees a partial file.
        content: the content of the file. `rows` has the rows of each stage, `errors` the points
            that failed, `skipped` what was left out and why, `running` the current point with its
            time limit, `restarts` why worker processes were replaced.
    """

    def __init__(self, path: Path, content: dict[str, Any] | None = None) -> None:
        self.path = path
        self.content: dict[str, Any] = content or {
            "finished": False,
            "machine": {},
            "rows": {},
            "stages": {},
            "errors": [],
            "skipped": [],
            "restarts": [],
            "running": None,
        }

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Reads the record that an earlier process wrote."""
        return cls(path, json.loads(path.read_text()))

    def save(self) -> None:
        """Writes a temporary file and renames it, which is atomic."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(_finite(self.content)) + "\n")
        os.replace(temporary, self.path)

    def done(self) -> set[str]:
        """Returns the points that have a result or an error; a new worker does not repeat them."""
        rows = [row for rows in self.content["rows"].values() for row in rows]
        return {row["key"] for row in [*rows, *self.content["errors"]] if row.get("key")}

    def rows(self, stage: str) -> list[Row]:
        """Returns the rows of a stage so far."""
        return self.content["rows"].get(stage, [])

    def begin(self, key: str, limit: float) -> None:
        """Begins a point; the supervisor replaces the worker after `limit` seconds."""
        self.content["running"] = {"key": key, "since": time.time(), "limit": limit}
        self.save()

    def add(self, stage: str, key: str, row: Row) -> None:
        """Adds the result of a point."""
        self.content["rows"].setdefault(stage, []).append({"key": key, **row})
        self.content["running"] = None
        self.save()

    def fail(self, key: str, error: BaseException | str, died: bool = False) -> None:
        """Records the error of a point; `died` says that the worker died of it."""
        self.content["errors"].append({"key": key, "error": describe(error), "died": died})
        self.content["running"] = None
        self.save()

    def died(self, stage: str) -> list[str]:
        """Returns the points of a stage of which a worker died."""
        keys = [error["key"] for error in self.content["errors"] if error["died"]]
        return [key for key in keys if key.startswith(f"{stage}/")]

    def skip(self, what: str, why: str) -> None:
        """Records once that something was left out."""
        entry = {"what": what, "why": why}
        if entry not in self.content["skipped"]:
            self.content["skipped"].append(entry)
            self.save()

    def stage(self, name: str, seconds: float) -> None:
        """Adds to the time of a stage, over all workers."""
        stages = self.content["stages"]
        stages[name] = round(stages.get(name, 0.0) + seconds, 1)
        self.content["running"] = None
        self.save()


def describe(error: BaseException | str) -> str:
    """Returns an error in a few lines; errors of the compiler can fill pages."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return text if len(text) <= 600 else f"{text[:400]} … {text[-200:]}"


def _finite(value: Any) -> Any:
    """Replaces numbers that JSON does not have by strings, and rounds the others."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        finite = value - value == 0
        return round_to(value) if finite else str(value)
    return value


def round_to(value: float, digits: int = 5) -> float:
    """Rounds a number to a few digits; a time of day keeps all of them."""
    return value if abs(value) > 1e8 else float(f"{value:.{digits}g}")
