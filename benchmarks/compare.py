"""Sides of one question, measured in one process and set beside one of them, the baseline."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from benchmarks.clock import interleaved
from benchmarks.problems import CELLS, SHAPES, Problem, Program, Shape, problem


class Question(NamedTuple):
    """What is compared.

    Fields:
        asked: the question in a few words.
        sides: all by name, made for a problem; a side that is not there for it is left out. The
            first is the baseline, and always there.
        compared: what of a result has to be the same numbers for all sides, by a function of it;
            None if they compute different things.
        shapes: at which sizes.
        also: what else stands in a row, in milliseconds by name, told from the problem and from the
            times of all sides.
        pairs: which side is set beside which in the summary; each beside the baseline if none.
        seconds: how long each side is timed at each shape.
    """

    asked: str
    sides: Callable[[Problem], dict[str, Program]]
    compared: Callable[[Any], Any] | None
    shapes: tuple[Shape, ...] = SHAPES
    also: Callable[[Problem, dict[str, float]], dict[str, float]] = lambda posed, times: {}
    pairs: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.3


def everything(result: Any) -> Any:
    """All that a side computes is compared."""
    return result


def measure(question: Question, cell_name: str, shape: Shape, seconds: float) -> dict[str, Any]:
    """One row: milliseconds (median and all samples) and temporary bytes of each side."""
    posed = problem(cell_name, shape)
    row = measured(question.sides(posed), question.compared, seconds)
    times = row["milliseconds"]
    also = {"milliseconds": times | question.also(posed, times)}
    return {"cell": cell_name, "shape": shape._asdict()} | row | also


def measured(
    sides: dict[str, Program], compared: Callable[[Any], Any] | None, seconds: float
) -> dict[str, Any]:
    """Milliseconds, median and all samples, and temporary bytes of each side."""
    if compared:  # Nobody is measured on another problem.
        first, *others = [_numbers(compared(side.run())) for side in sides.values()]
        for other in others:
            jax.tree.map(_assert_near, other, first)
    samples = interleaved({name: side.run for name, side in sides.items()}, seconds)
    return {
        "milliseconds": {name: statistics.median(taken) for name, taken in samples.items()},
        "temporary_bytes": {
            name: side.temporary_bytes
            for name, side in sides.items()
            if side.temporary_bytes is not None
        },
        "samples": {name: [round(ms, 3) for ms in taken] for name, taken in samples.items()},
    }


def _assert_near(a: np.ndarray, b: np.ndarray) -> None:
    chex.assert_equal_shape([a, b])
    chex.assert_scalar_in(float(np.linalg.norm(a - b)), 0, 1e-4 * float(np.linalg.norm(b)))


def _numbers(result: Any) -> list[Any]:
    """Leaves as numpy arrays, without the axes of size 1 in which libraries differ."""
    return [np.squeeze(np.asarray(leaf)) for leaf in jax.tree.leaves(result)]


def rows(shapes: tuple[Shape, ...]) -> list[tuple[str, Shape]]:
    """What there is to measure."""
    return [(cell_name, shape) for cell_name in CELLS for shape in shapes]


def names(measured: Iterable[dict[str, Any]], key: str = "milliseconds") -> list[str]:
    """All sides, the baseline first."""
    return list(dict.fromkeys(name for row in measured for name in row[key]))


def shares(
    measured: list[dict[str, Any]], side: str, of: str, key: str = "milliseconds"
) -> list[float]:
    """Of each row where both are there, one side's number divided by another's."""
    both = [row[key] for row in measured if side in row[key] and row[key].get(of)]
    return [row[side] / row[of] for row in both]


def summary(question: Question, measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each pair: one side's share of the other's time and memory, in the mean and at worst."""
    baseline, *others = names(measured)
    found = {}
    for side, of in question.pairs or [(side, baseline) for side in others]:
        numbers = {}
        for what, key in (("time", "milliseconds"), ("memory", "temporary_bytes")):
            if some := shares(measured, side, of, key):
                numbers[f"{what}_geometric_mean"] = statistics.geometric_mean(some)
                numbers[f"{what}_worst"] = max(some)
        found[f"{side} / {of}"] = numbers
    return found


def table(question: Question, measured: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds, temporary MiB and share of the baseline's time of each side."""
    sides = names(measured)
    sizes = ", ".join(measured[0]["shape"])
    lines = [
        f"{question.asked}\n",
        f"| cell | {sizes} | " + " | ".join(f"{name}: ms, MiB" for name in sides) + " |",
        "|---|---|" + "---|" * len(sides),
    ]
    for row in measured:
        shape = ", ".join(map(str, row["shape"].values()))
        told = [_told(row, name, sides[0]) for name in sides]
        lines.append(f"| {row['cell']} | {shape} | {' | '.join(told)} |")
    for pair, numbers in summary(question, measured).items():
        said = [
            f"{what} {numbers[f'{what}_geometric_mean']:.2f} in the geometric mean, "
            f"{numbers[f'{what}_worst']:.2f} at worst"
            for what in ("time", "memory")
            if f"{what}_worst" in numbers
        ]
        lines.append(f"\n{pair}: {'; '.join(said)}.")
    return "\n".join(lines)


def _told(row: dict[str, Any], name: str, baseline: str) -> str:
    times, sizes = row["milliseconds"], row["temporary_bytes"]
    if name not in times:
        return "–"
    size = f", {sizes[name] / 2**20:.1f}" if name in sizes else ""
    return f"{times[name]:.2f}{size} ({times[name] / times[baseline]:.2f})"
