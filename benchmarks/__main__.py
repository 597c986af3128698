"""Run the measurements: `python -m benchmarks [QUESTION] [--quick] [--json FILE]`.

All for an accelerator are one command: `python -m benchmarks accelerator --minutes 8 --json FILE`.
What a GPU would launch is counted without one by `python -m benchmarks gpu`.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__" and sys.argv[1:2] == ["accelerator"]:
    # It sets what has to be set before JAX is imported, and starts a process that imports it.
    from benchmarks.accelerator.command import main as accelerator

    sys.exit(accelerator(sys.argv[2:]))
if __name__ == "__main__" and sys.argv[1:2] == ["gpu"]:
    # It sets what has to be set before JAX is first used.
    from benchmarks.gpu import main as gpu

    sys.exit(gpu(sys.argv[2:]))

import jax
import tqdm

# A CPU is one device a core, so that a batch can be split; said before JAX is first used.
jax.config.update("jax_num_cpu_devices", os.cpu_count())

from benchmarks import (  # noqa: E402
    charts,
    compare,
    compiling,
    flow,
    kinds_of_step,
    long,
    loops,
    marks,
    memory,
    peers,
    soak,
    speed,
    steps,
    tpu,
)
from benchmarks.problems import QUICK_SHAPES, Shape  # noqa: E402


class Part(NamedTuple):
    """One table.

    Fields:
        rows: what there is to measure, arguments of `measure`.
        measure: one row.
        summary, table: of all rows.
    """

    rows: list[tuple[Any, ...]]
    measure: Callable[..., dict[str, Any]]
    summary: Callable[[list[dict[str, Any]]], dict[str, Any]]
    table: Callable[[list[dict[str, Any]]], str]


def _compared(question: compare.Question, quick: bool, shapes: tuple[Shape, ...]) -> Part:
    shapes = shapes or (QUICK_SHAPES if quick else question.shapes)
    seconds = 0.2 if quick else question.seconds
    return Part(
        compare.rows(shapes),
        lambda *row: compare.measure(question, *row, seconds),
        functools.partial(compare.summary, question),
        functools.partial(compare.table, question),
    )


def _of_module(module: Any, quick: bool, shapes: tuple[Shape, ...]) -> Part:
    return Part(module.rows(quick), module.measure, module.summary, module.table)


QUESTIONS: dict[str, dict[str, Callable[..., Part]]] = {
    "speed": {
        "gradient": functools.partial(_compared, speed.GRADIENT),
        "forward": functools.partial(_compared, speed.FORWARD),
        "streamed": functools.partial(_compared, speed.STREAMED),
    },
    "steps": {
        "steps": functools.partial(_compared, steps.QUESTION),
        "kinds": functools.partial(_of_module, kinds_of_step),
    },
    "memory": {"memory": functools.partial(_compared, memory.QUESTION)},
    "loops": {"loops": functools.partial(_compared, loops.QUESTION)},
    "long": {"long": functools.partial(_of_module, long)},
    "compile": {"compile": functools.partial(_of_module, compiling)},
    "marks": {"marks": functools.partial(_compared, marks.QUESTION)},
    "flow": {"flow": functools.partial(_compared, flow.QUESTION)},
    "tpu": {"tpu": functools.partial(_of_module, tpu)},
}
ALL = {name: part for parts in QUESTIONS.values() for name, part in parts.items()}
QUESTIONS["soak"] = {"soak": functools.partial(_of_module, soak)}  # half an hour by itself


def machine() -> dict[str, Any]:
    """The device, the versions and the flags of this run."""
    packages = ("jax", "jaxlib", "numpy", "optax", "flax", "equinox", "dm-haiku", "torch", "libtpu")
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version for name in packages if (version := _version(name))},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "torch": peers.torch_settings(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Measure, print tables, and keep every sample, and a chart beside it, where `--json` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("question", nargs="?", choices=[*QUESTIONS, "all"], default="speed")
    parser.add_argument("--quick", action="store_true", help="small shapes, a short time")
    parser.add_argument(
        "--shape",
        dest="shapes",
        action="append",
        nargs=4,
        type=int,
        metavar=("T", "B", "I", "H"),
        help="measure this one, and no other that is not named so",
    )
    parser.add_argument("--json", type=Path, help="keep device, versions and all samples here")
    options = parser.parse_args()
    told = machine()
    print(told, f"not installed, left out: {', '.join(peers.MISSING) or 'nobody'}", sep="\n")
    result: dict[str, Any] = {"machine": told}
    for name, make in (ALL if options.question == "all" else QUESTIONS[options.question]).items():
        part = make(options.quick, tuple(Shape(*shape) for shape in options.shapes or ()))
        rows = [part.measure(*row) for row in tqdm.tqdm(part.rows, desc=name, unit="row")]
        print(f"\n## {name}\n\n{part.table(rows)}")
        result[name] = {"summary": part.summary(rows), "rows": rows}
        if options.json:
            options.json.write_text(json.dumps(result) + "\n")
            charts.draw(name, rows, options.json.with_suffix(""))


if __name__ == "__main__":
    main()
