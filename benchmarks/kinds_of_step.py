"""What does `bptt` cost for a step that is not a Cell, compared with `lax.scan` of the same step?

The value and gradient of mean y² for parameters, carry and inputs, for every kind of step in
`benchmarks.kinds`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks import compare, kinds
from benchmarks.problems import Program, compiled

SIDES: dict[str, jaxrnn.Loop] = {"scan": jaxrnn.scan, "bptt": jaxrnn.bptt}
QUESTION = compare.Question("Kinds of step.", lambda problem: {}, None)


def rows(quick: bool) -> list[tuple[str, kinds.Sizes]]:
    """Returns the arguments of all rows: every kind, with its sizes."""
    return [(name, kinds.QUICK if quick else kinds.FULL) for name in kinds.kinds()]


def program(loop: jaxrnn.Loop, kind: kinds.Kind) -> Program:
    """Returns the program of the value and of the gradient for all floating-point arrays."""

    def value(params: Any, carry: Any, xs: Any) -> jax.Array:
        _, ys = loop(kind.step, params, carry, xs)
        return jnp.mean(ys**2)

    def gradient(params: Any, carry: Any, xs: Any) -> Any:
        inexact, others = jaxrnn.tree.split_inexact((params, carry, xs))
        return jax.value_and_grad(lambda x: value(*jaxrnn.tree.merge_inexact(x, others)))(inexact)

    return compiled(gradient, kind.params, kind.carry, kind.xs)


def measure(name: str, sizes: kinds.Sizes, seconds: float = 1.0) -> dict[str, Any]:
    """Returns one row: milliseconds and temporary bytes of both sides, which agree."""
    kind = kinds.kinds()[name](sizes)
    sides = {side: program(loop, kind) for side, loop in SIDES.items()}
    row = compare.measure_sides(sides, compare.everything, seconds)
    return {"cell": "", "shape": {"step": name}, "sizes": sizes._asdict()} | row


def product(row: dict[str, Any]) -> float:
    """Returns the ratio of times, multiplied by the ratio of memory where that is above 1."""

    def ratio(key: str) -> float:
        return row[key]["bptt"] / row[key]["scan"]

    time, memory = ratio("milliseconds"), ratio("temporary_bytes")
    return time * max(1.0, memory)


def summary(measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns ratios of time and memory, their means and the worst; their product for each kind."""
    ratios = compare.summary(QUESTION, measured)
    return ratios | {"time times memory": {row["shape"]["step"]: product(row) for row in measured}}


table = functools.partial(compare.table, QUESTION)
