"""How the steps of a loop run in order: `lax.scan`, or anything with its contract."""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax

from jaxrnn.types import Carry, PyTree, StepResult

Body = Callable[[Carry, PyTree], StepResult]  # one step, (carry, x) -> (carry, y)


@runtime_checkable
class Scan(Protocol):
    """The contract of `lax.scan`, for the loops inside a hand-written backward pass.

    A Scan is compared by `==` and hashed, since a compiled program depends on it. Its derivatives
    are those of `lax.scan`; only a gradient of a gradient asks for them.
    """

    def __call__(
        self, body: Body, carry: Carry, xs: PyTree, length: int | None = None, reverse: bool = False
    ) -> StepResult:
        """Runs `body` over the leading axis of `xs`, from its end if `reverse`.

        Returns the last carry, and the stacked outputs in the order of `xs`.
        """


@dataclasses.dataclass(frozen=True)
class UnrolledScan:
    """`lax.scan` with a number of steps in one iteration of its loop."""

    unroll: int

    def __call__(
        self, body: Body, carry: Carry, xs: PyTree, length: int | None = None, reverse: bool = False
    ) -> StepResult:
        """Calls `lax.scan`; see `Scan`."""
        return jax.lax.scan(body, carry, xs, length, reverse=reverse, unroll=self.unroll)
