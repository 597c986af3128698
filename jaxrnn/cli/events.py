"""The log that a program can read: one JSON object a line."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

FORMATS = ("bar", "jsonl")  # of `--log`


@runtime_checkable
class Stream(Protocol):
    """What `print` writes to, such as stdout or an open file."""

    def write(self, text: str, /) -> Any:
        """Writes a text."""

    def flush(self) -> Any:
        """Hands on what has been written."""


class Events:
    """Writes an event a line to a stream; to none, it writes nothing."""

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream

    @property
    def are_written(self) -> bool:
        """Whether there is a stream."""
        return self._stream is not None

    def write(self, event: str, **values: Any) -> None:
        """Writes an event and its values. Numbers that are not finite become null."""
        if self._stream is not None:
            line = json.dumps({"event": event, **_json(values)}, default=str, allow_nan=False)
            print(line, file=self._stream, flush=True)


NO_EVENTS = Events()


@contextlib.contextmanager
def opened(log: str) -> Iterator[Events]:
    """Yields the events of `--log`; with "jsonl", stdout holds them and nothing else.

    What is printed for people goes to stderr then.
    """
    if log == "bar":
        yield NO_EVENTS
    else:
        events = Events(sys.stdout)
        with contextlib.redirect_stdout(sys.stderr):
            yield events


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json(x) for name, x in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN and no infinity
    return value
