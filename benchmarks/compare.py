"""Compares the sides of a question, measured in one process, with one of them, the baseline."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from benchmarks.clock import interleaved
from benchmarks.problems import CELLS, SHAPES, Problem, Program, Shape, make_problem


class Question(NamedTuple):
    """A comparison.

    Fields:
        title: the question in a few words.
        sides: from a problem to the programs of all sides by name. The first is the baseline and
            always exists; a side that does not exist for the problem is left out.
        compared: from a result to the numbers that have to be the same for all sides; None if the
            sides compute different things.
        shapes: the sizes to measure.
        also: from the problem and the times of all sides to other numbers of the row, in
            milliseconds by name.
        pairs: the pairs of sides in the summary. Defaults to each side with the baseline.
        seconds: how long each side is timed at each shape.
    """

    title: str
    sides: Callable[[Problem], dict[str, Program]]
    compared: Callable[[Any], Any] | None
    shapes: tuple[Shape, ...] = SHAPES
    also: Callable[[Problem, dict[str, float]], dict[str, float]] = lambda problem, times: {}
    pairs: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.3


def everything(result: Any) -> Any:
    """Returns the result itself: everything that a side computes is compared."""
    return result


def measure(question: Question, cell_name: str, shape: Shape, seconds: float) -> dict[str, Any]:
    """Returns one row: milliseconds (median and all samples) and temporary bytes of each side."""
    problem = make_problem(cell_name, shape)
    row = measure_sides(question.sides(problem), question.compared, seconds)
    times = row["milliseconds"]
    also = {"milliseconds": times | question.also(problem, times)}
    return {"cell": cell_name, "shape": shape._asdict()} | row | also


def measure_sides(
    sides: dict[str, Program], compared: Callable[[Any], Any] | None, seconds: float
) -> dict[str, Any]:
    """Returns milliseconds, median and all samples, and temporary bytes of each side.

    Raises unless all sides compute the same numbers.
    """
    if compared:
        first, *others = [_numbers(compared(side.run())) for side in sides.values()]
        for other in others:
            jax.tree.map(_assert_near, other, first)
    samples = interleaved({name: side.run for name, side in sides.items()}, seconds)
    return {
        "milliseconds": {name: statistics.median(times) for name, times in samples.items()},
        "temporary_bytes": {
            name: side.temporary_bytes
            for name, side in sides.items()
            if side.temporary_bytes is not None
        },
        "samples": {name: [round(ms, 3) for ms in times] for name, times in samples.items()},
    }


def _assert_near(a: np.ndarray, b: np.ndarray) -> None:
    chex.assert_equal_shape([a, b])
    chex.assert_scalar_in(float(np.linalg.norm(a - b)), 0, 1e-4 * float(np.linalg.norm(b)))


def _numbers(result: Any) -> list[Any]:
    """Returns the leaves as NumPy arrays, without the axes of size 1 in which libraries differ."""
    return [np.squeeze(np.asarray(leaf)) for leaf in jax.tree.leaves(result)]


def rows(shapes: tuple[Shape, ...]) -> list[tuple[str, Shape]]:
    """Returns the arguments of all rows."""
    return [(cell_name, shape) for cell_name in CELLS for shape in shapes]


def names(measured: Iterable[dict[str, Any]], key: str = "milliseconds") -> list[str]:
    """Returns the names of all sides, the baseline first."""
    return list(dict.fromkeys(name for row in measured for name in row[key]))


def shares(
    measured: list[dict[str, Any]], side: str, of: str, key: str = "milliseconds"
) -> list[float]:
    """Returns one side's number divided by another's, for each row that has both."""
    both = [row[key] for row in measured if side in row[key] and row[key].get(of)]
    return [row[side] / row[of] for row in both]


def summary(question: Question, measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns, for each pair, ratios of time and memory: their geometric mean and the worst."""
    baseline, *others = names(measured)
    ratios = {}
    for side, of in question.pairs or [(side, baseline) for side in others]:
        numbers = {}
        for what, key in (("time", "milliseconds"), ("memory", "temporary_bytes")):
            values = shares(measured, side, of, key)
            if values:
                numbers[f"{what}_geometric_mean"] = statistics.geometric_mean(values)
                numbers[f"{what}_worst"] = max(values)
        ratios[f"{side} / {of}"] = numbers
    return ratios


def table(question: Question, measured: list[dict[str, Any]]) -> str:
    """Returns a Markdown table: milliseconds, temporary MiB and share of the baseline's time."""
    sides = names(measured)
    sizes = ", ".join(measured[0]["shape"])
    lines = [
        f"{question.title}\n",
        f"| cell | {sizes} | " + " | ".join(f"{name}: ms, MiB" for name in sides) + " |",
        "|---|---|" + "---|" * len(sides),
    ]
    for row in measured:
        shape = ", ".join(map(str, row["shape"].values()))
        cells = [_cell(row, name, sides[0]) for name in sides]
        lines.append(f"| {row['cell']} | {shape} | {' | '.join(cells)} |")
    for pair, numbers in summary(question, measured).items():
        phrases = [
            f"{what} {numbers[f'{what}_geometric_mean']:.2f} in the geometric mean, "
            f"{numbers[f'{what}_worst']:.2f} at worst"
            for what in ("time", "memory")
            if f"{what}_worst" in numbers
        ]
        lines.append(f"\n{pair}: {'; '.join(phrases)}.")
    return "\n".join(lines)


def _cell(row: dict[str, Any], name: str, baseline: str) -> str:
    times, sizes = row["milliseconds"], row["temporary_bytes"]
    if name not in times:
        return "–"
    size = f", {sizes[name] / 2**20:.1f}" if name in sizes else ""
    return f"{times[name]:.2f}{size} ({times[name] / times[baseline]:.2f})"
