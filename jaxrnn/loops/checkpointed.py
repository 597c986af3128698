"""Backpropagation through time that keeps few states and recomputes the others."""

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
from jaxrnn.loops import chunks, derived, schedule
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.forward_mode import explain_forward_mode
from jaxrnn.types import Array, Carry, Cell, Loop, Params, PyTree, Step, StepResult, exact_loop

Index = int | Array

# With many segments and few states the number of runs explodes; a plan beyond this is an error.
MOST_RUNS = 2**24


class Plan(NamedTuple):
    """How a sequence is divided into segments, and how many states are kept.

    Fields:
        head: the number of steps before the first segment, fewer than in a segment.
        length: the number of steps in a segment.
        segments: N, the number of segments.
        states: s, the number of initial states of segments that are kept at a time.
    """

    head: int
    length: int
    segments: int
    states: int


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class checkpointed(Expression):
    """A Loop with the exact gradient that keeps few states and recomputes the steps between them.

    The sequence is divided into N segments of m steps. The forward pass keeps s of the states
    c_{jm}. The backward pass runs from the last segment to the first, and computes

        c_{jm}, forward from the nearest earlier state that is kept                          (1)
        λ_{jm}, ∂L/∂W, ∂L/∂x of segment j, by `loop` from c_{jm}                             (2)

    where (1) follows the binomial schedule, which needs the fewest possible runs for N and s
    (`jaxrnn.loops.schedule`). One of three arguments determines m and s:

        levels=r      each segment runs at most r + 1 times: N ≤ (s+r)!/(s! r!), m ≈ T^(1/(r+1));
                      r = 1, the default, keeps the first state of each of √T segments       (3)
        num_states=s  s states, and segments of s steps; memory is O(log T) if s ~ log T     (4)
        budget=b      the m and s of least work for which s states and the residuals of one
                      segment take at most b bytes, on one device and before any vmap        (5)

    Input projections and outputs are also computed segment by segment, and unused outputs
    (many-to-one) are not kept. `jaxrnn.transforms.step_loss` computes the loss inside the loop.

    Args:
        levels: r, an int of at least 1.
        num_states: s, an int of at least 1.
        budget: b, an int, or a text such as "64MiB" or "1.5 GB".
        segment_length: m, an int of at least 1, which replaces the m of (3) or (4). T need not be
            divisible by it.
        loop: the exact Loop that runs each segment.

    Raises:
        TypeError, ValueError: for more than one of levels, num_states and budget; for a loop that
            is not exact; while tracing, for a budget below the memory of one state and one step,
            which the message names.

    Equal arguments construct equal loops.

    Gradient: exact, also for a gradient of the gradient, whose memory has no bound. Time: with
    levels=r each step runs forward at most r + 1 times and backward once. Memory: O(r T^(1/(r+1))),
    without inputs and outputs. Compile time does not depend on T. There is no forward mode; use
    `jaxrnn.scan`. A Cell must not close over traced values, a plain Step may.

    Source: A. Griewank, A. Walther, "Algorithm 799: Revolve", ACM Transactions on Mathematical
    Software 26 (2000); A. Gruslys, R. Munos, I. Danihelka, M. Lanctot, A. Graves, "Memory-efficient
    backpropagation through time", NeurIPS 2016.

    Examples:
        >>> cell = jaxrnn.gru(16)
        >>> params = cell.init(jax.random.key(0), input_size=8)
        >>> def loss(params, xs):
        ...     carry, ys = jaxrnn.unroll(cell, params, xs, loop=jaxrnn.checkpointed(budget="1MiB"))
        ...     return jnp.mean(carry**2)
        >>> jax.grad(loss)(params, jnp.ones((1000, 4, 8)))["w_h"].shape
        (16, 48)
    """

    levels: int | None = None
    num_states: int | None = None
    budget: int | str | None = None
    segment_length: int | None = None
    loop: Loop = bptt

    gradient = "exact"

    def __post_init__(self) -> None:
        options = {"levels": self.levels, "num_states": self.num_states, "budget": self.budget}
        names = [name for name, value in options.items() if value is not None]
        check.require(len(names) <= 1, ", ".join(names), f"{len(names)} of them", "at most one")
        for name in ("levels", "num_states", "segment_length"):
            value = getattr(self, name)
            if value is not None:
                check.require_int(name, value, least=1)
        if self.budget is not None and self.segment_length is not None:
            raise ValueError(
                "segment_length: got a length and a budget, expected one, since the budget sets it"
            )
        exact_loop("loop", self.loop)
        levels = None if self.levels == 1 else self.levels  # so that 1 equals the default
        self.replace_fields(levels=levels, budget=check.parse_bytes("budget", self.budget))

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the step over time; see `jaxrnn.Loop`."""
        params, carry = tree.checked_arguments(step, params, carry, xs)
        if check.num_steps(xs) == 0:
            return check.require_pair("loop", self.loop(step, params, carry, xs))
        if isinstance(step, Cell):
            plan = self._plan(step, params, carry, xs)
            with explain_forward_mode("checkpointed"):
                return _compiled_run(step, self.loop, plan, params, carry, xs)
        closed = derived.closed(step, params, carry, xs)
        arguments = closed.params, closed.carry, xs
        plan = self._plan(closed.step, *arguments)
        with explain_forward_mode("checkpointed"):
            last, ys = _run_checkpointed(closed.step, self.loop, plan, *arguments)
        return closed.full_carry(last), ys

    def _plan(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> Plan:
        steps = check.num_steps(xs)
        if self.budget is None:
            levels = self.levels or 1
            return _plan_without_budget(steps, levels, self.num_states, self.segment_length)
        state_bytes, step_bytes = _costs(self.loop, step, params, carry, xs)
        return _plan_within_budget(int(self.budget), steps, state_bytes, step_bytes)


def _plan_without_budget(steps: int, levels: int, states: int | None, segment: int | None) -> Plan:
    """Returns the plan of (3) or (4)."""
    # 1e-9, since the root of a power, such as 1000^(1/3), may come out slightly above an integer.
    wanted = segment or states or math.ceil(steps ** (1 / (levels + 1)) - 1e-9)
    # A length that divides T needs no head, which would be compiled separately.
    candidates = range(wanted, 2 * wanted) if segment is None else ()
    divisors = (n for n in candidates if steps % n == 0)
    length = next(divisors, min(wanted, steps))
    segments = steps // length
    states = min(states or max(1, schedule.least(segments, levels)), segments)
    runs = schedule.forward_runs(segments, states)
    got = f"{states} for {segments} segments, which makes {runs} runs of a segment"
    check.require(runs <= MOST_RUNS, "num_states", got, "more states, or longer segments")
    return Plan(steps % length, length, segments, states)


def _plan_within_budget(budget: int, steps: int, state_bytes: int, step_bytes: int) -> Plan:
    """Returns the plan of (5).

    Of all plans within the budget, it has the fewest recomputed steps, then the longest segments,
    since these have the largest products.
    """
    least = state_bytes + step_bytes
    expected = f"at least {least}, for one state and the residuals of one step"
    check.require(budget >= least, "budget", f"{budget} bytes", expected)
    # From what is minimised, in order of importance, to the plan.
    plans: dict[tuple[int, bool, int], Plan] = {}
    # Divisors of T need no head, and powers of two are never far from the best length.
    small_divisors = [n for n in range(1, math.isqrt(steps) + 1) if steps % n == 0]
    large_divisors = [steps // n for n in small_divisors]
    powers = [2**e for e in range(steps.bit_length())]
    for length in {*small_divisors, *large_divisors, *powers}:
        segments, head = divmod(steps, length)
        states = min((budget - length * step_bytes) // max(state_bytes, 1), segments)
        if states > 0:
            recomputed = (schedule.forward_runs(segments, states) - segments) * length
            plans[recomputed, head > 0, -length] = Plan(head, length, segments, states)
    return plans[min(plans)]


def _costs(loop: Loop, step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[int, int]:
    """Returns the bytes of one state, and the bytes that `loop` keeps for each further step."""

    def kept(steps: int) -> int:
        x = check.one_step(xs)
        some_xs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((steps, *x.shape), x.dtype), x)
        forward_pass = functools.partial(tree.vjp_inexact, functools.partial(loop, step))
        # The pullback is a pytree, whose leaves are the residuals.
        return chunks.bytes_of(jax.eval_shape(forward_pass, params, carry, some_xs))

    return chunks.bytes_of(carry), kept(2) - kept(1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _run_checkpointed(
    step: Step, loop: Loop, plan: Plan, params: Params, carry: Carry, xs: PyTree
) -> StepResult:
    return _run_segments(step, loop, plan, params, carry, xs)[0]


def _run_segments(
    step: Step, loop: Loop, plan: Plan, params: Params, carry: Carry, xs: PyTree
) -> tuple[StepResult, tuple[PyTree, Carry]]:
    """Returns the outputs, and the kept values.

    The kept values are the slots and the state before the last segment.
    """
    if plan.head:
        head = _steps(xs, 0, plan.head)
        carry, head_ys = check.require_pair("loop", loop(step, params, carry, head))

    def empty_slots(c: jax.Array) -> jax.Array:
        # The last slot, one more than there are states, gets the states that are not kept.
        return jnp.broadcast_to(jnp.zeros_like(c), (plan.states + 1, *c.shape))

    def forward(
        state: tuple[Carry, PyTree, Carry], segment_and_slot: tuple[Index, Index]
    ) -> tuple[tuple[Carry, PyTree, Carry], PyTree]:
        carry, slots, _ = state
        k, slot = segment_and_slot
        slots = _store(slots, carry, slot)
        segment = _steps(xs, plan.head + k * plan.length, plan.length)
        last, ys = check.require_pair("loop", loop(step, params, carry, segment))
        return (last, slots, carry), ys

    slots = jax.tree.map(empty_slots, carry)
    stores = schedule.binomial(plan.segments, plan.states).store[: plan.segments - 1]
    # A row stores the state after its segment, which is the first state of the next one. The
    # remainder turns -1, for a state that is not kept, into the number of the last slot.
    slot_of_segment = np.concatenate([[0], stores]) % (plan.states + 1)
    segments = np.arange(plan.segments), slot_of_segment
    (last, slots, current), ys = lax.scan(forward, (carry, slots, carry), segments)
    steps = plan.segments * plan.length
    ys = jax.tree.map(lambda y: jnp.reshape(y, (steps, *y.shape[2:])), ys)
    if plan.head:
        ys = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head_ys, ys)
    return (last, ys), (slots, current)


def _forward(step: Step, loop: Loop, plan: Plan, *args: Any) -> tuple[StepResult, PyTree]:
    params, carry, xs = jax.tree.map(lambda x: x.value, args)
    outputs, kept = _run_segments(step, loop, plan, params, carry, xs)
    return outputs, (params, carry, xs, kept)


class _Run(NamedTuple):
    """What a run of a segment returns, and what the backward pass carries from run to run.

    Fields:
        carry: the state after a forward run; after a backward run it is not read.
        d_carry: λ before the segment.
        d_params: the gradient of the parameters.
        d_xs: the gradient of the inputs.
    """

    carry: Carry
    d_carry: Carry
    d_params: Params
    d_xs: PyTree


def _backward(
    step: Step, loop: Loop, plan: Plan, residuals: PyTree, cotangents: StepResult
) -> tuple[Params, Carry, PyTree]:
    params, first, xs, kept = residuals
    slots, current = kept
    d_last, d_ys = tree.sparse_cotangents(cotangents)
    # The rows before these are the forward pass, see `schedule.binomial`.
    rows = tree.slice_time(schedule.binomial(plan.segments, plan.states), plan.segments - 1, None)

    def run_backward(carry: Carry, d_carry: Carry, xs: PyTree, d_ys: PyTree) -> _Run:
        """Computes (2) for a range of steps."""

        def run(params: Params, carry: Carry, xs: PyTree) -> StepResult:
            carry, ys = loop(step, params, carry, xs)
            # An output without a cotangent is not returned, so it is not computed.
            return carry, tree.keep_where_present(d_ys, ys)

        pull = tree.vjp_inexact(run, params, carry, xs)
        ((d_params, d_carry, d_xs),) = pull((d_carry, d_ys))
        return _Run(carry, d_carry, d_params, d_xs)

    def run_forward(carry: Carry, d_carry: Carry, xs: PyTree, d_ys: PyTree) -> _Run:
        """Computes (1), with zero gradients."""
        carry, _ = loop(step, params, carry, xs)
        return _Run(carry, d_carry, tree.zero_cotangents(params), tree.zero_cotangents(xs))

    def backward(
        state: tuple[PyTree, _Run], row: schedule.Schedule
    ) -> tuple[tuple[PyTree, _Run], None]:
        slots, (current, d_carry, d_params, d_xs) = state
        load, k, backpropagate, store = row
        current = jax.tree.map(lambda c, s: jnp.where(load < 0, c, s[load]), current, slots)
        start = plan.head + k * plan.length
        segment_xs = _steps(xs, start, plan.length)
        segment_d_ys = _steps(d_ys, start, plan.length)
        args = current, d_carry, segment_xs, segment_d_ys
        if rows.backpropagate.all():  # every segment's first state is kept, as with two levels
            current, d_carry, d_params_here, d_xs_here = run_backward(*args)
        else:
            current, d_carry, d_params_here, d_xs_here = lax.cond(
                backpropagate, run_backward, run_forward, *args
            )
            slots = _store(slots, current, store % (plan.states + 1))
        # Backpropagation is the last run of a segment, so it replaces the zeros of earlier runs.
        d_xs = _update_steps(d_xs, d_xs_here, start)
        sum_of_params = tree.add_sparse(d_params, d_params_here)
        return (slots, _Run(current, d_carry, sum_of_params, d_xs)), None

    d_carry = tree.add_sparse(tree.zero_cotangents(first), d_last)
    begin = _Run(current, d_carry, tree.zero_cotangents(params), tree.zero_cotangents(xs))
    (_, result), _ = lax.scan(backward, (slots, begin), rows)
    _, d_carry, d_params, d_xs = result
    if plan.head:
        head = _steps(xs, 0, plan.head), _steps(d_ys, 0, plan.head)
        _, d_carry, d_params_here, d_xs_here = run_backward(first, d_carry, *head)
        d_params = tree.add_sparse(d_params, d_params_here)
        d_xs = _update_steps(d_xs, d_xs_here, 0)
    return d_params, d_carry, d_xs


_run_checkpointed.defvjp(_forward, _backward, symbolic_zeros=True)
_compiled_run = jax.jit(_run_checkpointed, static_argnums=(0, 1, 2))


def _steps(xs: PyTree, start: Index, length: int) -> PyTree:
    """Returns the steps `start`, …, `start + length - 1`."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, length), xs)


def _update_steps(xs: PyTree, some: PyTree, start: Index) -> PyTree:
    return jax.tree.map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y, start, 0), xs, some)


def _store(slots: PyTree, carry: Carry, slot: Index) -> PyTree:
    return jax.tree.map(lambda s, c: lax.dynamic_update_index_in_dim(s, c, slot, 0), slots, carry)
