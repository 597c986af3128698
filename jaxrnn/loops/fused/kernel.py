"""What the kernels for all devices have in common."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import jax

from jaxrnn.loops.derived.jaxprs import Values
from jaxrnn.loops.fused.body import Arrays, Body

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, eq=False)
class ScanKernel(abc.ABC):
    """A scan as one kernel.

    Fields:
        body: one step.
        steps: T, at least 1.
        reverse: whether the last step runs first.
        interpret: whether JAX interprets the kernel, on any device.
    """

    body: Body
    steps: int
    reverse: bool
    interpret: bool

    compiler: ClassVar[str]
    lowering_platform: ClassVar[str]

    @abc.abstractmethod
    def require_room(self) -> None:
        """Raises an error if the kernel takes more memory than there is on chip."""

    @abc.abstractmethod
    def run(self, arrays: Arrays) -> tuple[Values, Values]:
        """Returns the leaves of the last carry and of the outputs."""

    def run_as_scan(self, arrays: Arrays) -> tuple[Values, Values]:
        """Returns the same by `lax.scan`, which JAX can differentiate."""

        def step(carry: Values, x: Values) -> tuple[Values, Values]:
            return self.body(arrays.constants, carry, x)

        return jax.lax.scan(step, arrays.carry, arrays.xs, self.steps, reverse=self.reverse)

    def require_lowering(self, arrays: Arrays) -> None:
        """Raises an error if the compiler has no code for an operation of the step.

        The first half of the compiler, which finds that out, needs no device.
        """
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
        try:
            jax.jit(self.run).trace(shapes).lower(lowering_platforms=(self.lowering_platform,))
        except Exception as error:  # of many classes, some of them of the compiler
            reason = str(error).strip().splitlines()[0]
            got = f"a step that {self.compiler} does not compile for fused() ({reason})"
            expected = f"operations that {self.compiler} has, or loop=jaxrnn.bptt"
            raise TypeError(f"step: got {got}, expected {expected}") from error


def split_into(items: Sequence[Item], sizes: Sequence[int]) -> list[Sequence[Item]]:
    """Splits the arguments of a kernel into groups of these sizes."""
    groups = []
    for size in sizes:
        groups.append(items[:size])
        items = items[size:]
    return groups
