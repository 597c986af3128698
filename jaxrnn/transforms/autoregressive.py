"""One-to-many: a step whose input is made of its own last output."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from jaxrnn import check
from jaxrnn.expression import Expression
from jaxrnn.types import Carry, Params, PyTree, Step


class Generated(NamedTuple):
    """The output of an autoregressive step.

    Fields:
        y: the output y_t.
        next_x: the input x_{t+1} that was made of it, such as the token that was drawn.
    """

    y: PyTree
    next_x: PyTree


@dataclasses.dataclass(frozen=True, repr=False)
class autoregressive(Expression):
    """The step whose input is made of its own last output: one-to-many, generation.

        c_t, y_t = step(params, c_{t-1}, x_t),    x_{t+1} = feedback(y_t, s_t)               (F1)

    A whole sequence is `unroll(autoregressive(step, feedback), params, keys, (carry, x))`; to stream,
    call the step in a Python loop.

    Args:
        step: a Cell or any Step.
        feedback: `(y, s) -> x`, with x of the form of the first x. s_t is the input of the step
            that this returns: a key of its own for each step where x is drawn, or a counter.

    Returns:
        A Step with the carry `(carry, x_t)`, the input s_t and the output `Generated(y_t, x_{t+1})`.

    Gradient: what the loop makes of it, through x as well, unless x is drawn from integers.
    """

    step: Step
    feedback: Callable[[PyTree, PyTree], PyTree]

    def __post_init__(self) -> None:
        check.require_callable("step", self.step)
        check.require_callable("feedback", self.feedback, takes=2)

    def __call__(
        self, params: Params, carry: Carry, s: PyTree
    ) -> tuple[tuple[Carry, PyTree], Generated]:
        """One step."""
        is_pair = isinstance(carry, tuple) and len(carry) == 2
        check.require_type(is_pair, "carry", carry, "(carry, x), with the first input")
        inner_carry, x = carry
        inner_carry, y = self.step(params, inner_carry, x)
        next_x = self.feedback(y, s)
        return (inner_carry, next_x), Generated(y, next_x)  # (F1)
