"""What every stage is handed: the record, the time left, and a voice."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.accelerator.record import Record, describe


class BrokenDevice(RuntimeError):
    """The device fails at the simplest of programs, and a new process is needed."""


class Run(NamedTuple):
    """One worker's run.

    Fields:
        record: the file.
        deadline: by `time.time()`.
        seconds: of the whole run.
        dry: tiny shapes.
    """

    record: Record
    deadline: float
    seconds: float
    dry: bool

    def clock(self) -> float:
        """Seconds by the clock of the deadline."""
        return time.time()

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def has(self, seconds: float) -> bool:
        """Whether so much time is left; a dry run is quick at everything."""
        return self.left() > (min(seconds, 5.0) if self.dry else seconds)

    def is_done(self, key: str) -> bool:
        """Whether a worker before this one has been there."""
        return key in self.record.done()

    def say(self, line: str) -> None:
        """A line of progress, with the time left."""
        print(f"[{self.left():4.0f} s left] {line}", flush=True)

    def failed(self, key: str, error: BaseException) -> None:
        """Record an error; raise BrokenDevice if nothing works any more."""
        self.record.fail(key, error)
        self.say(f"{key}: {describe(error)}")
        try:
            if float(jnp.sum(jax.device_put(jnp.arange(8.0))).block_until_ready()) == 28.0:
                return
            why = "a sum of eight numbers is wrong"
        except Exception as broken:
            why = describe(broken)
        self.record.content["errors"][-1]["died"] = True
        self.record.save()
        raise BrokenDevice(why)
