"""Sides of one question, measured in one process and set beside one of them, the baseline."""

import functools
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax

from benchmarks.clock import interleaved
from benchmarks.problems import CELLS, SHAPES, Problem, Shape, problem

Run = Callable[..., Any]


class Question(NamedTuple):
    """What is compared.

    Fields:
        sides: by name, `Problem -> (compiled program, its arguments)`; the first is the baseline.
        equal: whether all sides compute the same numbers.
        shapes: at which sizes.
    """

    sides: dict[str, Callable[[Problem], tuple[jax.stages.Compiled, tuple[Any, ...]]]]
    equal: bool
    shapes: tuple[Shape, ...] = SHAPES

    @property
    def baseline(self) -> str:
        """The side that the others are set beside."""
        return next(iter(self.sides))


def measure(question: Question, cell_name: str, shape: Shape, seconds: float) -> dict[str, Any]:
    """One row: milliseconds (median and all samples) and temporary bytes of each side."""
    posed = problem(cell_name, shape)
    programs = {name: compiled(posed) for name, compiled in question.sides.items()}
    if question.equal:  # Nobody is measured on another problem.
        values = {name: run(*args) for name, (run, args) in programs.items()}
        for value in values.values():
            chex.assert_trees_all_close(value, values[question.baseline], rtol=1e-3, atol=1e-6)
    samples = interleaved(
        {name: functools.partial(run, *args) for name, (run, args) in programs.items()}, seconds
    )
    return {
        "cell": cell_name,
        "shape": shape._asdict(),
        "milliseconds": {name: statistics.median(taken) for name, taken in samples.items()},
        "temporary_bytes": {
            name: run.memory_analysis().temp_size_in_bytes for name, (run, _) in programs.items()
        },
        "samples": {name: [round(ms, 3) for ms in taken] for name, taken in samples.items()},
    }


def rows(shapes: tuple[Shape, ...]) -> list[tuple[str, Shape]]:
    """What there is to measure."""
    return [(cell_name, shape) for cell_name in CELLS for shape in shapes]


def summary(question: Question, measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each other side: its share of the baseline's time and memory, in the mean and at worst."""

    def of(side: str) -> dict[str, float]:
        numbers = {}
        for what, key in (("time", "milliseconds"), ("memory", "temporary_bytes")):
            shares = [row[key][side] / row[key][question.baseline] for row in measured]
            numbers[f"{what}_geometric_mean"] = statistics.geometric_mean(shares)
            numbers[f"{what}_worst"] = max(shares)
        return numbers

    return {side: of(side) for side in question.sides if side != question.baseline}


def table(question: Question, measured: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds, temporary MiB and share of the baseline's time of each side."""
    lines = [
        "| cell | T, B, I, H | " + " | ".join(f"{side}: ms, MiB" for side in question.sides) + " |",
        "|---|---|" + "---|" * len(question.sides),
    ]
    for row in measured:
        times, sizes = row["milliseconds"], row["temporary_bytes"]
        cells = [
            f"{times[side]:.2f}, {sizes[side] / 2**20:.1f} "
            f"({times[side] / times[question.baseline]:.2f})"
            for side in question.sides
        ]
        shape = ", ".join(map(str, row["shape"].values()))
        lines.append(f"| {row['cell']} | {shape} | {' | '.join(cells)} |")
    for side, numbers in summary(question, measured).items():
        lines.append(
            f"\n{side}: {numbers['time_geometric_mean']:.2f} of the time of "
            f"'{question.baseline}' in the geometric mean, {numbers['time_worst']:.2f} at worst; "
            f"{numbers['memory_geometric_mean']:.2f} of its temporary memory in the geometric "
            f"mean, {numbers['memory_worst']:.2f} at worst."
        )
    return "\n".join(lines)
