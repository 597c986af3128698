"""A worker process measures; this process watches it, and replaces it if it dies or hangs.

The standard library alone is imported here: nothing that hangs or crashes in a driver or a compiler
can take this process with it. What a worker had found is in the file, and the next one goes on
behind the point that killed it.
"""

import os
import subprocess
import threading
import time
from pathlib import Path

from benchmarks.accelerator.record import Record

GRACE = 5.0  # seconds after the deadline for the worker to write its last words
RESTARTS = 4
LEAST_SECONDS = 40.0  # with less time left a new worker, which starts JAX again, finds nothing
RESTART = 75  # exit code by which a worker asks for another in its place


def supervise(command: list[str], path: Path, deadline: float) -> int:
    """Run `command` until it ends well, the deadline passes, or it has failed too often."""
    Record(path).save()
    for attempt in range(RESTARTS + 1):
        process = subprocess.Popen(command)
        try:
            why = _watch(process, path, deadline + GRACE)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        record = Record.load(path)
        if process.returncode == 0:
            record.content["finished"] = True
            break
        why = why or f"the worker ended with code {process.returncode}"
        running, left = record.content["running"], deadline - time.time()
        if running and process.returncode != RESTART:
            record.fail(running["key"], why, died=True)
        record.content["restarts"].append({"why": why, "seconds_left": round(left)})
        record.save()
        print(f"{why}; {left:.0f} s left", flush=True)
        if left < LEAST_SECONDS or attempt == RESTARTS:
            break
    record.content["running"] = None
    record.save()
    return 0 if record.content["finished"] else 1


def _watch(process: "subprocess.Popen[bytes]", path: Path, end: float) -> str | None:
    """Wait until the worker ends (None), or say why it has to be ended."""
    while process.poll() is None:
        running, now = Record.load(path).content["running"], time.time()
        if now > end:
            return "the worker was still running after the deadline"
        if running and now - running["since"] > running["limit"]:
            return f"no result within {running['limit']:.0f} s"
        time.sleep(0.25)
    return None


def end_with(parent: int) -> None:
    """End this process, whatever it waits for, soon after `parent` has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
