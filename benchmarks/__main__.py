"""Runs the measurements: `python -m benchmarks [QUESTION] [--quick] [--json FILE]`.

On an accelerator: `python -m benchmarks accelerator --minutes 8 --json FILE`.
Launches of a GPU, counted without one: `python -m benchmarks gpu`.
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
    # This command sets environment variables before a process of its own imports JAX.
    from benchmarks.accelerator.command import main as accelerator

    sys.exit(accelerator(sys.argv[2:]))
if __name__ == "__main__" and sys.argv[1:2] == ["gpu"]:
    # It sets what has to be set before JAX is first used.
    from benchmarks.gpu import main as gpu

    sys.exit(gpu(sys.argv[2:]))

import jax
import tqdm

# One device for each core, so that a batch can be split. This has to be set before JAX is used.
jax.config.update("jax_num_cpu_devices", os.cpu_count())

from benchmarks import (  # noqa: E402
    charts,
    compare,
    compiling,
    flow,
    kinds_of_step,
    linear,
    long,
    loops,
    marks,
    memory,
    online,
    peers,
    soak,
    speed,
    steps,
    tpu,
    tpu_kernels,
)
from benchmarks.problems import QUICK_SHAPES, Shape  # noqa: E402


class Part(NamedTuple):
    """The measurements of one table.

    Fields:
        rows: the arguments of `measure`, for each row.
        measure: measures one row.
        summary: from all rows to their summary.
        table: from all rows to a table in Markdown.
    """

    rows: list[tuple[Any, ...]]
    measure: Callable[..., dict[str, Any]]
    summary: Callable[[list[dict[str, Any]]], dict[str, Any]]
    table: Callable[[list[dict[str, Any]]], str]


def _part_of_question(question: compare.Question, quick: bool, shapes: tuple[Shape, ...]) -> Part:
    shapes = shapes or (QUICK_SHAPES if quick else question.shapes)
    seconds = 0.2 if quick else question.seconds
    return Part(
        compare.rows(shapes),
        lambda *row: compare.measure(question, *row, seconds),
        functools.partial(compare.summary, question),
        functools.partial(compare.table, question),
    )


def _part_of_module(module: Any, quick: bool, shapes: tuple[Shape, ...]) -> Part:
    return Part(module.rows(quick), module.measure, module.summary, module.table)


QUESTIONS: dict[str, dict[str, Callable[..., Part]]] = {
    "speed": {
        "gradient": functools.partial(_part_of_question, speed.GRADIENT),
        "forward": functools.partial(_part_of_question, speed.FORWARD),
        "streamed": functools.partial(_part_of_question, speed.STREAMED),
    },
    "steps": {
        "steps": functools.partial(_part_of_question, steps.QUESTION),
        "kinds": functools.partial(_part_of_module, kinds_of_step),
    },
    "memory": {"memory": functools.partial(_part_of_question, memory.QUESTION)},
    "loops": {"loops": functools.partial(_part_of_question, loops.QUESTION)},
    "long": {"long": functools.partial(_part_of_module, long)},
    "linear": {"linear": functools.partial(_part_of_module, linear)},
    "online": {
        f"online_{kind}": functools.partial(_part_of_module, online.Kind(kind))
        for kind in online.LEARNERS
    },
    "compile": {"compile": functools.partial(_part_of_module, compiling)},
    "marks": {"marks": functools.partial(_part_of_question, marks.QUESTION)},
    "flow": {"flow": functools.partial(_part_of_question, flow.QUESTION)},
    "tpu": {
        "tpu": functools.partial(_part_of_module, tpu),
        "tpu_kernels": functools.partial(_part_of_module, tpu_kernels),
    },
}
ALL = {name: part for parts in QUESTIONS.values() for name, part in parts.items()}
QUESTIONS["soak"] = {
    "soak": functools.partial(_part_of_module, soak)
}  # takes half an hour, so `all` leaves it out


def machine() -> dict[str, Any]:
    """Returns the device, the versions and the flags of this run."""
    packages = (
        *("jax", "jaxlib", "numpy", "optax", "flax", "equinox", "dm-haiku", "torch", "libtpu"),
        "braintrace",
    )
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
    """Measures and prints tables; with `--json`, writes all samples and charts."""
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
        help="a shape to measure, instead of the default ones; may be repeated",
    )
    parser.add_argument("--json", type=Path, help="file for the device, versions and all samples")
    options = parser.parse_args()
    info = machine()
    print(info)
    print(f"not installed, left out: {', '.join(peers.MISSING) or 'none'}")
    result: dict[str, Any] = {"machine": info}
    shapes = tuple(Shape(*shape) for shape in options.shapes or ())
    parts = ALL if options.question == "all" else QUESTIONS[options.question]
    for name, make_part in parts.items():
        part = make_part(options.quick, shapes)
        rows = [part.measure(*row) for row in tqdm.tqdm(part.rows, desc=name, unit="row")]
        print(f"\n## {name}\n\n{part.table(rows)}")
        result[name] = {"summary": part.summary(rows), "rows": rows}
        if options.json:
            options.json.write_text(json.dumps(result) + "\n")
            charts.draw(name, rows, options.json.with_suffix(""))


if __name__ == "__main__":
    main()
