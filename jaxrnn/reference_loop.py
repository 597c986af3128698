"""The loop that a certificate trusts: `lax.scan`, in windows if the gradient is truncated."""

import operator

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.loops.scan import scan
from jaxrnn.types import Carry, Loop, Params, PyTree, Step, StepResult, window_start_of

# The arguments of a loop but the step: params, carry and xs.
Arguments = tuple[Params, Carry, PyTree]


def reference_loop(loop: Loop, step: Step, args: Arguments) -> Loop:
    """Returns `scan`, or for a loop that truncates, `scan` window by window.

    Each window starts from the carry of the forward pass at `args`. That carry is a constant, so
    autodiff and finite differences of the reference both give the truncated gradient.
    """
    window_start = window_start_of(loop)
    params, carry, xs = args
    if window_start is None or check.num_steps(xs) == 0:
        return scan

    def carry_before_step(carry: Carry, x: PyTree) -> StepResult:
        new_carry, _ = step(params, carry, x)
        return new_carry, carry

    _, carries = jax.lax.scan(carry_before_step, carry, xs)
    starts = [window_start(t) for t in range(check.num_steps(xs))]

    def by_windows(step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        outputs = []
        for start in sorted(set(starts)):
            # The window ends at the last step whose gradient reaches back to `start`. Its outputs
            # are those of the steps that share this start. For example, with windows of up to four
            # steps that move by two, and T = 6,
            #
            #     starts          0 0 0 0 2 2
            #     first window    x x x x          all four outputs
            #     second window       x x x x      the last two outputs
            end = len(starts) - starts[::-1].index(start)
            # The first window starts from the argument, which has a gradient.
            first = jax.tree.map(operator.itemgetter(start), carries) if start > 0 else carry
            last, ys = scan(step, params, first, tree.slice_time(xs, start, end))
            outputs.append(tree.slice_time(ys, -starts.count(start), None))
        return last, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)

    return by_windows
