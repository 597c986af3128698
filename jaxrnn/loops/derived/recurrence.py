"""The two loops of a step: (3) forward and (5) backward, and then (6)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxrnn import tree
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.gradient_exits import Exits
from jaxrnn.loops.derived.jaxprs import Environment, Equation, Values, Var
from jaxrnn.loops.derived.linearized import (
    Linearized,
    compress,
    expand,
    linearize,
    separate_sunk_inputs,
)
from jaxrnn.loops.derived.regions import Regions
from jaxrnn.loops.scans import Scan

Sums = Values  # gradients that are summed over the steps


class OverTime(NamedTuple):
    """The inputs of the loop, stacked over time.

    Fields:
        values: the stepwise values.
        indices: the indices of the steps, which give the loop its length if there are no values.
    """

    values: Values
    indices: jax.Array


class Residuals(NamedTuple):
    """The arrays between the two loops. None in the place of an array that no one reads.

    Fields:
        invariant: the values of `Regions.invariant`.
        transposed: the transposes of `Recurrence.matrices`.
        first: the arrays of c_0.
        kept: the kept values of all steps.
        sunk_inputs: the sunk inputs of all steps.
        stepwise: the stepwise values of all steps.
        indices: the indices of the steps.
    """

    invariant: Values
    transposed: Values
    first: Values
    kept: Values
    sunk_inputs: Values
    stepwise: Values
    indices: jax.Array


class Recurrence:
    """A step divided into regions, and one iteration of its loop in each direction.

    Attributes:
        regions: the equations of the step.
        scan: runs the steps of the two loops.
        matrices: the parameters on the right of a product in the loop. The backward pass is faster
            if their transposes are inputs too.
        exits: the values where gradients leave the loop.
    """

    def __init__(self, regions: Regions, scan: Scan) -> None:
        """Finds the exits and the matrices."""
        self.regions = regions
        self.scan = scan
        self.exits = Exits(regions)
        right = (eqn.invars[1] for eqn in regions.recurrent if jaxprs.is_weight_product(eqn))
        # A matrix whose gradient is summed inside the loop is differentiated there, by JAX.
        invariant = {*regions.invariant} - {*self.exits.summed}
        self.matrices = [v for v in jaxprs.unique(jaxprs.variables_of(right)) if v in invariant]

    @functools.cached_property
    def linearized(self) -> Linearized:
        """The differentiated step, which only a gradient needs."""
        return linearize(self.regions, self.exits, self.matrices)

    @property
    def bytes_per_step(self) -> int:
        """The bytes that a step takes in the largest part that runs for all steps at once.

        It is 0 if there is a convolution, so that the sequence runs as one chunk. Inside a loop,
        such as the loop over chunks, XLA's CPU compiler takes up to 30 times as long for the
        gradient of a convolution's kernel.
        """
        regions = self.regions
        exits = self.exits
        eqns = [*regions.hoisted, *exits.equations, *regions.sunk]
        if any(eqn.primitive.name == "conv_general_dilated" for eqn in eqns):
            return 0
        hoisted = [*jaxprs.producers(regions.hoisted)]
        deltas = [v for v in exits.cut if v not in exits.summed]
        # The gradients of sunk values take as much memory again.
        sunk = [*jaxprs.producers(regions.sunk)] * 2
        # A nested loop computes a gradient of each parameter at every step, and keeps more.
        nested = [eqn for eqn in regions.hoisted if jaxprs.is_opaque(eqn)]
        opaque = [*jaxprs.reads(nested), *jaxprs.producers(nested)] * 4
        parts = [hoisted, deltas, regions.sunk_inputs, sunk, opaque]
        return max(sum(map(jaxprs.size_in_bytes, part)) for part in parts)

    def advance(self, invariant: Values, carry: Values, stepwise: Values) -> tuple[Values, Values]:
        """Returns c_t and the sunk inputs (3)."""
        regions = self.regions
        values = invariant + stepwise + carry
        variables = regions.invariant + regions.stepwise + regions.carry_in
        env = dict(zip(variables, values, strict=True))
        env = jaxprs.evaluate_equations(regions.recurrent, env)
        carry = jaxprs.values_of(env, regions.carry_out)
        return carry, jaxprs.values_of(env, regions.sunk_inputs)

    def advance_and_keep(
        self, shared: Environment, carry: Values, stepwise: Values
    ) -> tuple[Values, tuple[Values, Values]]:
        """Returns c_t, and the pair of sunk inputs and kept values."""
        step = self.linearized
        variables = step.inputs.stepwise + step.inputs.carry_in
        env = shared | dict(zip(variables, stepwise + carry, strict=True))
        outs = [*step.outputs.carry_out, *step.outputs.sunk_inputs, *step.kept]
        # An equation with effects, such as a debug print, runs even if nothing reads its results.
        needed = jaxprs.needed_for(outs, step.forward, must_run=_has_effects)
        env = jaxprs.evaluate_equations(needed, env)
        carry = jaxprs.values_of(env, step.outputs.carry_out)
        sunk_inputs = jaxprs.values_of(env, step.outputs.sunk_inputs)
        kept = jaxprs.values_of(env, step.kept)
        return carry, (sunk_inputs, kept)

    def adjoint(
        self, env: Environment, d_carry: Values, d_sunk_inputs: Values
    ) -> tuple[Values, Values]:
        """Returns (∂c_t/∂c_{t-1})ᵀ λ_t and δ_t (5).

        Args:
            env: the shared values, and the values of step t that are kept.
            d_carry: λ_t, for the arrays that have a gradient.
            d_sunk_inputs: the gradients of the sunk inputs that are not part of c_t; None is zero.
        """
        step = self.linearized
        separate = compress(separate_sunk_inputs(self.regions), self.regions.sunk_inputs)
        d_separate = [
            jaxprs.zeros_like(v) if d is None else d
            for v, d in zip(separate, d_sunk_inputs, strict=True)
        ]
        variables = step.inputs.d_carry_out + step.inputs.d_sunk_inputs
        env = env | dict(zip(variables, d_carry + d_separate, strict=True))
        env = jaxprs.evaluate_equations([*step.recomputed, *step.backward], env)
        d_previous = jaxprs.values_of(env, step.outputs.d_carry_in)
        return d_previous, jaxprs.values_of(env, step.outputs.deltas)


def _has_effects(eqn: Equation) -> bool:
    return bool(eqn.effects)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(
    recurrence: Recurrence, invariant: Values, transposed: Values, carry: Values, inputs: OverTime
) -> tuple[Values, Values]:
    """Returns c_T, and the sunk inputs of all steps.

    `transposed` is read by the backward pass alone.
    """

    def forward(carry: Values, inputs_t: OverTime) -> tuple[Values, Values]:
        return recurrence.advance(invariant, carry, inputs_t.values)

    return recurrence.scan(forward, carry, inputs)


def _forward(recurrence: Recurrence, *args: Any) -> tuple[tuple[Values, Values], Residuals]:
    # With symbolic zeros, each argument comes with a mark that tells whether it has a gradient.
    invariant, transposed, first, inputs = jax.tree.map(lambda x: x.value, args)
    step = recurrence.linearized
    shared = step.shared(invariant, transposed)

    def forward(carry: Values, inputs_t: OverTime) -> tuple[Values, tuple[Values, Values]]:
        return recurrence.advance_and_keep(shared, carry, inputs_t.values)

    last, (sunk_inputs, kept) = recurrence.scan(forward, first, inputs)
    residuals = Residuals(
        invariant=invariant,
        transposed=transposed,
        first=_none_unless(step.from_next, first),
        kept=kept,
        sunk_inputs=_none_unless(step.reads_sunk_inputs, sunk_inputs),
        stepwise=_none_unless(step.reads_stepwise, inputs.values),
        indices=inputs.indices,
    )
    return (last, sunk_inputs), residuals


def _backward(
    recurrence: Recurrence, residuals: Residuals, cotangents: tuple[Values, Values]
) -> tuple[Values, Values, Values, OverTime]:
    # The cotangent of an unused output must not become an array of T zeros.
    d_last, d_sunk_inputs = tree.sparse_cotangents(cotangents)
    regions = recurrence.regions
    exits = recurrence.exits
    step = recurrence.linearized
    indices = residuals.indices
    stacks = _stacks(step, residuals)
    shared = step.shared(residuals.invariant, residuals.transposed)
    d_sunk_in_carry, d_sunk_separate = _split_at_carry(regions, d_sunk_inputs)
    is_summed = [v in exits.summed for v in exits.cut]
    is_stacked = [not summed for summed in is_summed]

    def backward(state: tuple[Values, Sums], inputs_t: Any) -> tuple[tuple[Values, Sums], Values]:
        d_carry, sums = state
        _, stacks_t, d_sunk_in_carry_t, d_sunk_separate_t = inputs_t
        env = shared | dict(zip(stacks, stacks_t, strict=True))
        d_carry = tree.add_sparse(d_carry, d_sunk_in_carry_t)
        d_carry, deltas = recurrence.adjoint(env, d_carry, d_sunk_separate_t)
        sums = tree.add_sparse(sums, compress(is_summed, deltas))
        return (d_carry, sums), compress(is_stacked, deltas)

    has_out = [jaxprs.has_gradient(v) for v in regions.carry_out]
    zeros = [jaxprs.zeros_like(v) for v in compress(has_out, regions.carry_out)]
    d_carry = tree.add_sparse(zeros, compress(has_out, d_last))
    sums = [jaxprs.zeros_like(v) for v in exits.summed]
    # The indices of the steps give the loop its length if there is nothing else.
    over_time = indices, list(stacks.values()), d_sunk_in_carry, d_sunk_separate
    state = d_carry, sums
    (d_carry, sums), deltas = recurrence.scan(backward, state, over_time, reverse=True)
    stacked = dict(zip(compress(is_stacked, exits.cut), deltas, strict=True))
    delta = stacked | dict(zip(exits.summed, sums, strict=True))
    d_invariant, d_stepwise = _gradients(
        recurrence, residuals.invariant, shared, stacks, delta, len(indices)
    )
    has_in = [jaxprs.has_gradient(v) for v in regions.carry_in]
    d_first = expand(has_in, d_carry, [None] * len(has_in))
    # A matrix gets its gradient as an invariant value, so its transpose gets none.
    d_transposed: Values = [None] * len(residuals.transposed)
    d_inputs = OverTime(d_stepwise, tree.zero_cotangents(indices))
    return d_invariant, d_transposed, d_first, d_inputs


run.defvjp(_forward, _backward, symbolic_zeros=True)


def _split_at_carry(regions: Regions, d_sunk_inputs: Values) -> tuple[Values, Values]:
    """Splits the gradients of the sunk inputs into those of values in c_t and those of the others.

    The first have one element for each array of c_t that has a gradient, None for a zero. They are
    added to λ_t. A value that appears twice in c_t has its gradient in the first place alone.
    """
    unused: Environment = dict(zip(regions.sunk_inputs, d_sunk_inputs, strict=True))
    in_carry: Values = []
    for v in regions.carry_out:
        if jaxprs.has_gradient(v):
            in_carry.append(None if isinstance(v, Literal) else unused.pop(v, None))
    return in_carry, compress(separate_sunk_inputs(regions), d_sunk_inputs)


def _none_unless(chosen: list[bool], values: Values) -> Values:
    """Returns the values with None in the place of those that are not chosen."""
    return [x if is_chosen else None for is_chosen, x in zip(chosen, values, strict=True)]


def _stacks(step: Linearized, residuals: Residuals) -> Environment:
    """Returns all kept values of all steps, by their variables."""
    stacks: Environment = dict(zip(step.kept, residuals.kept, strict=True))
    stacks |= _present(step.outputs.sunk_inputs, residuals.sunk_inputs)
    carries = zip(step.inputs.carry_in, step.outputs.carry_out, residuals.first, strict=True)
    for before, after, first in carries:
        if first is not None:
            stacks[before] = tree.shift_right(first, stacks[after])
    return stacks | _present(step.inputs.stepwise, residuals.stepwise)


def _present(variables: list[Var], values: Values) -> Environment:
    return {v: x for v, x in zip(variables, values, strict=True) if x is not None}


def _gradients(
    recurrence: Recurrence,
    invariant: Values,
    shared: Environment,
    stacks: Environment,
    delta: Environment,
    steps: int,
) -> tuple[Values, Values]:
    """Returns the gradients of parameters and inputs (6)."""
    regions = recurrence.regions
    exits = recurrence.exits
    step = recurrence.linearized

    def constants_at(stacks_t: Values) -> Values:
        env = shared | dict(zip(stacks, stacks_t, strict=True))
        env = jaxprs.evaluate_equations(step.recomputed_for_gradients, env)
        return jaxprs.values_of(env, step.outputs.for_gradients)

    needed: Values = []
    if exits.needed_constants:
        needed = jax.vmap(constants_at, axis_size=steps)(list(stacks.values()))

    def or_zeros(env: Environment, variables: list[Var]) -> Values:
        """Returns the values of variables, with zeros for those that the gradients do not read.

        The zeros only have the right shape and dtype.
        """
        return [env[v] if v in env else _zeros_over_time(v, steps) for v in variables]

    needed_constants = dict(zip(exits.needed_constants, needed, strict=True))
    constants = or_zeros(needed_constants, exits.constants)
    stepwise_pairs = zip(regions.stepwise, step.inputs.stepwise, strict=True)
    kept_stepwise = {v: stacks[kept] for v, kept in stepwise_pairs if kept in stacks}
    stepwise = or_zeros(kept_stepwise, regions.stepwise)
    deltas = [delta[v] for v in exits.computed]
    d_invariant, d_stepwise = exits.gradients(steps, invariant, stepwise, constants, deltas)
    # The gradients of `summed` and `direct` come from the loop.
    d_invariant = [
        delta[v] if v in exits.summed else d
        for v, d in zip(regions.invariant, d_invariant, strict=True)
    ]
    d_stepwise = [
        delta[v] if v in exits.direct else d
        for v, d in zip(regions.stepwise, d_stepwise, strict=True)
    ]
    return d_invariant, d_stepwise


def _zeros_over_time(v: Var, steps: int) -> jax.Array | None:
    """Returns a stack of zeros, or None if the variable has no gradient."""
    if not jaxprs.has_gradient(v):
        return None
    return jnp.broadcast_to(jaxprs.zeros_like(v)[None], (steps, *jaxprs.shape_of(v)))
