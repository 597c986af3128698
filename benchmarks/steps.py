"""How fast is `bptt` for a step that is not a Cell?

A plain step, and cells of Flax, Equinox and Haiku as steps. Each runs under `scan`, which is
`jax.grad` of `lax.scan`, and under `bptt`, which derives the backward recurrence and the deferred
products from the jaxpr of the step. The value and gradient are those of the question `speed`.
"""

import functools

import jaxrnn
from benchmarks import peers
from benchmarks.compare import Question
from benchmarks.problems import Problem, Program, gradient


def _sides(problem: Problem) -> dict[str, Program]:
    steps = {"plain": (problem, problem.step)}
    for name, peer in peers.peers(problem).items():
        steps[name] = problem._replace(args=(peer.params, *problem.args[1:])), peer.step
    loops = {"scan": jaxrnn.scan, "bptt": jaxrnn.bptt}
    return {
        f"{loop_name}, {name}": gradient(step_problem, functools.partial(loop, step))
        for name, (step_problem, step) in steps.items()
        for loop_name, loop in loops.items()
    }


def _compared(result):
    return result[0], result[1][-1]


QUESTION = Question(
    "A step of any origin: value and gradient under scan and under bptt.",
    _sides,
    _compared,
    pairs=tuple(
        (f"bptt, {name}", f"scan, {name}") for name in ("plain", "flax", "equinox", "haiku")
    ),
)
