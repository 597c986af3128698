"""How much memory does a long sequence take, and how much time does checkpointing cost?

The value and gradient of a many-to-one loss, the mean square of the last output, for parameters,
first carry and inputs: under `bptt`; under `checkpointed` with √T segments, with two and four
levels, and with log₂ T states; with `jax.checkpoint` around segments of a scan, and with Equinox's
checkpointed scan, both over a plain step.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import jaxrnn
from benchmarks.compare import Question, everything
from benchmarks.peers import MISSING
from benchmarks.problems import Problem, Program, Shape, compiled


def _gradient(problem: Problem, run: Callable[..., Any]) -> Program:
    def loss(params: Any, carry: Any, xs: Any) -> Any:
        return jnp.mean(problem.cell.output(params, run(params, carry, xs)) ** 2)

    grad: Callable[..., Any] = jax.value_and_grad(loss, argnums=(0, 1, 2))
    return compiled(grad, *problem.args)


def gradient_under(problem: Problem, loop: jaxrnn.Loop) -> Program:
    """Returns the gradient of the Cell under a loop."""
    return _gradient(problem, lambda *args: loop(problem.cell, *args)[0])


def _nested(problem: Problem) -> Program:
    def run(params: Any, carry: Any, xs: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            return problem.step(params, carry, x)[0], None

        segment = jax.checkpoint(lambda carry, xs: lax.scan(step, carry, xs))
        return lax.scan(segment, carry, xs.reshape(-1, _near_root(len(xs)), *xs.shape[1:]))[0]

    return _gradient(problem, run)


def _near_root(steps: int) -> int:
    """Returns the smallest divisor of T that is at least √T."""
    return next(n for n in range(math.isqrt(steps), steps + 1) if steps % n == 0)


def _equinox(problem: Problem) -> Program:
    scan = importlib.import_module("equinox.internal").scan

    def run(params: Any, carry: Any, xs: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            return problem.step(params, carry, x)[0], None

        return scan(step, carry, xs, kind="checkpointed")[0]

    return _gradient(problem, run)


def _sides(problem: Problem) -> dict[str, Program]:
    sides = {
        "bptt": gradient_under(problem, jaxrnn.bptt),
        "checkpointed()": gradient_under(problem, jaxrnn.checkpointed()),
        "levels=2": gradient_under(problem, jaxrnn.checkpointed(levels=2)),
        "levels=4": gradient_under(problem, jaxrnn.checkpointed(levels=4)),
        "states=10": gradient_under(problem, jaxrnn.checkpointed(num_states=10)),
        "jax.checkpoint": _nested(problem),
    }
    return sides if "equinox" in MISSING else {**sides, "equinox": _equinox(problem)}


QUESTION = Question(
    "A many-to-one gradient of a long sequence.",
    _sides,
    everything,
    shapes=(Shape(1000, 16, 64, 128), Shape(1000, 4, 32, 64), Shape(4000, 4, 32, 64)),
)
