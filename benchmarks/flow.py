"""What does it cost to measure the gradient flow, or to change it, in the backward pass?

The gradient of a Cell under `bptt`, as in the question `speed`: alone; with the norm of the adjoint
at every step, by `jaxrnn.diagnostics.gradient_flow`; with the adjoint clipped at every step.
"""

import functools
from typing import Any

import jax.numpy as jnp

import jaxrnn
from benchmarks.compare import Question
from benchmarks.problems import Problem, Program, compiled, gradient


def _sides(problem: Problem) -> dict[str, Program]:
    def under_bptt(step: jaxrnn.Step) -> Program:
        return gradient(problem, functools.partial(jaxrnn.bptt, step))

    def loss(args: Any, loop: jaxrnn.Loop) -> Any:
        return jnp.mean((loop(problem.cell, *args)[1] - problem.targets) ** 2)

    return {
        "alone": under_bptt(problem.cell),
        "flow": compiled(lambda *args: jaxrnn.diagnostics.gradient_flow(loss, args), *problem.args),
        "clipped": under_bptt(jaxrnn.transforms.clip_adjoint(problem.cell, 1e-3)),
    }


QUESTION = Question("Measuring the gradient flow, and changing it.", _sides, compared=None)
