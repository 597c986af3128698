"""Newton's method for the states of all steps of a recurrence at once.

A recurrence c_t = f_t(c_{t-1}) is an equation for the whole trajectory c_1, ..., c_T. From a guess,
Newton's method finds corrections d_t by an affine recurrence,

    d_t = A_t d_{t-1} + f_t(c_{t-1}) - c_t,    A_t = ∂f_t/∂c_{t-1},    d_0 = 0                (1)
    c_t ← c_t + d_t                                                                          (2)

which `affine_scan` solves for all t at once. If f is affine, one iteration is exact, and there is
no other. Otherwise, there is one more after every step holds within the tolerance,

    |f_t(c_{t-1}) - c_t| ≤ tolerance · max |f_s(c_{s-1})|                                    (3)

where the maximum is over the steps s up to t and the units of a row. It does not reach beyond t,
since a state that has diverged later must not hide an error.

After the last allowed iteration, the steps from the first that violates (3) on run in order. So (3)
holds in every case. If A_t is only a part of the Jacobian, the price is more iterations.

What has no A_t runs in order from the first step: random keys and state machines, loops such as
`jax.lax.while_loop`, and an adjoint that is not linear in λ because of a custom derivative rule,
unless it is elementwise.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import check, tree
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.parallel import vectors
from jaxrnn.loops.parallel.affine_scan import affine_scan
from jaxrnn.loops.parallel.devices import TimeAxis, previous_states
from jaxrnn.loops.parallel.structure import Component, Leaves, Recurrence, components
from jaxrnn.loops.parallel.vectors import Function, VectorSpace
from jaxrnn.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Options:
    """How a recurrence is solved; `parallel` describes the options."""

    jacobian: str
    tolerance: float | None
    max_iterations: int
    damping: float
    memory_limit: int
    axis: TimeAxis | None


class Effort(NamedTuple):
    """The work for one component that is not affine.

    Fields:
        iterations: the number of iterations of (1) and (2).
        steps_in_order: the number of steps that ran in order after them.
        residual: the largest ratio of |f_t(c_{t-1}) - c_t| to the maximum in (3), before these ran.
    """

    iterations: jax.Array
    steps_in_order: jax.Array
    residual: jax.Array


class _Problem(NamedTuple):
    """The recurrence of one component, in vectors.

    Fields:
        function: f, `(v_{t-1}, inputs of step t) -> v_t`.
        slopes: `(v_{t-1}, inputs of step t) -> A_t`.
        is_exact_at_once: whether one iteration is exact.
        start: v_0.
        inputs: the inputs of all steps.
        reverse: whether t counts from the last step.
        axis: the mesh axis that divides the time axis.
    """

    function: Function
    slopes: Function
    is_exact_at_once: bool
    start: jax.Array
    inputs: PyTree
    reverse: bool
    axis: TimeAxis | None

    def values(self, states: jax.Array) -> jax.Array:
        """Returns f_t(v_{t-1}) for all t."""
        return jax.vmap(self.function)(self.previous(states), self.inputs)

    def corrections(self, states: jax.Array, values: jax.Array, damping: float) -> jax.Array:
        """Returns d_t of (1) for all t."""
        slopes = jax.vmap(self.slopes)(self.previous(states), self.inputs)
        slopes = slopes * (1 - damping) if damping else slopes
        return affine_scan(slopes, values - states, self.reverse, self.axis)

    def previous(self, states: jax.Array) -> jax.Array:
        """Returns v_{t-1} for all t."""
        return previous_states(self.start, states, self.reverse, self.axis)


class _Iteration(NamedTuple):
    """The state of Newton's method.

    Fields:
        number: how many iterations have run.
        is_solved: whether (3) held before the last iteration.
        states: c_t for all t.
        values: f_t(c_{t-1}) for all t.
    """

    number: jax.Array
    is_solved: jax.Array
    states: jax.Array
    values: jax.Array


def solve(
    name: str,
    recurrence: Recurrence,
    start: Leaves,
    inputs: PyTree,
    options: Options,
    *,
    is_adjoint: bool,
    is_linear: bool = False,
) -> tuple[Leaves, list[Effort]]:
    """Returns c_t for all t, and the effort for each component that is not affine.

    Args:
        name: the name of the step, for messages.
        recurrence: f, a function of the leaves of c_{t-1} and of the inputs of step t.
        start: the leaves of c_0.
        inputs: the inputs of all steps, at least one.
        options: see `parallel`.
        is_adjoint: whether t counts from the last step, and what has no A_t may run in order.
        is_linear: whether f is known to be affine.
    """
    reverse = is_adjoint
    solved: dict[int, Array] = {}  # c_t for all t
    known: dict[int, Array] = {}  # c_{t-1} for all t, of the same arrays
    efforts: list[Effort] = []
    for component in components(recurrence, start, check.one_step(inputs)):
        component = component._replace(is_affine=is_linear or component.is_affine)
        step = functools.partial(_step_of_component, recurrence, start, component.leaves)
        own_start = [start[j] for j in component.leaves]
        own_inputs = inputs, dict(known)
        if not component.is_recurrent:
            found = jax.vmap(step, in_axes=(None, 0))(own_start, own_inputs)
        elif _runs_in_order(component, own_start, options, is_adjoint=is_adjoint):
            _check_axis(name, options.axis, is_linear=False)
            found = _scan(step, own_start, own_inputs, reverse)
        else:
            space = VectorSpace(component, tuple(map(jax.typeof, own_start)))
            problem = _problem(name, step, space, own_start, own_inputs, options, reverse)
            tolerance = options.tolerance or space.rounding_errors()
            vectors_of_all_steps, effort = _solve(problem, space, tolerance, options)
            efforts += effort
            found = jax.vmap(space.split)(vectors_of_all_steps)
        for j, states in zip(component.leaves, found, strict=True):
            solved[j] = states
            known[j] = previous_states(start[j], states, reverse, options.axis)
    return [solved[j] for j in range(len(start))], efforts


def is_solved_at_once(component: Component, options: Options) -> bool:
    """Returns whether one iteration is exact."""
    has_all_slopes = component.is_elementwise or options.jacobian == "dense"
    return component.is_affine and has_all_slopes


def _step_of_component(
    recurrence: Recurrence,
    start: Leaves,
    positions: tuple[int, ...],
    own: Leaves,
    inputs: tuple[PyTree, dict[int, Array]],
) -> Leaves:
    """Runs one step, and returns the arrays of a component.

    They depend on themselves, and on arrays that are known for all steps. The step gets zeros in
    the place of all other arrays, on which this component does not depend.
    """
    inputs_t, known = inputs
    leaves: dict[int, Array] = {j: jnp.zeros_like(c) for j, c in enumerate(start)}
    leaves |= known
    leaves |= zip(positions, own, strict=True)
    new = recurrence([leaves[j] for j in range(len(start))], inputs_t)
    return [new[j] for j in positions]


def _runs_in_order(
    component: Component, carry: Leaves, options: Options, *, is_adjoint: bool
) -> bool:
    """Returns whether a component has no A_t that `options` allow."""
    if not component.is_differentiable:
        return True
    if not all(map(check.is_inexact, carry)):
        # Random keys and a state machine have no slopes. A counter has, since it is affine.
        is_counter = component.is_affine and component.is_elementwise
        return not (is_counter and jnp.issubdtype(carry[0].dtype, jnp.integer))
    if not is_adjoint or component.is_elementwise:
        return False
    # What is left is an adjoint that mixes units. If it is not linear, because of a rule that reads
    # a norm, say, it has no Jacobian at λ = 0, where Newton's method begins.
    has_matrix = component.is_affine and options.jacobian != "diagonal"
    return not has_matrix or any(map(jnp.iscomplexobj, carry))


def _scan(step: Recurrence, start: Leaves, inputs: PyTree, reverse: bool) -> Leaves:
    """Runs a component in order."""

    def run(carry: Leaves, inputs_t: PyTree) -> tuple[Leaves, Leaves]:
        carry = step(carry, inputs_t)
        return carry, carry

    return jax.lax.scan(run, start, inputs, reverse=reverse)[1]


def _problem(
    name: str,
    step: Recurrence,
    space: VectorSpace,
    start: Leaves,
    inputs: PyTree,
    options: Options,
    reverse: bool,
) -> _Problem:
    """Returns the recurrence of a component, with the kind of slopes that the options ask for."""

    def function(v: jax.Array, inputs_t: PyTree) -> jax.Array:
        return space.join(step(space.split(v), inputs_t))

    jacobian: Callable[[Function, jax.Array, PyTree], jax.Array]
    if space.component.is_elementwise:
        jacobian = vectors.diagonal
    else:
        _check_dense(name, space, options, check.num_steps(inputs))
        is_dense = options.jacobian == "dense"
        jacobian = vectors.matrix if is_dense else vectors.diagonal_of_matrix
    is_exact_at_once = is_solved_at_once(space.component, options)
    _check_axis(name, options.axis, is_exact_at_once)
    return _Problem(
        function=function,
        slopes=functools.partial(jacobian, function),
        is_exact_at_once=is_exact_at_once,
        start=space.join(start),
        inputs=inputs,
        reverse=reverse,
        axis=options.axis,
    )


def _check_axis(name: str, axis: TimeAxis | None, is_linear: bool) -> None:
    """Raises an error if a component that is not linear is divided over devices."""
    if axis is not None:
        got = f"{axis.name!r} for {name}, which is not linear in its carry"
        expected = "None, since only linear steps are solved on several devices"
        check.require(is_linear, "axis_name", got, expected)


def _check_dense(name: str, space: VectorSpace, options: Options, steps: int) -> None:
    """Raises an error unless the options fit a component that is not elementwise."""
    got = f"'diagonal' for {name}, in which a unit of the carry reads others"
    expected = "'dense' or 'quasi_diagonal', or a loop such as jaxrnn.bptt"
    check.require(options.jacobian != "diagonal", "jacobian", got, expected)
    is_real = not jnp.issubdtype(space.dtype, jnp.complexfloating)
    got = f"{options.jacobian!r} for {name}, whose carry is complex"
    check.require(is_real, "jacobian", got, "an elementwise step or a real carry", TypeError)
    size = sum(space.sizes)
    needed = steps * math.prod(space.row_shape) * size**2 * space.dtype.itemsize
    got = (
        f"{options.memory_limit} bytes, and {needed} for the Jacobians of {name}: "
        f"{steps} steps of {math.prod(space.row_shape)} rows, {size} x {size} each"
    )
    fits = options.jacobian != "dense" or needed <= options.memory_limit
    expected = "a larger limit, a shorter chunk, jacobian='quasi_diagonal' or loop=jaxrnn.bptt"
    check.require(fits, "memory_limit", got, expected)


def _solve(
    problem: _Problem, space: VectorSpace, tolerance: float | np.ndarray, options: Options
) -> tuple[jax.Array, list[Effort]]:
    """Returns v_t for all t, and the effort if the problem takes iterations."""
    steps = check.num_steps(problem.inputs)
    zeros = jnp.zeros((steps, *problem.start.shape), problem.start.dtype)
    mesh_axes = jax.typeof(problem.start).manual_axis_type.varying
    guess = tree.to_varying(zeros, mesh_axes)
    if problem.is_exact_at_once:
        states = problem.corrections(guess, problem.values(guess), damping=0.0)
        # A diagonal spreads nothing. A NaN in λ is left as it is.
        can_spread = not (space.component.is_elementwise or problem.reverse or problem.axis)
        return _repair(problem, states) if can_spread else states, []
    unit_axes = tuple(range(1 + space.component.num_row_axes, guess.ndim))

    def is_violated(states: jax.Array, values: jax.Array) -> jax.Array:
        violation = _violation(states, values, unit_axes, problem.reverse)
        return violation > jnp.broadcast_to(
            jnp.asarray(tolerance, violation.dtype), violation.shape
        )

    def goes_on(state: _Iteration) -> jax.Array:
        return (state.number < options.max_iterations) & ~state.is_solved

    def iterate(state: _Iteration) -> _Iteration:
        _, _, states, values = state
        # The iteration after (3) holds removes errors that would add up over many steps.
        is_solved = ~jnp.any(is_violated(states, values))
        corrected = states + problem.corrections(states, values, options.damping)  # (2)
        # A product of many large slopes overflows. The values of this iteration do not.
        finite = jnp.where(jnp.isfinite(corrected), corrected, values)
        finite = jnp.where(jnp.isfinite(finite), finite, 0)
        return _Iteration(state.number + 1, is_solved, finite, problem.values(finite))

    is_solved = tree.to_varying(jnp.bool_(False), mesh_axes)
    begin = _Iteration(jnp.int32(0), is_solved, guess, problem.values(guess))
    number, _, states, values = jax.lax.while_loop(goes_on, iterate, begin)
    first = _first_step(problem, is_violated(states, values))
    residual = jnp.max(_violation(states, values, unit_axes, problem.reverse), initial=0)
    states = _run_in_order(problem, states, first)
    return states, [Effort(number, steps - first, residual)]


def _violation(
    states: jax.Array, values: jax.Array, unit_axes: tuple[int, ...], reverse: bool
) -> jax.Array:
    """Returns the two sides of (3), divided; infinite where that is not a number."""
    # Where both are the same infinity, their difference is NaN and (3) holds.
    difference = jnp.where(states == values, 0, jnp.abs(values - states))
    sizes = jnp.where(jnp.isfinite(values), jnp.abs(values), 0)
    scale = jnp.max(sizes, axis=unit_axes, keepdims=True, initial=0)
    scale = jnp.broadcast_to(jax.lax.cummax(scale, axis=0, reverse=reverse), difference.shape)
    violation = difference / jnp.where(scale == 0, 1, scale)
    return jnp.where(jnp.isnan(violation), jnp.inf, violation)


def _repair(problem: _Problem, states: jax.Array) -> jax.Array:
    """Returns the states, with those of a run in order where they are not finite.

    A product with a matrix spreads NaN and infinity to units that do not read them. The derivative
    stays that of `states`, since JAX cannot differentiate the run in reverse mode.
    """
    is_finite = jnp.isfinite(states)
    first = _first_step(problem, ~is_finite)
    # The run closes over inputs, whose gradients have to be stopped too. Its trace lists them all.
    traced = jaxprs.trace(functools.partial(_run_in_order, problem), states, first)
    arguments = map(jax.lax.stop_gradient, [*traced.constants, states, first])
    (in_order,) = jaxprs.evaluate_jaxpr(traced.jaxpr, arguments)
    return jnp.where(is_finite, states, in_order)


def _first_step(problem: _Problem, marks: jax.Array) -> jax.Array:
    """Returns the number of steps before the first that has a mark."""
    marked = jnp.any(marks, axis=tuple(range(1, marks.ndim)))
    ordered = jnp.flip(marked) if problem.reverse else marked
    return jnp.where(jnp.any(ordered), jnp.argmax(ordered), len(marks))


def _run_in_order(problem: _Problem, states: jax.Array, first: jax.Array) -> jax.Array:
    """Returns the states, with those from step `first` on computed one after another."""
    steps = len(states)

    def position(t: jax.Array) -> jax.Array:
        return steps - 1 - t if problem.reverse else t

    def run_step(
        state: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        t, v, states = state
        inputs_t = jax.tree.map(lambda x: x[position(t)], problem.inputs)
        v = problem.function(v, inputs_t)
        return t + 1, v, states.at[position(t)].set(v)

    is_at_start = first == 0
    last_valid = states[position(jnp.maximum(first, 1) - 1)]  # at the start, any state
    before = jnp.where(is_at_start, problem.start, last_valid)
    begin = first, before, states
    return jax.lax.while_loop(lambda state: state[0] < steps, run_step, begin)[2]
