"""Backpropagation through time that keeps few states and computes the others anew."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrnn import check, tree
from jaxrnn.expression import Expression
from jaxrnn.loops import derived, schedule
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.forward_mode import explain_forward_mode
from jaxrnn.types import Carry, Cell, Loop, Params, PyTree, Step, StepResult, exact_loop

# A sequence may be cut into so many segments, with so few states, that there is no end to it.
MOST_RUNS = 2**24


class Plan(NamedTuple):
    """How a sequence is cut, and what is kept of it.

    Fields:
        head: steps before the first segment, fewer than a segment has.
        length: steps in a segment.
        segments: N, how many segments there are.
        num_states: s, how many of their first states are kept at a time.
    """

    head: int
    length: int
    segments: int
    states: int


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class checkpointed(Expression):
    """A Loop with the exact gradient that keeps few states and runs the steps between them anew.

    The sequence is cut into N segments of m steps. In the forward pass s of the states c_{jm} are
    kept; in the backward pass, from the last segment to the first,

        c_{jm}            from the nearest state kept before it, run forward again             (1)
        λ_{jm}, ∂L/∂W, ∂L/∂x  of segment j by `loop`, run again from c_{jm}                    (2)

    and (1) follows the binomial schedule, which for given N and s needs the fewest runs that are
    possible (`jaxrnn.loops.schedule`). What decides on m and s is one of

        levels=r    no segment is run more than r + 1 times: N ≤ (s+r)!/(s! r!), m ≈ T^(1/(r+1));
                    r = 1, the default, keeps the first state of each of √T segments          (3)
        num_states=s  s states, and segments of s steps: with s ~ log T, memory grows like it    (4)
        budget=b    the m and s of least work with s states and the residuals of one segment
                    within b bytes, on one device and before any vmap                         (5)

    Inputs are projected and outputs made segment by segment too, and outputs that nobody uses
    (many-to-one) are not kept. (`jaxrnn.transforms.step_loss` takes the loss inside the loop.)

    Args:
        levels: r, an int of at least 1.
        num_states: s, an int of at least 1.
        budget: b, an int, or a text such as "64MiB" or "1.5 GB".
        segment_length: m, an int of at least 1, in the place of that of (3) or (4). T need not be
            divisible by it.
        loop: the exact Loop that runs each segment.

    Returns:
        A Loop; equal arguments give equal loops.

    Raises:
        TypeError, ValueError: for more than one of levels, num_states and budget; for a loop that
            is not exact; while tracing, for a budget below what one state and one step take, naming
            that.

    Gradient: exact; of a gradient too, whose memory is not promised. Time: with levels=r each step
    runs forward at most r + 1 times and backward once. Memory O(r T^(1/(r+1))) beside inputs and
    outputs. Compile time does not depend on T. No forward mode; use `jaxrnn.scan`. A Cell must not
    close over traced values, a plain Step may.

    Source: A. Griewank, A. Walther (2000), as in `jaxrnn.loops.schedule`; A. Gruslys, R. Munos,
    I. Danihelka, M. Lanctot, A. Graves, "Memory-efficient backpropagation through time", NeurIPS
    2016.
    """

    levels: int | None = None
    num_states: int | None = None
    budget: int | str | None = None
    segment_length: int | None = None
    loop: Loop = bptt

    gradient = "exact"

    def __post_init__(self) -> None:
        wanted = {"levels": self.levels, "num_states": self.num_states, "budget": self.budget}
        names = [name for name, value in wanted.items() if value is not None]
        check.require(len(names) <= 1, ", ".join(names), f"{len(names)} of them", "at most one")
        for name in ("levels", "num_states", "segment_length"):
            value = getattr(self, name)
            if value is not None:
                check.require_int(name, value, least=1)
        if self.budget is not None and self.segment_length is not None:
            raise ValueError(
                "segment_length: got a length and a budget, which decides on it; expected one"
            )
        exact_loop("loop", self.loop)
        levels = None if self.levels == 1 else self.levels  # the default by its name
        self.replace_fields(levels=levels, budget=check.parse_bytes("budget", self.budget))

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the step over time; see `jaxrnn.Loop`."""
        params, carry = tree.checked_arguments(step, params, carry, xs)
        if check.num_steps(xs) == 0:
            return check.require_pair("loop", self.loop(step, params, carry, xs))
        is_cell = isinstance(step, Cell)
        whole = None
        if not is_cell:
            step, params, carry, whole = derived.closed(step, params, carry, xs)
        plan = self._plan(step, params, carry, xs)
        replay: Any = _compiled_replayed if is_cell else _replayed
        with explain_forward_mode("checkpointed"):
            last, ys = replay(step, self.loop, plan, params, carry, xs)
        return (last if whole is None else whole(last)), ys

    def _plan(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> Plan:
        steps = check.num_steps(xs)
        if self.budget is None:
            return _planned(steps, self.levels or 1, self.num_states, self.segment_length)
        state_bytes, step_bytes = _costs(self.loop, step, params, carry, xs)
        return _within(int(self.budget), steps, state_bytes, step_bytes)


def _planned(steps: int, levels: int, states: int | None, segment: int | None) -> Plan:
    """(3) and (4)."""
    wanted = segment or states or math.ceil(steps ** (1 / (levels + 1)) - 1e-9)
    # A length that divides T needs no head, which would be compiled apart.
    near = range(wanted, 2 * wanted) if segment is None else ()
    length = next((n for n in near if steps % n == 0), min(wanted, steps))
    segments = steps // length
    states = min(states or max(1, schedule.least(segments, levels)), segments)
    runs = schedule.forward_runs(segments, states)
    got = f"{states} for {segments} segments, which makes {runs} runs of a segment"
    check.require(runs <= MOST_RUNS, "num_states", got, "more states, or longer segments")
    return Plan(steps % length, length, segments, states)


def _within(budget: int, steps: int, state_bytes: int, step_bytes: int) -> Plan:
    """(5): of all plans within the budget one with the fewest steps run anew, and then the longest
    segments, whose products are the largest.
    """
    least = state_bytes + step_bytes
    expected = f"at least {least}, for one state and the residuals of one step"
    check.require(budget >= least, "budget", f"{budget} bytes", expected)
    plans = {}
    whole = [n for n in range(1, math.isqrt(steps) + 1) if steps % n == 0]
    powers = [2**e for e in range(steps.bit_length())]
    for length in {*whole, *(steps // n for n in whole), *powers}:
        segments, head = divmod(steps, length)
        states = min((budget - length * step_bytes) // max(state_bytes, 1), segments)
        if states > 0:
            runs = schedule.forward_runs(segments, states) - segments
            plans[runs * length, head > 0, -length] = Plan(head, length, segments, states)
    return plans[min(plans)]


def _costs(loop: Loop, step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[int, int]:
    """Bytes of one state, and bytes that `loop` keeps for one step more."""

    def kept(steps: int) -> int:
        one = check.one_step(xs)
        some = jax.tree.map(lambda x: jax.ShapeDtypeStruct((steps, *x.shape), x.dtype), one)
        pull = functools.partial(tree.vjp_inexact, functools.partial(loop, step))
        return _bytes(jax.eval_shape(pull, params, carry, some))

    return _bytes(carry), kept(2) - kept(1)


def _bytes(arrays: PyTree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(arrays))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _replayed(
    step: Step, loop: Loop, plan: Plan, params: Params, carry: Carry, xs: PyTree
) -> StepResult:
    return _run(step, loop, plan, params, carry, xs)[0]


def _run(
    step: Step, loop: Loop, plan: Plan, params: Params, carry: Carry, xs: PyTree
) -> tuple[StepResult, tuple[PyTree, Carry]]:
    """The outputs; and what is kept: the slots, and the state at the last segment's beginning."""
    if plan.head:
        head = _steps(xs, 0, plan.head)
        carry, head_ys = check.require_pair("loop", loop(step, params, carry, head))
    stores = schedule.binomial(plan.segments, plan.states).store[: plan.segments - 1]
    # One slot more than there are states, for a state that is not to be kept.
    slots = jax.tree.map(
        lambda c: jnp.broadcast_to(jnp.zeros_like(c), (plan.states + 1, *c.shape)), carry
    )

    def forward(state: Any, segment_and_slot: Any) -> tuple[Any, PyTree]:
        (carry, slots, _), (k, slot) = state, segment_and_slot
        slots = _stored(slots, carry, slot)
        segment = _steps(xs, plan.head + k * plan.length, plan.length)
        last, ys = check.require_pair("loop", loop(step, params, carry, segment))
        return (last, slots, carry), ys

    slot_of_segment = np.concatenate([[0], stores]) % (plan.states + 1)
    segments = np.arange(plan.segments), slot_of_segment
    (last, slots, at_hand), ys = lax.scan(forward, (carry, slots, carry), segments)
    steps = plan.segments * plan.length
    ys = jax.tree.map(lambda y: jnp.reshape(y, (steps, *y.shape[2:])), ys)
    if plan.head:
        ys = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head_ys, ys)
    return (last, ys), (slots, at_hand)


def _forward(step: Step, loop: Loop, plan: Plan, *args: Any) -> tuple[StepResult, PyTree]:
    params, carry, xs = jax.tree.map(lambda x: x.value, args)
    outputs, kept = _run(step, loop, plan, params, carry, xs)
    return outputs, (params, carry, xs, kept)


def _backward(
    step: Step, loop: Loop, plan: Plan, residuals: Any, cotangents: Any
) -> tuple[Params, Carry, PyTree]:
    params, first, xs, (slots, at_hand) = residuals
    d_last, d_ys = tree.sparse_cotangents(cotangents)
    rows = tree.slice_time(schedule.binomial(plan.segments, plan.states), plan.segments - 1, None)

    def backpropagate(carry: Carry, d_carry: Carry, xs: PyTree, d_ys: PyTree) -> Any:
        """(2), for any stretch of the sequence."""

        def stretch(params: Params, carry: Carry, xs: PyTree) -> StepResult:
            carry, ys = loop(step, params, carry, xs)
            # An output without cotangent is left out, and need not be made.
            return carry, tree.keep_where_present(d_ys, ys)

        pull = tree.vjp_inexact(stretch, params, carry, xs)
        ((d_params, d_carry, d_xs),) = pull((d_carry, d_ys))
        return carry, d_carry, d_params, d_xs

    def run_forward(carry: Carry, d_carry: Carry, xs: PyTree, d_ys: PyTree) -> Any:
        """(1), with gradients that are zero."""
        carry, _ = loop(step, params, carry, xs)
        return carry, d_carry, tree.zero_cotangents(params), tree.zero_cotangents(xs)

    def backward(state: Any, row: Any) -> tuple[Any, None]:
        (at_hand, slots, d_carry, d_params, d_xs), (load, k, turn, store) = state, row
        at_hand = jax.tree.map(lambda c, s: jnp.where(load < 0, c, s[load]), at_hand, slots)
        start = plan.head + k * plan.length
        args = at_hand, d_carry, *(_steps(x, start, plan.length) for x in (xs, d_ys))
        if rows.turn.all():
            at_hand, d_carry, more, d_here = backpropagate(*args)
        else:
            at_hand, d_carry, more, d_here = lax.cond(turn, backpropagate, run_forward, *args)
            slots = _stored(slots, at_hand, store % (plan.states + 1))
        # A segment is turned after all its runs, so what they put here is replaced.
        d_xs = _put(d_xs, d_here, start)
        return (at_hand, slots, d_carry, tree.add_sparse(d_params, more), d_xs), None

    d_carry = tree.add_sparse(tree.zero_cotangents(first), d_last)
    state = at_hand, slots, d_carry, tree.zero_cotangents(params), tree.zero_cotangents(xs)
    (_, _, d_carry, d_params, d_xs), _ = lax.scan(backward, state, rows)
    if plan.head:
        head = _steps(xs, 0, plan.head), _steps(d_ys, 0, plan.head)
        _, d_carry, more, d_here = backpropagate(first, d_carry, *head)
        d_params, d_xs = tree.add_sparse(d_params, more), _put(d_xs, d_here, 0)
    return d_params, d_carry, d_xs


_replayed.defvjp(_forward, _backward, symbolic_zeros=True)
_compiled_replayed = jax.jit(_replayed, static_argnums=(0, 1, 2))


def _steps(xs: PyTree, start: jax.Array | int, length: int) -> PyTree:
    """Steps `start`, …, `start + length - 1`."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, length), xs)


def _put(xs: PyTree, some: PyTree, start: jax.Array | int) -> PyTree:
    return jax.tree.map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y, start, 0), xs, some)


def _stored(slots: PyTree, carry: Carry, slot: jax.Array) -> PyTree:
    return jax.tree.map(lambda s, c: lax.dynamic_update_index_in_dim(s, c, slot, 0), slots, carry)
