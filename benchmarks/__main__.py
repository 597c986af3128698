"""Run the measurements: `python -m benchmarks [QUESTION] [--quick] [--json FILE]`."""

import argparse
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax
import tqdm

from benchmarks import compare, flow, marks, memory, speed
from benchmarks.problems import QUICK_SHAPES

QUESTIONS = {
    "speed": speed.QUESTION,
    "marks": marks.QUESTION,
    "flow": flow.QUESTION,
    "memory": memory.QUESTION,
}


def machine() -> dict[str, Any]:
    """The device, the versions and the flags of this run."""
    names = ("jax", "jaxlib", "numpy", "optax")
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Measure, print the table, and keep every sample where `--json` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("question", nargs="?", choices=[*QUESTIONS], default="speed")
    parser.add_argument("--quick", action="store_true", help="small shapes, a short time")
    parser.add_argument("--json", type=Path, help="keep device, versions and all samples here")
    options = parser.parse_args()
    question = QUESTIONS[options.question]
    shapes, seconds = (QUICK_SHAPES, 0.2) if options.quick else (question.shapes, 3.0)
    measured = [
        compare.measure(question, cell_name, shape, seconds)
        for cell_name, shape in tqdm.tqdm(compare.rows(shapes), desc=options.question, unit="row")
    ]
    print(compare.table(question, measured))
    if options.json:
        summary = compare.summary(question, measured)
        result = {"machine": machine(), "summary": summary, "rows": measured}
        options.json.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
