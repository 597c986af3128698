"""One-to-many: a step whose input is computed from its last output."""

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
        next_x: the next input x_{t+1}, such as the token that was drawn from y_t.
    """

    y: PyTree
    next_x: PyTree


@dataclasses.dataclass(frozen=True, repr=False)
class autoregressive(Expression):
    """A step whose input is computed from its last output: one-to-many, generation.

        c_t, y_t = step(params, c_{t-1}, x_t),    x_{t+1} = feedback(y_t, s_t)              (AR1)

    `unroll(autoregressive(step, feedback), params, keys, carry=(carry, x))` generates a whole
    sequence. For streaming, call the step in a Python loop. The step has the carry `(carry, x_t)`,
    the input s_t, and the output `Generated(y_t, x_{t+1})`.

    Args:
        step: a Cell or any Step.
        feedback: `(y, s) -> x`, where x has the structure, shapes and dtypes of the first x. s_t is
            the input of the new step, such as a key for each step if x is drawn, or a counter.

    Gradient: that of the loop, also through x, unless x is drawn from integers.
    """

    step: Step
    feedback: Callable[[PyTree, PyTree], PyTree]

    def __post_init__(self) -> None:
        check.require_callable("step", self.step)
        check.require_callable("feedback", self.feedback, takes=2)

    def __call__(
        self, params: Params, carry: Carry, s: PyTree
    ) -> tuple[tuple[Carry, PyTree], Generated]:
        """Runs one step."""
        # Each step leaves the input of the next one in the carry; x_1 is in the first carry.
        is_pair = isinstance(carry, tuple) and len(carry) == 2
        check.require_type(is_pair, "carry", carry, "(carry, x), with the first input")
        inner_carry, x = carry
        inner_carry, y = self.step(params, inner_carry, x)
        next_x = self.feedback(y, s)
        return (inner_carry, next_x), Generated(y, next_x)  # (AR1)
