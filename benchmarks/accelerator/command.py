"""The command line: `accelerator --minutes 8 --json FILE`, and `accelerator --report FILE`."""

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks.accelerator.supervise import supervise


def main(arguments: list[str]) -> int:
    """Runs all measurements, or prints the report of a run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks accelerator",
        description="Is jaxrnn correct on this device, and how fast is it compared with its peers?",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of the run")
    parser.add_argument(
        "--json", type=Path, help="file for the results, rewritten after every point"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny shapes; the default without an accelerator"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="print tables and draw charts of a file"
    )
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)  # for worker processes
    options = parser.parse_args(arguments)
    if options.report is not None:
        if options.json is not None:
            parser.error("--report: got --json too, expected one of them")
        if not options.report.is_file():
            parser.error(f"--report: got {options.report}, expected a file of a run")
        from benchmarks.accelerator import report

        print(report.render(options.report))
        return 0
    if options.json is None:
        parser.error("expected --json FILE, or --report FILE")
    if not options.json.parent.is_dir():
        parser.error(f"--json: got {options.json}, expected a file in a folder that exists")
    if not 0 < options.minutes <= 600:
        parser.error(f"--minutes: got {options.minutes}, expected more than 0 and at most 600")
    if options.deadline is not None:
        from benchmarks.accelerator import worker

        return worker.run(options.json, options.deadline, 60 * options.minutes, options.dry_run)
    # PyTorch in the same process needs device memory too, so JAX must not reserve most of it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        os.environ["JAX_PLATFORMS"] = (
            f"{platforms},cpu"  # The host computes the float64 references.
        )
    deadline = time.time() + 60 * options.minutes
    command = [sys.executable, "-m", "benchmarks", "accelerator", *arguments]
    return supervise([*command, "--deadline", repr(deadline)], options.json, deadline)
