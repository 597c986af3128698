"""Backpropagation through time for a plain step, derived from the step's jaxpr.

Let c_t be the carry, x_t the input, y_t the output, and F the values up to which parameters and
inputs act only linearly. A step is divided into

    w        = the values that depend on parameters alone, computed once                     (1)
    z_t      = the values that depend on x_t and w, for all steps before the loop            (2)
    c_t, v_t = advance(w, c_{t-1}, z_t), in order; (4) reads v_t                             (3)
    y_t      = the values for outputs only, from v_t, for all steps after the loop           (4)
    λ_{t-1}  = (∂c_t/∂c_{t-1})ᵀ λ_t, in order,    δ_t = ∂L/∂F_t                              (5)
    ∂L/∂w, z = (∂F/∂(w, z))ᵀ δ, for all steps at once; one product for each matrix           (6)

An array of the carry that a step passes on unchanged is the same at all steps, so it is treated as
a parameter. An example are an encoder's outputs in the carry of an attention decoder.

As an example, take a tanh cell with a readout, `h = tanh(x @ u + h @ w + b); y = h @ v`:

    { lambda ; b u v w h x. let
        i = dot_general x u           before the loop (2), for all steps at once
        j = dot_general h w           in the loop (3)
        k = add i j                   in the loop
        l = broadcast_in_dim b        in the loop; before it, it would only take more memory
        m = add k l                   in the loop; m is F, since tanh is not linear: δ_t = ∂L/∂m_t
        n = tanh m                    in the loop; n is c_t, and the only value that is kept
        o = dot_general n v           after the loop (4), one product for all steps
      in (n, o) }

    backward    λ_{t-1} = δ_t wᵀ,    δ_t = (1 - n²) ⊙ (λ_t + the gradient of n_t from (4))   (5)
    gradients   ∂L/∂w = Σ h_{t-1}ᵀ δ_t,    ∂L/∂b = Σ δ_t,    ∂L/∂i_t = δ_t                   (6)

Each file answers one question:

    jaxprs          Which equations does a jaxpr have, and how do some of them run?
    regions         When does each equation run, (1) to (4)?
    gradient_exits  Where do the gradients of parameters and inputs leave the loop, and what is (6)?
    linearized      What is one step forward and one step backward, and what is kept between them?
    recurrence      How do these become the two loops (3) and (5), with a hand-written gradient?
    min_cut         Which values separate one part of a graph from another at the least cost? v_t,
                    F, and the kept values are all such smallest cuts.

The kept values are the smallest set, in bytes, from which cheap equations can recompute what the
backward pass needs. Products, and functions such as tanh, never run again.

Sources: for (5) and (6), see `jaxrnn.bptt`; for the choice of kept values, H. He, S. Yu,
"Transcending runtime-memory tradeoffs in checkpointing by being fusion aware", MLSys 2023.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.loops import chunks
from jaxrnn.loops.derived import jaxprs, recurrence, regions
from jaxrnn.loops.derived.jaxprs import Equation, Jaxpr, Values
from jaxrnn.loops.derived.linearized import compress, expand
from jaxrnn.loops.derived.recurrence import Recurrence
from jaxrnn.loops.scans import Scan
from jaxrnn.types import Carry, Params, PyTree, Step, StepResult


class ClosedStep(NamedTuple):
    """A step as a function of its arguments alone, which changes all of its carry.

    Fields:
        step: `(params, carry, x) -> (carry, y)`, where params and carry are lists.
        params: everything that is the same at all steps: constants, parameters, and the arrays of
            the carry that the step passes on unchanged.
        carry: the other arrays of the carry.
        full_carry: rebuilds the original step's carry from this step's carry.
        zero_y: zeros like the output of one step.
        has_custom_vjp: whether a part of the step has a custom rule for reverse mode.
        has_custom_vjp_of_params: whether such a rule may act on values that depend on params alone.
    """

    step: Step
    params: Values
    carry: Values
    full_carry: Callable[[Values], Carry]
    zero_y: PyTree
    has_custom_vjp: bool
    has_custom_vjp_of_params: bool


class _TracedStep(NamedTuple):
    """A step's jaxpr, and its arguments in the order of the jaxpr's inputs.

    Fields:
        jaxpr: its equations.
        parameters: the arrays over which it closes, and those of its params.
        carry: the arrays of its carry.
        changes: for each array of the carry, whether the step changes it.
        carry_structure: the tree structure of the carry.
        y_structure: the tree structure of an output.
    """

    jaxpr: Jaxpr
    parameters: Values
    carry: Values
    changes: list[bool]
    carry_structure: jax.tree_util.PyTreeDef
    y_structure: jax.tree_util.PyTreeDef

    @property
    def params(self) -> Values:
        """The arrays that are the same at all steps, in the order of `Regions.parameters`."""
        unchanged = [not changes for changes in self.changes]
        return [*self.parameters, *compress(unchanged, self.carry)]

    @property
    def varying(self) -> Values:
        """The arrays of the carry that change."""
        return compress(self.changes, self.carry)

    def full_carry(self, varying: Values) -> Carry:
        """Returns the carry, from its arrays that change."""
        return self.carry_structure.unflatten(expand(self.changes, varying, self.carry))


def run(step: Step, scan: Scan, params: Params, carry: Carry, xs: PyTree) -> StepResult:
    """Runs a step over time, and differentiates it by (1) to (6); `scan` runs (3) and (5)."""
    traced = _trace(step, params, carry, xs)
    parts = regions.classify(traced.jaxpr, len(traced.parameters), len(traced.carry))
    loop = Recurrence(parts, scan)
    parameters = dict(zip(parts.parameters, traced.params, strict=True))
    env = jaxprs.evaluate_equations(parts.parameter_equations, parameters)  # (1)
    invariant = jaxprs.values_of(env, parts.invariant)
    # Computed here, since inside the backward loop they would be transposed at every step.
    transposed = [env[v].T for v in loop.matrices]

    def run_hoisted(*x: jax.Array) -> Values:
        """Returns z_t of one step (2)."""
        inputs = dict(zip(parts.inputs, x, strict=True))
        env_t = jaxprs.evaluate_equations(parts.hoisted, env | inputs)
        return jaxprs.values_of(env_t, parts.stepwise)

    def run_sunk(stepwise: Values, sunk_inputs: Values) -> PyTree:
        """Returns y_t of one step (4)."""
        variables = parts.invariant + parts.stepwise + parts.sunk_inputs
        env_t = dict(zip(variables, invariant + stepwise + sunk_inputs, strict=True))
        env_t = jaxprs.evaluate_equations(parts.sunk, env_t)
        return traced.y_structure.unflatten(jaxprs.values_of(env_t, parts.outputs))

    def run_chunk(carry: Values, xs: PyTree) -> tuple[Values, PyTree]:
        steps = check.num_steps(xs)
        stepwise = jax.vmap(run_hoisted, axis_size=steps)(*jax.tree.leaves(xs))
        # The indices of the steps give the loop its length if it needs no values of the input.
        over_time = recurrence.OverTime(stepwise, jnp.arange(steps))
        carry, sunk_inputs = recurrence.run(loop, invariant, transposed, carry, over_time)
        return carry, jax.vmap(run_sunk, axis_size=steps)(stepwise, sunk_inputs)

    size = check.num_steps(xs) * loop.bytes_per_step
    last, ys = chunks.in_chunks(run_chunk, traced.varying, xs, size)
    return traced.full_carry(last), ys


def closed(step: Step, params: Params, carry: Carry, xs: PyTree) -> ClosedStep:
    """Returns the step as a function of its arguments; closed-over values are among its params."""
    traced = _trace(step, params, carry, xs)
    changes = traced.changes
    num_parameters = len(traced.parameters)
    num_carries = len(traced.carry)

    def closed_step(params: Values, varying: Values, x: PyTree) -> StepResult:
        # The inverse of `params` and `varying` of the traced step: all arrays in their old order.
        parameters = params[:num_parameters]
        unchanged = iter(params[num_parameters:])
        others = [None if is_changed else next(unchanged) for is_changed in changes]
        carry = expand(changes, varying, others)
        outs = jaxprs.evaluate_jaxpr(traced.jaxpr, [*parameters, *carry, *jax.tree.leaves(x)])
        new_carry = compress(changes, outs[:num_carries])
        return new_carry, traced.y_structure.unflatten(outs[num_carries:])

    zero_y = [jaxprs.zeros_like(v) for v in traced.jaxpr.outvars[num_carries:]]
    rules = [eqn for eqn in traced.jaxpr.eqns if jaxprs.has_custom_vjp(eqn)]
    return ClosedStep(
        step=closed_step,
        params=traced.params,
        carry=traced.varying,
        full_carry=traced.full_carry,
        zero_y=traced.y_structure.unflatten(zero_y),
        has_custom_vjp=bool(rules),
        has_custom_vjp_of_params=bool(rules) and _has_rule_of_params(traced, rules),
    )


def _has_rule_of_params(traced: _TracedStep, rules: list[Equation]) -> bool:
    """Returns whether a custom rule may act on params alone."""
    parts = regions.classify(traced.jaxpr, len(traced.parameters), len(traced.carry))

    def dependence(eqn: Equation) -> int:
        read = (parts.depends[v] for v in jaxprs.reads([eqn]))
        return max(read, default=regions.INVARIANT)

    return any(regions.has_rule_of_parameters(eqn, dependence(eqn)) for eqn in rules)


def _trace(step: Step, params: Params, carry: Carry, xs: PyTree) -> _TracedStep:
    traced = jaxprs.trace(step, params, carry, check.one_step(xs))
    parameters = [*traced.constants, *jax.tree.leaves(params)]
    leaves, carry_structure = jax.tree.flatten(carry)
    unchanged = regions.unchanged(traced.jaxpr, len(parameters), len(leaves))
    changes = [not is_unchanged for is_unchanged in unchanged]
    _, y_structure = traced.structure.children()  # of the carry, and of y
    return _TracedStep(traced.jaxpr, parameters, leaves, changes, carry_structure, y_structure)
