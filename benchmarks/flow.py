"""What does it cost to see the gradient flow, or to change it, while it is computed?

The gradient of a Cell under `bptt`, as in the question `speed`: alone; with the norm of the adjoint
at every step, `jaxrnn.diagnostics.gradient_flow`; with the adjoint clipped at every step.
"""

import functools
from typing import Any

import jax.numpy as jnp

import jaxrnn
from benchmarks.compare import Question
from benchmarks.problems import Problem, Program, compiled, gradient


def _sides(posed: Problem) -> dict[str, Program]:
    def under_bptt(step: jaxrnn.Step) -> Program:
        return gradient(posed, functools.partial(jaxrnn.bptt, step))

    def loss(args: Any, loop: jaxrnn.Loop) -> Any:
        return jnp.mean((loop(posed.cell, *args)[1] - posed.targets) ** 2)

    return {
        "alone": under_bptt(posed.cell),
        "flow": compiled(lambda *args: jaxrnn.diagnostics.gradient_flow(loss, args), *posed.args),
        "clipped": under_bptt(jaxrnn.transforms.clip_adjoint(posed.cell, 1e-3)),
    }


QUESTION = Question("Seeing the gradient flow, and changing it.", _sides, compared=None)
