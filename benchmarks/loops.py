"""What does each loop cost in time and memory?

The value and gradient of a many-to-one loss, as in the question `memory`, under every kind of loop.
All loops give the same value; their gradients differ in meaning.
"""

import jax

import jaxrnn
from benchmarks.compare import Question
from benchmarks.memory import gradient_under
from benchmarks.problems import Problem, Program, Shape

LOOPS: dict[str, jaxrnn.Loop] = {
    "bptt": jaxrnn.bptt,
    "scan": jaxrnn.scan,
    "checkpointed()": jaxrnn.checkpointed(),
    "checkpointed(levels=2)": jaxrnn.checkpointed(levels=2),
    "checkpointed(num_states=10)": jaxrnn.checkpointed(num_states=10),
    "truncated(50)": jaxrnn.truncated(50),
    "truncated(50, 100)": jaxrnn.truncated(50, 100),
    "randomized(key, 0.98)": jaxrnn.randomized(jax.random.key(0), 0.98),
}


def _sides(problem: Problem) -> dict[str, Program]:
    return {name: gradient_under(problem, loop) for name, loop in LOOPS.items()}


QUESTION = Question(
    "A many-to-one gradient under every loop.",
    _sides,
    lambda result: result[0],
    shapes=(Shape(1000, 16, 64, 128),),
)
