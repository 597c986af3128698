"""The memory that a gradient takes under each loop, measured by the compiler before a run."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxrnn import check
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.checkpointed import checkpointed
from jaxrnn.types import Loop, LoopAround, StepResult

# The exact loops, from the fastest with the most memory to the slowest with the least.
_BY_LEVELS = [(f"checkpointed(levels={r})", checkpointed(levels=r)) for r in (2, 3, 4)]
BY_TIME: tuple[tuple[str, Loop], ...] = (
    ("bptt", bptt),
    ("checkpointed()", checkpointed()),
    *_BY_LEVELS,
)


class MemoryRow(NamedTuple):
    """The memory that one loop takes, in bytes.

    Fields:
        name: the name of the loop.
        loop: the loop.
        kept: the arrays that the forward pass passes to the backward pass, parameters included.
        temporary: the peak memory of the gradient, without its arguments and its results.
    """

    name: str
    loop: Loop
    kept: int
    temporary: int


class MemoryPlan(NamedTuple):
    """A table of loops with their memory, and the fastest loop within a budget.

    Fields:
        rows: a MemoryRow for each loop, from the fastest to the slowest.
        budget: the largest allowed value of `temporary` in bytes, or None.
    """

    rows: tuple[MemoryRow, ...]
    budget: int | None

    @property
    def best(self) -> MemoryRow:
        """The first row within the budget.

        Raises a ValueError that names the least memory of all loops if there is no such row.
        """
        within = [row for row in self.rows if self._fits(row)]
        least = min(row.temporary for row in self.rows)
        check.require(within, "budget", f"{self.budget} bytes", f"at least {least}")
        return within[0]

    def _fits(self, row: MemoryRow) -> bool:
        return self.budget is None or row.temporary <= self.budget

    def __str__(self) -> str:
        lines = ["          kept     temporary  loop"]
        for row in self.rows:
            remark = "" if self._fits(row) else "  OVER"
            lines.append(f"{row.kept:14,}{row.temporary:14,}  {row.name}{remark}")
        return "\n".join(lines)


def memory_plan(
    loss: Callable[..., Any],
    *args: Any,
    budget: int | str | None = None,
    loops: tuple[tuple[str, Loop], ...] = BY_TIME,
) -> MemoryPlan:
    """Compiles the gradient of a loss under each loop, and returns the memory that it takes.

    Nothing is run.

    Args:
        loss: `loss(params, *more, loop=...)`, a scalar. It is differentiated with respect to its
            first argument.
        *args: the arguments of the loss, arrays or `jax.ShapeDtypeStruct`s.
        budget: bytes, an int or a text such as "64MiB". It limits the memory of the gradient
            without its arguments and results.
        loops: pairs of a name and a loop, from the fastest to the slowest. It defaults to `bptt`,
            and `checkpointed` with 1 to 4 levels.

    Returns:
        A MemoryPlan, from the compiler's analysis for the device in use; `.best.loop` is the
        fastest loop within the budget.

    Raises:
        TypeError, ValueError: for a wrong budget; for a loss that is not a scalar, or does not call
            its loop; from `.best` if no loop is within the budget.

    Time: that of compiling each program twice.
    """
    check.require(args, "args", "none", "the arguments of the loss, params first")
    check.require_callable("loss", loss, len(args), loop=None)
    arrays = jax.tree.map(lambda x: None if isinstance(x, jax.ShapeDtypeStruct) else x, args)
    check.require_arrays(args=arrays)
    budget_bytes = check.parse_bytes("budget", budget)

    are_pairs = isinstance(loops, (tuple, list)) and all(
        isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in loops
    )
    check.require_option_type("loops", loops, are_pairs, "pairs of a name and a loop")
    check.require(loops, "loops", "none", "at least one pair of a name and a loop")
    for name, loop in loops:
        check.require_callable(f"loops[{name!r}]", loop, takes=4)

    def measure(name: str, loop: Loop) -> MemoryRow:
        loss_with_loop = functools.partial(loss, loop=loop)

        def forward_pass(params: Any, *more: Any) -> Any:
            _, pullback = jax.vjp(lambda params: loss_with_loop(params, *more), params)
            return pullback  # a pytree of what the forward pass keeps

        _check_loss(loss, args, loop)
        forward = _analysis(forward_pass, args)
        gradient = _analysis(jax.value_and_grad(loss_with_loop), args)
        return MemoryRow(name, loop, forward.output_size_in_bytes, gradient.temp_size_in_bytes)

    return MemoryPlan(tuple(measure(name, loop) for name, loop in loops), budget_bytes)


def _check_loss(loss: Callable[..., Any], args: tuple[Any, ...], loop: Loop) -> None:
    """Raises an error unless the loss is a scalar and calls its loop."""
    num_calls = 0

    def count(loop: Loop, *call: Any) -> StepResult:
        nonlocal num_calls
        num_calls += 1
        return loop(*call)

    value = jax.eval_shape(functools.partial(loss, loop=LoopAround(loop, count)), *args)
    check.require_scalar_loss("loss", value)
    # Otherwise all rows would be equal, and say that no loop saves memory.
    expected = "one that calls it, such as by unroll(..., loop=loop)"
    check.require(num_calls, "loss", "one that does not call its loop", expected)


def _analysis(fun: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Returns the compiler's memory analysis of a function."""
    return jax.jit(fun).lower(*args).compile().memory_analysis()
