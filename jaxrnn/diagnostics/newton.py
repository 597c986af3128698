"""How many iterations Newton's method takes, and which steps run in order after them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.loops.parallel import parallel
from jaxrnn.loops.parallel.solve import Effort
from jaxrnn.types import Carry, Loop, Params, PyTree, Step

DEFAULT = parallel()


class NewtonEffort(NamedTuple):
    """The work for one part of the carry, in each chunk of the sequence.

    Fields:
        iterations: `(chunks)`, the number of iterations.
        steps_in_order: `(chunks)`, the number of steps that ran in order after them.
        residual: `(chunks)`, the largest |f_t(c_{t-1}) - c_t| / max |c| before these ran.
    """

    iterations: jax.Array
    steps_in_order: jax.Array
    residual: jax.Array

    def __str__(self) -> str:
        """One line for each chunk."""
        lines = [
            f"chunk {chunk}: {iterations} iterations, then {steps} steps in order; "
            f"residual {residual:.1e}"
            for chunk, (iterations, steps, residual) in enumerate(zip(*self, strict=True))
        ]
        return "\n".join(lines)


def newton_effort(
    step: Step, params: Params, carry: Carry, xs: PyTree, *, loop: Loop = DEFAULT
) -> list[NewtonEffort]:
    """Runs `parallel` forward, and returns the work for each part of the carry that is not linear.

    It is the empty list for a step that is linear in its carry. If many steps run in order, another
    `jacobian`, some `damping`, a shorter `chunk` or `jaxrnn.bptt` is the better choice.

    Args:
        step: a Cell or a plain Step.
        params: its parameters.
        carry: the state before the first step.
        xs: the inputs, `(T, ...)`, at least one step.
        loop: the `parallel` loop.

    Raises:
        TypeError, ValueError: if an argument does not fit.
    """
    newton: parallel = check.require_instance("loop", loop, parallel)
    params, carry = tree.checked_arguments(step, params, carry, xs)
    steps = check.num_steps(xs)
    check.require(steps, "xs", "no steps", "at least one")
    size = newton.chunk or steps
    run = jax.jit(lambda params, carry, xs: newton.run_with_effort(step, params, carry, xs))
    of_chunks: list[list[Effort]] = []
    for begin in range(0, steps, size):
        carry, efforts = run(params, carry, tree.slice_time(xs, begin, begin + size))
        of_chunks.append(efforts)
    found: list[NewtonEffort] = []
    for of_part in zip(*of_chunks, strict=True):  # the efforts of one part in all chunks
        stacked = jax.tree.map(lambda *fields: jnp.stack(fields), *of_part)
        found.append(NewtonEffort(*stacked))
    return found
