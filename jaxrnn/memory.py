"""The memory that a gradient takes under each loop, measured by the compiler before a run."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxrnn import check
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.checkpointed import checkpointed
from jaxrnn.types import Carry, Loop, LoopAround, Params, PyTree, Step, StepResult

# The exact loops, from the fastest with the most memory to the slowest with the least.
BY_TIME: tuple[tuple[str, Loop], ...] = (
    ("bptt", bptt),
    ("checkpointed()", checkpointed()),
    ("checkpointed(levels=2)", checkpointed(levels=2)),
    ("checkpointed(levels=3)", checkpointed(levels=3)),
    ("checkpointed(levels=4)", checkpointed(levels=4)),
)
Loss = Callable[..., Any]  # loss(params, *more, loop=...) -> a scalar


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
    loss: Loss,
    *args: PyTree,
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

    Examples:
        >>> cell = jaxrnn.gru(16)
        >>> params = cell.init(jax.random.key(0), input_size=8)
        >>> def loss(params, xs, loop=jaxrnn.bptt):
        ...     return jnp.mean(jaxrnn.unroll(cell, params, xs, loop=loop)[0] ** 2)
        >>> xs = jnp.ones((500, 4, 8))
        >>> plan = jaxrnn.diagnostics.memory_plan(loss, params, xs, budget="1MiB")
        >>> table = str(plan)  # each loop with its memory
    """
    check.require(args, "args", "none", "the arguments of the loss, params first")
    check.require_callable("loss", loss, len(args), loop=None)
    # Structs have shapes and dtypes too, and nothing else is needed to compile.
    arrays = jax.tree.map(lambda x: None if isinstance(x, jax.ShapeDtypeStruct) else x, args)
    check.require_arrays(args=arrays)
    budget_bytes = check.parse_bytes("budget", budget)
    _check_loops(loops)
    rows = tuple(_memory_of(loss, args, name, loop) for name, loop in loops)
    return MemoryPlan(rows, budget_bytes)


def _check_loops(loops: object) -> None:
    """Raises an error unless `loops` are pairs of a name and a loop, at least one."""
    if not isinstance(loops, (tuple, list)) or not all(map(_is_pair, loops)):
        raise check.option_type_error("loops", loops, "pairs of a name and a loop")
    check.require(loops, "loops", "none", "at least one pair of a name and a loop")
    for name, loop in loops:
        check.require_callable(f"loops[{name!r}]", loop, takes=4)


def _is_pair(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


def _memory_of(loss: Loss, args: tuple[PyTree, ...], name: str, loop: Loop) -> MemoryRow:
    """Returns the memory of the gradient of a loss under one loop."""
    loss_with_loop = functools.partial(loss, loop=loop)

    def forward_pass(params: Params, *more: PyTree) -> PyTree:
        _, pullback = jax.vjp(lambda params: loss_with_loop(params, *more), params)
        # A pytree of what the forward pass keeps: as the output of a program, it has a size.
        return pullback

    _check_loss(loss, args, loop)
    forward = _analysis(forward_pass, args)
    gradient = _analysis(jax.value_and_grad(loss_with_loop), args)
    return MemoryRow(name, loop, forward.output_size_in_bytes, gradient.temp_size_in_bytes)


def _check_loss(loss: Loss, args: tuple[PyTree, ...], loop: Loop) -> None:
    """Raises an error unless the loss is a scalar and calls its loop."""
    num_calls = 0

    def count(loop: Loop, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        nonlocal num_calls
        num_calls += 1
        return loop(step, params, carry, xs)

    value = jax.eval_shape(functools.partial(loss, loop=LoopAround(loop, count)), *args)
    check.require_scalar_loss("loss", value)
    # Otherwise all rows would be equal, and say that no loop saves memory.
    expected = "one that calls it, such as by unroll(..., loop=loop)"
    check.require(num_calls, "loss", "one that does not call its loop", expected)


def _analysis(fun: Callable[..., PyTree], args: tuple[PyTree, ...]) -> Any:
    """Returns the compiler's memory analysis of a function."""
    return jax.jit(fun).lower(*args).compile().memory_analysis()
