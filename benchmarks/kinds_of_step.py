"""What does `bptt` cost for a step that it does not know, beside `lax.scan` of the same step?

Value and gradient for parameters, carry and inputs of mean y², for every kind of step in
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
QUESTION = compare.Question("Kinds of step.", lambda posed: {}, None)


def rows(quick: bool) -> list[tuple[str, kinds.Sizes]]:
    """Every kind, small where it has to be quick."""
    return [(name, kinds.QUICK if quick else kinds.FULL) for name in kinds.kinds()]


def program(loop: jaxrnn.Loop, kind: kinds.Kind) -> Program:
    """The value and all gradients that there are."""

    def value(params: Any, carry: Any, xs: Any) -> jax.Array:
        _, ys = loop(kind.step, params, carry, xs)
        return jnp.mean(ys**2)

    def gradient(params: Any, carry: Any, xs: Any) -> Any:
        inexact, others = jaxrnn.tree.split_inexact((params, carry, xs))
        return jax.value_and_grad(lambda x: value(*jaxrnn.tree.merge(x, others)))(inexact)

    return compiled(gradient, kind.params, kind.carry, kind.xs)


def measure(name: str, sizes: kinds.Sizes, seconds: float = 1.0) -> dict[str, Any]:
    """One row: milliseconds and temporary bytes of both sides, which agree."""
    kind = kinds.kinds()[name](sizes)
    sides = {side: program(loop, kind) for side, loop in SIDES.items()}
    row = compare.measured(sides, compare.everything, seconds)
    return {"cell": "", "shape": {"step": name}, "sizes": sizes._asdict()} | row


def product(row: dict[str, Any]) -> float:
    """The share of scan's time, times the share of its memory where that is above 1."""
    keys = "milliseconds", "temporary_bytes"
    time, memory = (row[key]["bptt"] / row[key]["scan"] for key in keys)
    return time * max(1.0, memory)


def summary(measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Shares of time and memory, in the mean and at worst; their product, of every kind."""
    found = compare.summary(QUESTION, measured)
    return found | {"time times memory": {row["shape"]["step"]: product(row) for row in measured}}


table = functools.partial(compare.table, QUESTION)
