"""How much time, and how much memory, does a gradient take under each loop?

`scan` is `jax.grad` of `lax.scan` around a plain step, the way people write it; `bptt` is the
backward pass written by hand, of the Cell; `bptt, plain step` is the derived one, of the same plain
step. Value and gradient of a mean-square loss for parameters, initial carry and inputs.
"""

import functools
import statistics
from typing import Any

import chex

import jaxrnn
from benchmarks.clock import interleaved
from benchmarks.problems import CELLS, Problem, Shape, gradient, problem

SIDES = {
    "scan": lambda posed: gradient(posed, jaxrnn.scan, posed.step),
    "bptt": lambda posed: gradient(posed, jaxrnn.bptt, posed.cell),
    "bptt, plain step": lambda posed: gradient(posed, jaxrnn.bptt, posed.step),
}


def measure(cell_name: str, shape: Shape, seconds: float) -> dict[str, Any]:
    """One row: milliseconds (median and all samples) and temporary bytes of each side."""
    posed: Problem = problem(cell_name, shape)
    programs = {name: compiled(posed) for name, compiled in SIDES.items()}
    _agree(programs, posed)
    samples = interleaved(
        {name: functools.partial(run, *posed.args) for name, run in programs.items()}, seconds
    )
    return {
        "cell": cell_name,
        "shape": shape._asdict(),
        "milliseconds": {name: statistics.median(taken) for name, taken in samples.items()},
        "temporary_bytes": {
            name: run.memory_analysis().temp_size_in_bytes for name, run in programs.items()
        },
        "samples": {name: [round(ms, 3) for ms in taken] for name, taken in samples.items()},
    }


def _agree(programs: dict[str, Any], posed: Problem) -> None:
    """All sides compute the same: nobody is measured on another problem."""
    values = {name: run(*posed.args) for name, run in programs.items()}
    for name in programs:
        chex.assert_trees_all_close(values[name], values["scan"], rtol=1e-3, atol=1e-6)


def rows(shapes: tuple[Shape, ...]) -> list[tuple[str, Shape]]:
    """What there is to measure."""
    return [(cell_name, shape) for cell_name in CELLS for shape in shapes]


def summary(measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each side but `scan`: how many times faster than `scan`, and its share of the memory."""

    def of(side: str) -> dict[str, float]:
        times, shares = (
            [row[what]["scan"] / row[what][side] for row in measured]
            for what in ("milliseconds", "temporary_bytes")
        )
        return {
            "speedup_geometric_mean": statistics.geometric_mean(times),
            "speedup_worst": min(times),
            "memory_geometric_mean": 1 / statistics.geometric_mean(shares),
            "memory_worst": 1 / min(shares),
        }

    return {side: of(side) for side in SIDES if side != "scan"}


def table(measured: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds and temporary MiB, the ratio to `scan` beside them."""
    lines = [
        "| cell | T, B, I, H | " + " | ".join(f"{side} ms, MiB" for side in SIDES) + " | speedup |",
        "|---|---|" + "---|" * (len(SIDES) + 1),
    ]
    for row in measured:
        times, sizes = row["milliseconds"], row["temporary_bytes"]
        cells = [f"{times[side]:.2f}, {sizes[side] / 2**20:.1f}" for side in SIDES]
        ratio = times["scan"] / times["bptt"]
        shape = ", ".join(map(str, row["shape"].values()))
        lines.append(f"| {row['cell']} | {shape} | {' | '.join(cells)} | {ratio:.2f} |")
    for side, numbers in summary(measured).items():
        lines.append(
            f"\n{side}: {numbers['speedup_geometric_mean']:.2f} times as fast as scan in the "
            f"geometric mean, {numbers['speedup_worst']:.2f} at worst; "
            f"{numbers['memory_geometric_mean']:.2f} of its temporary memory in the geometric "
            f"mean, {numbers['memory_worst']:.2f} at worst."
        )
    return "\n".join(lines)
