"""How much memory a gradient takes under each loop, by the compiler, before anything runs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxrnn import check
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.checkpointed import checkpointed
from jaxrnn.types import Loop

# The exact loops, each with less work and more memory than the next.
_BY_LEVELS = [(f"checkpointed(levels={r})", checkpointed(levels=r)) for r in (2, 3, 4)]
BY_TIME: tuple[tuple[str, Loop], ...] = (
    ("bptt", bptt),
    ("checkpointed()", checkpointed()),
    *_BY_LEVELS,
)


class MemoryRow(NamedTuple):
    """What one loop takes, in bytes.

    Fields:
        name: of the loop.
        loop: the loop.
        kept: what the forward pass hands to the backward pass, parameters included.
        temporary: what the gradient takes beside its arguments and its results, at its peak.
    """

    name: str
    loop: Loop
    kept: int
    temporary: int


class MemoryPlan(NamedTuple):
    """The loops, and which of them to take; prints as a table.

    Fields:
        rows: a MemoryRow for each, in the order of the time that they take.
        budget: the bytes that `temporary` may be, or None.
    """

    rows: tuple[MemoryRow, ...]
    budget: int | None

    @property
    def best(self) -> MemoryRow:
        """The first within the budget; ValueError, with what the least takes, if there is none."""
        within = [r for r in self.rows if self.budget is None or r.temporary <= self.budget]
        least = min(row.temporary for row in self.rows)
        check.require(within, "budget", f"{self.budget} bytes", f"at least {least}")
        return within[0]

    def __str__(self) -> str:
        lines = ["          kept     temporary  loop"]
        for row in self.rows:
            fits = self.budget is None or row.temporary <= self.budget
            lines.append(f"{row.kept:14,}{row.temporary:14,}  {row.name}{'' if fits else '  OVER'}")
        return "\n".join(lines)


def memory_plan(
    loss: Callable[..., Any],
    *args: Any,
    budget: int | str | None = None,
    loops: tuple[tuple[str, Loop], ...] = BY_TIME,
) -> MemoryPlan:
    """Compile the gradient of a loss under each loop, run nothing, and say what memory it takes.

    Args:
        loss: `loss(params, *more, loop=...)`, a scalar; it is differentiated for its first
            argument.
        *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
        budget: bytes, an int or a text such as "64MiB", for what the gradient takes beside its
            arguments and results.
        loops: names and loops, from the one that takes the least time to the one that takes the
            most; `bptt`, and `checkpointed` of 1 to 4 levels, unless given.

    Returns:
        A MemoryPlan, by the compiler's own analysis for the device in use; `.best.loop` is the
        fastest within the budget.

    Raises:
        TypeError, ValueError: for a budget that is none, and from `.best` if nothing is within it.

    Time: that of compiling each program twice.
    """
    check.require(args, "args", "none", "the arguments of the loss, params first")
    check.require_callable("loss", loss, len(args), loop=None)
    known = jax.tree.map(lambda x: None if isinstance(x, jax.ShapeDtypeStruct) else x, args)
    check.require_arrays(args=known)
    most = check.parse_bytes("budget", budget)

    pairs = isinstance(loops, (tuple, list)) and all(
        isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in loops
    )
    check.require_option_type("loops", loops, pairs, "pairs of a name and a loop")
    check.require(loops, "loops", "none", "at least one pair of a name and a loop")
    for name, loop in loops:
        check.require_callable(f"loops[{name!r}]", loop, takes=4)

    def row(name: str, loop: Loop) -> MemoryRow:
        def pull(params: Any, *more: Any) -> Any:
            return jax.vjp(lambda params: loss(params, *more, loop=loop), params)[1]

        check.require_scalar_loss("loss", jax.eval_shape(functools.partial(loss, loop=loop), *args))
        programs = pull, jax.value_and_grad(functools.partial(loss, loop=loop))
        analyses: Any = (jax.jit(fun).lower(*args).compile().memory_analysis() for fun in programs)
        kept, whole = analyses
        return MemoryRow(name, loop, kept.output_size_in_bytes, whole.temp_size_in_bytes)

    return MemoryPlan(tuple(row(*named) for named in loops), most)
