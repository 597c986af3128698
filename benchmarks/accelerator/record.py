"""The file of a run: rewritten after every point, so that a run cut short is still a result."""

import json
import os
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Record:
    """What a run has found so far; every method that changes it rewrites the file.

    Fields:
        path: the file, replaced as a whole, so that a reader never sees half of it.
        content: what stands in it. `rows` holds the rows of each stage; `errors` the points that
            failed, `skipped` what was left out and why; `running` is the point under way, with the
            seconds it may take; `restarts` tells why a worker process was replaced.
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
        """The record that a process before this one wrote."""
        return cls(path, json.loads(path.read_text()))

    def save(self) -> None:
        """Write a file beside it and rename it, which either happens or does not."""
        beside = self.path.with_name(f".{self.path.name}.tmp")
        beside.write_text(json.dumps(_finite(self.content)) + "\n")
        os.replace(beside, self.path)

    def done(self) -> set[str]:
        """The points that have a result or have failed, which a new worker does not repeat."""
        rows = [row for rows in self.content["rows"].values() for row in rows]
        return {row["key"] for row in [*rows, *self.content["errors"]] if row.get("key")}

    def rows(self, stage: str) -> list[Row]:
        """The rows of a stage so far."""
        return self.content["rows"].get(stage, [])

    def begin(self, key: str, limit: float) -> None:
        """A point begins; the supervisor replaces the worker if it takes more than `limit` s."""
        self.content["running"] = {"key": key, "since": time.time(), "limit": limit}
        self.save()

    def add(self, stage: str, key: str, row: Row) -> None:
        """The result of a point."""
        self.content["rows"].setdefault(stage, []).append({"key": key, **row})
        self.content["running"] = None
        self.save()

    def fail(self, key: str, error: BaseException | str, died: bool = False) -> None:
        """A point failed, and the run goes on, in a new worker if it took this one with it."""
        self.content["errors"].append({"key": key, "error": describe(error), "died": died})
        self.content["running"] = None
        self.save()

    def died(self, stage: str) -> list[str]:
        """The points of a stage that ended a worker."""
        keys = [error["key"] for error in self.content["errors"] if error["died"]]
        return [key for key in keys if key.startswith(f"{stage}/")]

    def skip(self, what: str, why: str) -> None:
        """Something was left out; said once."""
        entry = {"what": what, "why": why}
        if entry not in self.content["skipped"]:
            self.content["skipped"].append(entry)
            self.save()

    def stage(self, name: str, seconds: float) -> None:
        """How long a stage took, all workers together."""
        stages = self.content["stages"]
        stages[name] = round(stages.get(name, 0.0) + seconds, 1)
        self.content["running"] = None
        self.save()


def describe(error: BaseException | str) -> str:
    """An error in at most a few lines, since the compiler's run to pages."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return text if len(text) <= 600 else f"{text[:400]} … {text[-200:]}"


def _finite(value: Any) -> Any:
    """The same with text in the place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        finite = value - value == 0
        return round_to(value) if finite else str(value)
    return value


def round_to(value: float, digits: int = 5) -> float:
    """A number with few digits, except for a time of day, which needs all of them."""
    return value if abs(value) > 1e8 else float(f"{value:.{digits}g}")
