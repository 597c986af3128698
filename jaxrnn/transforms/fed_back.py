"""One-to-many: a step whose input is made of its own last output."""

from collections.abc import Callable
from typing import NamedTuple

from jaxrnn import check
from jaxrnn.types import Carry, Params, PyTree, Step


class Fed(NamedTuple):
    """What a step that feeds itself gives out.

    Fields:
        y: the output y_t.
        x: the input x_{t+1} that was made of it, such as the token that was drawn.
    """

    y: PyTree
    x: PyTree


def fed_back(step: Step, feedback: Callable[[PyTree, PyTree], PyTree]) -> Step:
    """The step whose input is made of its own last output: one-to-many, generation.

        c_t, y_t = step(params, c_{t-1}, x_t),    x_{t+1} = feedback(y_t, s_t)               (F1)

    A whole sequence is `unroll(fed_back(step, feedback), params, keys, (carry, x))`; to stream,
    call the step in a Python loop.

    Args:
        step: a Cell or any Step.
        feedback: `(y, s) -> x`, with x of the form of the first x. s_t is the input of the step
            that this returns: a key of its own for each step where x is drawn, or a counter.

    Returns:
        A Step with the carry `(carry, x_t)`, the input s_t and the output `Fed(y_t, x_{t+1})`.

    Gradient: what the loop makes of it, through x as well, unless x is drawn from integers.
    """
    check.function("step", step)
    check.function("feedback", feedback, takes=2)

    def self_feeding(params: Params, carry: Carry, s: PyTree) -> tuple[tuple[Carry, PyTree], Fed]:
        pair = isinstance(carry, tuple) and len(carry) == 2
        check.kind(pair, "carry", carry, "(carry, x), with the first input")
        inner, x = carry
        inner, y = step(params, inner, x)
        x = feedback(y, s)
        return (inner, x), Fed(y, x)  # (F1)

    return self_feeding
