"""How long does it take to compile, and does that grow with the length of the sequence?

Seconds to trace and to compile value and gradient of a mean-square loss, under `scan` around a
plain step, and under `bptt` for the Cell and for the same plain step.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks.problems import CELLS, Problem, Shape, problem

ASKED = "Seconds to trace and compile value and gradient."
STEPS = (16, 256, 4096, 65536)
SIDES = ("scan", "bptt", "bptt, plain step")
TURNS = 3


def rows(quick: bool) -> list[tuple[str, int]]:
    """What there is to measure."""
    return [(cell_name, steps) for cell_name in CELLS for steps in (STEPS[:2] if quick else STEPS)]


def measure(cell_name: str, steps: int) -> dict[str, Any]:
    """Seconds of each side, in turns."""
    posed = problem(cell_name, Shape(steps, 4, 16, 32))
    samples: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(TURNS + 1):
        for side in SIDES:
            taken = _seconds(posed, side)
            if turn:  # The first warms up.
                samples[side].append(taken)
    return {
        "cell": cell_name,
        "T": steps,
        "seconds": {side: statistics.median(taken) for side, taken in samples.items()},
        "samples": {side: [round(s, 4) for s in taken] for side, taken in samples.items()},
    }


def _seconds(posed: Problem, side: str) -> float:
    loop, step = {
        "scan": (jaxrnn.scan, posed.step),
        "bptt": (jaxrnn.bptt, posed.cell),
        "bptt, plain step": (jaxrnn.bptt, posed.step),
    }[side]

    def loss(params: Any, carry: Any, xs: Any) -> Any:
        return jnp.mean(loop(step, params, carry, xs)[1] ** 2)

    jax.clear_caches()
    begun = time.perf_counter()
    jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*posed.args).compile()
    return time.perf_counter() - begun


def summary(measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each side: its share of the time of `scan`, and how that grows with the sequence."""
    shortest, longest = (pick(row["T"] for row in measured) for pick in (min, max))

    def of(side: str) -> dict[str, float]:
        shares = [row["seconds"][side] / row["seconds"]["scan"] for row in measured]
        at = {t: [r["seconds"][side] for r in measured if r["T"] == t] for t in (shortest, longest)}
        growth = [b / a for a, b in zip(at[shortest], at[longest], strict=True)]
        return {
            "time_geometric_mean": statistics.geometric_mean(shares),
            "time_worst": max(shares),
            f"growth from T={shortest} to {longest}": max(growth),
        }

    return {side: of(side) for side in SIDES}


def table(measured: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [f"{ASKED}\n", "| cell | T | " + " | ".join(SIDES) + " |", "|---" * 5 + "|"]
    for row in measured:
        told = " | ".join(f"{row['seconds'][side]:.2f}" for side in SIDES)
        lines.append(f"| {row['cell']} | {row['T']} | {told} |")
    for side, numbers in summary(measured).items():
        told = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in numbers.items())
        lines.append(f"\n{side}: {told}.")
    return "\n".join(lines)
