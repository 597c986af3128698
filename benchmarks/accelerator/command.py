"""The command line: `accelerator --minutes 8 --json FILE`, and `accelerator --report FILE`."""

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks.accelerator.supervise import supervise


def main(arguments: list[str]) -> int:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks accelerator",
        description="Is jaxrnn right on this device, and how fast is it beside its peers?",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="stop after so long")
    parser.add_argument("--json", type=Path, help="keep results here, rewritten after every point")
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny shapes, as where there is no accelerator"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="tables and charts of a file")
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)  # of a worker process
    options = parser.parse_args(arguments)
    if options.report is not None:
        if options.json is not None:
            parser.error("--report: got --json too, expected one of them")
        if not options.report.is_file():
            parser.error(f"--report: got {options.report}, expected a file of a run")
        from benchmarks.accelerator import report

        print(report.of_file(options.report))
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
    # PyTorch in the same process needs memory of the card, too, so JAX must not take most of it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"  # The host computes the truth.
    deadline = time.time() + 60 * options.minutes
    command = [sys.executable, "-m", "benchmarks", "accelerator", *arguments]
    return supervise([*command, "--deadline", repr(deadline)], options.json, deadline)
