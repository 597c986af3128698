"""What does `bptt` make of a step that it does not know?

A plain step, and cells of Flax, Equinox and Haiku as steps, each under `scan`, which is `jax.grad`
of `lax.scan`, and under `bptt`, which derives the backward recurrence and the deferred products
from the step's jaxpr. Value and gradient as in the question `speed`.
"""

import functools

import jaxrnn
from benchmarks import peers
from benchmarks.compare import Question
from benchmarks.problems import Problem, Program, gradient


def _sides(posed: Problem) -> dict[str, Program]:
    steps = {"plain": (posed, posed.step)}
    for name, peer in peers.peers(posed).items():
        steps[name] = posed._replace(args=(peer.params, *posed.args[1:])), peer.step
    loops = {"scan": jaxrnn.scan, "bptt": jaxrnn.bptt}
    return {
        f"{loop_name}, {name}": gradient(its, functools.partial(loop, step))
        for name, (its, step) in steps.items()
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
