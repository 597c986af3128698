"""What do a mask and resets cost?

The gradient of a Cell under `bptt`, as in the question `speed`: alone; with a mask that leaves out
a quarter of the steps at random; with that and resets at one step in twenty; with nothing but one
reset of all rows in mid-sequence. Patterns are arguments of the program, not constants in it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from benchmarks.compare import Question
from benchmarks.problems import Problem, Program, gradient


def _side(posed: Problem, **chances: float) -> Program:
    """With marks that are True with these chances; of a chance of 0 one at all rows half-way."""
    steps, *batch, _ = posed.args[2].shape
    draws = np.random.default_rng(0)
    marks = {name: draws.random((steps, *batch)) < chance for name, chance in chances.items()}
    for name, chance in chances.items():
        if chance == 0:
            marks[name][steps // 2] = True

    def run(params: Any, carry: Any, xs: Any, marks: Any) -> Any:
        return jaxrnn.unroll(posed.cell, params, xs, carry=carry, **marks)

    return gradient(posed, run, jax.tree.map(jnp.asarray, marks))


def _sides(posed: Problem) -> dict[str, Program]:
    return {
        "alone": _side(posed),
        "mask": _side(posed, mask=0.75),
        "mask and resets": _side(posed, mask=0.75, reset=0.05),
        "one reset": _side(posed, reset=0.0),
    }


QUESTION = Question("Masks and resets.", _sides, compared=None)
