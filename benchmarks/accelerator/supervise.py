"""Watches a worker process that measures, and replaces it if it dies or hangs.

This process imports only the standard library, so a driver or a compiler that hangs or crashes
cannot affect it. The results of a worker are in the file. The next worker continues after the point
of which the last one died.
"""

import os
import subprocess
import threading
import time
from pathlib import Path

from benchmarks.accelerator.record import Record

GRACE = 5.0  # seconds after the deadline for the worker to finish
RESTARTS = 4
MIN_SECONDS = 40.0  # with less time left, a new worker could not measure anything
RESTART = 75  # the exit code with which a worker requests its replacement


def supervise(command: list[str], path: Path, deadline: float) -> int:
    """Runs `command` until it succeeds, the deadline passes, or it has failed too often."""
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
        if left < MIN_SECONDS or attempt == RESTARTS:
            break
    record.content["running"] = None
    record.save()
    return 0 if record.content["finished"] else 1


def _watch(process: "subprocess.Popen[bytes]", path: Path, end: float) -> str | None:
    """Waits until the worker ends (None), or returns why it has to be killed."""
    while process.poll() is None:
        running, now = Record.load(path).content["running"], time.time()
        if now > end:
            return "the worker was still running after the deadline"
        if running and now - running["since"] > running["limit"]:
            return f"no result within {running['limit']:.0f} s"
        time.sleep(0.25)
    return None


def end_with(parent: int) -> None:
    """Ends this process soon after the process `parent` has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
