"""What does it cost to see the gradient flow, or to change it, while it is computed?

The gradient of a Cell under `bptt`, as in the question `speed`: alone; with the norm of the adjoint
at every step, `jaxrnn.flow`; with the adjoint clipped at every step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks.compare import Question
from benchmarks.problems import Problem, gradient


def _side(posed: Problem, step: jaxrnn.Step) -> tuple[jax.stages.Compiled, Any]:
    def run(params: Any, carry: Any, xs: Any) -> Any:
        return jaxrnn.bptt(step, params, carry, xs)

    return gradient(posed, run), posed.args


def _flow(posed: Problem) -> tuple[jax.stages.Compiled, Any]:
    def loss(args: Any, loop: jaxrnn.Loop) -> Any:
        return jnp.mean((loop(posed.cell, *args)[1] - posed.targets) ** 2)

    run: Callable[..., Any] = jax.jit(lambda *args: jaxrnn.flow(loss, args))
    return run.lower(*posed.args).compile(), posed.args


QUESTION = Question(
    sides={
        "alone": lambda posed: _side(posed, posed.cell),
        "flow": _flow,
        "clipped": lambda posed: _side(posed, jaxrnn.clipped(posed.cell, 1e-3)),
    },
    equal=False,
)
