"""The argument of every stage: the record, the time left, and progress messages."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.accelerator.record import Record, describe


class BrokenDevice(RuntimeError):
    """The device fails even a trivial program, so a new process is needed."""


class Run(NamedTuple):
    """The run of one worker.

    Fields:
        record: the record of the run.
        deadline: the end of the run, by `time.time()`.
        seconds: the length of the whole run.
        dry: whether to use tiny shapes.
    """

    record: Record
    deadline: float
    seconds: float
    dry: bool

    def clock(self) -> float:
        """Returns the current time by the clock of the deadline, in seconds."""
        return time.time()

    def left(self) -> float:
        """Returns the seconds until the deadline."""
        return self.deadline - time.time()

    def has(self, seconds: float) -> bool:
        """Whether that much time is left; in a dry run, 5 seconds are enough."""
        return self.left() > (min(seconds, 5.0) if self.dry else seconds)

    def is_done(self, key: str) -> bool:
        """Whether an earlier worker has a result or an error of the point."""
        return key in self.record.done()

    def say(self, line: str) -> None:
        """Prints a line of progress, with the time left."""
        print(f"[{self.left():4.0f} s left] {line}", flush=True)

    def failed(self, key: str, error: BaseException) -> None:
        """Records an error; raises BrokenDevice if the device does not work any more."""
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
