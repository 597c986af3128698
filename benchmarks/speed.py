"""How much time, and how much memory, does a gradient take under each loop?

`scan` is `jax.grad` of `lax.scan` around a plain step, the way people write it; `bptt` is the
backward pass written by hand, of the Cell; `bptt, plain step` is the derived one, of the same plain
step. Value and gradient of a mean-square loss for parameters, initial carry and inputs.
"""

from typing import Any

import jax

import jaxrnn
from benchmarks.compare import Question
from benchmarks.problems import Problem, gradient


def _side(posed: Problem, loop: jaxrnn.Loop, step: jaxrnn.Step) -> tuple[jax.stages.Compiled, Any]:
    def run(params: Any, carry: Any, xs: Any) -> Any:
        return loop(step, params, carry, xs)

    return gradient(posed, run), posed.args


QUESTION = Question(
    sides={
        "scan": lambda posed: _side(posed, jaxrnn.scan, posed.step),
        "bptt": lambda posed: _side(posed, jaxrnn.bptt, posed.cell),
        "bptt, plain step": lambda posed: _side(posed, jaxrnn.bptt, posed.step),
    },
    equal=True,
)
