"""What do a mask and resets cost?

The gradient of a Cell under `bptt`, as in the question `speed`: alone; with a mask that leaves out
a random quarter of the steps; with this mask and resets at one step in twenty; with a single reset
of all rows at the middle step. Masks and resets are arguments of the program, not constants.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from benchmarks.compare import Question
from benchmarks.problems import Problem, Program, gradient


def _side(problem: Problem, **chances: float) -> Program:
    """Returns the gradient with a mask or resets.

    Args:
        problem: the problem.
        **chances: the chance of True for the arguments `mask` and `reset` of `unroll`. A chance of
            0 stands for True at the middle step of all rows.
    """
    steps, *batch, _ = problem.args[2].shape
    draws = np.random.default_rng(0)
    arrays = {name: draws.random((steps, *batch)) < chance for name, chance in chances.items()}
    for name, chance in chances.items():
        if chance == 0:
            arrays[name][steps // 2] = True

    def run(params: Any, carry: Any, xs: Any, arrays: Any) -> Any:
        return jaxrnn.unroll(problem.cell, params, xs, carry=carry, **arrays)

    return gradient(problem, run, jax.tree.map(jnp.asarray, arrays))


def _sides(problem: Problem) -> dict[str, Program]:
    return {
        "alone": _side(problem),
        "mask": _side(problem, mask=0.75),
        "mask and resets": _side(problem, mask=0.75, reset=0.05),
        "one reset": _side(problem, reset=0.0),
    }


QUESTION = Question("Masks and resets.", _sides, compared=None)
