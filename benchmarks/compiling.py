"""How long does compilation take, and does it grow with the length of the sequence?

Seconds to trace and to compile the value and gradient of a mean-square loss, under `scan` with a
plain step, and under `bptt` with the Cell and with the same plain step.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks.problems import CELLS, Problem, Shape, make_problem

TITLE = "Seconds to trace and compile value and gradient."
STEPS = (16, 256, 4096, 65536)
SIDES = ("scan", "bptt", "bptt, plain step")
TURNS = 3


def rows(quick: bool) -> list[tuple[str, int]]:
    """Returns the arguments of all rows."""
    return [(cell_name, steps) for cell_name in CELLS for steps in (STEPS[:2] if quick else STEPS)]


def measure(cell_name: str, steps: int) -> dict[str, Any]:
    """Returns the seconds of each side, measured in turns."""
    problem = make_problem(cell_name, Shape(steps, 4, 16, 32))
    samples: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(TURNS + 1):
        for side in SIDES:
            seconds = _seconds(problem, side)
            if turn:  # The first turn warms up.
                samples[side].append(seconds)
    return {
        "cell": cell_name,
        "T": steps,
        "seconds": {side: statistics.median(times) for side, times in samples.items()},
        "samples": {side: [round(s, 4) for s in times] for side, times in samples.items()},
    }


def _seconds(problem: Problem, side: str) -> float:
    loop, step = {
        "scan": (jaxrnn.scan, problem.step),
        "bptt": (jaxrnn.bptt, problem.cell),
        "bptt, plain step": (jaxrnn.bptt, problem.step),
    }[side]

    def loss(params: Any, carry: Any, xs: Any) -> Any:
        return jnp.mean(loop(step, params, carry, xs)[1] ** 2)

    jax.clear_caches()
    start = time.perf_counter()
    jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*problem.args).compile()
    return time.perf_counter() - start


def summary(measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns, for each side, its time relative to `scan`, and its growth with the sequence."""
    lengths = [row["T"] for row in measured]
    shortest, longest = min(lengths), max(lengths)

    def summary_of(side: str) -> dict[str, float]:
        shares = [row["seconds"][side] / row["seconds"]["scan"] for row in measured]
        first = [row["seconds"][side] for row in measured if row["T"] == shortest]
        last = [row["seconds"][side] for row in measured if row["T"] == longest]
        growth = [b / a for a, b in zip(first, last, strict=True)]
        return {
            "time_geometric_mean": statistics.geometric_mean(shares),
            "time_worst": max(shares),
            f"growth from T={shortest} to {longest}": max(growth),
        }

    return {side: summary_of(side) for side in SIDES}


def table(measured: list[dict[str, Any]]) -> str:
    """Returns a Markdown table."""
    lines = [f"{TITLE}\n", "| cell | T | " + " | ".join(SIDES) + " |", "|---" * 5 + "|"]
    for row in measured:
        seconds = " | ".join(f"{row['seconds'][side]:.2f}" for side in SIDES)
        lines.append(f"| {row['cell']} | {row['T']} | {seconds} |")
    for side, numbers in summary(measured).items():
        phrases = [f"{name.replace('_', ' ')} {value:.2f}" for name, value in numbers.items()]
        lines.append(f"\n{side}: {', '.join(phrases)}.")
    return "\n".join(lines)
