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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.loops import chunks
from jaxrnn.loops.derived import jaxprs, recurrence, regions
from jaxrnn.loops.derived.jaxprs import Equation
from jaxrnn.loops.derived.linearized import compress, expand
from jaxrnn.loops.derived.recurrence import Recurrence
from jaxrnn.loops.scans import Scan
from jaxrnn.types import Carry, Params, PyTree, Step, StepResult

Values = list[Any]


class ClosedStep(NamedTuple):
    """A step as a function of its arguments alone, which changes all of its carry.

    Fields:
        step: `(params, carry, x) -> (carry, y)`, where params and carry are lists.
        params: everything that is the same at all steps: constants, parameters, and the arrays of
            the carry that the step passes on unchanged.
        carry: the other arrays of the carry.
        whole: rebuilds the original step's carry from this step's carry.
        zero_y: zeros like the output of one step.
        has_custom_vjp: whether a part of the step has a custom rule for reverse mode.
        has_custom_vjp_of_params: whether such a rule may act on values that depend on params alone.
    """

    step: Step
    params: Values
    carry: Values
    whole: Callable[[Values], Carry]
    zero_y: PyTree
    has_custom_vjp: bool
    has_custom_vjp_of_params: bool


class _Step(NamedTuple):
    """A step's jaxpr, and its arguments in the order of the jaxpr's inputs."""

    jaxpr: Any
    parameters: Values  # constants and parameters
    carry: Values
    unchanged: list[bool]  # for each array of the carry
    carry_structure: Any
    y_structure: Any

    @property
    def params(self) -> Values:
        """The arrays that are the same at all steps, in the order of `Regions.parameters`."""
        return [*self.parameters, *compress(self.unchanged, self.carry)]

    @property
    def varying(self) -> Values:
        """The arrays of the carry that change."""
        return compress([not same for same in self.unchanged], self.carry)

    def whole(self, varying: Values) -> Carry:
        """Returns the carry, from its arrays that change."""
        changes = [not same for same in self.unchanged]
        return self.carry_structure.unflatten(expand(changes, varying, self.carry))


def run(step: Step, scan: Scan, params: Params, carry: Carry, xs: PyTree) -> StepResult:
    """Runs a step over time, and differentiates it by (1) to (6); `scan` runs (3) and (5)."""
    traced = _traced(step, params, carry, xs)
    parts = regions.classify(traced.jaxpr, len(traced.parameters), len(traced.carry))
    loop = Recurrence(parts, scan)
    parameters = dict(zip(parts.parameters, traced.params, strict=True))
    env = jaxprs.evaluate_equations(parts.parameter_equations, parameters)
    invariant = [env[v] for v in parts.invariant]
    transposed = [env[v].T for v in loop.matrices]

    def hoisted(*x: Any) -> Values:
        inputs = dict(zip(parts.inputs, x, strict=True))
        at_t = jaxprs.evaluate_equations(parts.hoisted, env | inputs)
        return [at_t[v] for v in parts.stepwise]

    def sunk(stepwise: Values, sunk_inputs: Values) -> PyTree:
        variables = parts.invariant + parts.stepwise + parts.sunk_inputs
        at_t = dict(zip(variables, invariant + stepwise + sunk_inputs, strict=True))
        at_t = jaxprs.evaluate_equations(parts.sunk, at_t)
        return traced.y_structure.unflatten([jaxprs.value_of(at_t, v) for v in parts.outputs])

    def chunk(carry: Values, xs: PyTree) -> tuple[Values, PyTree]:
        steps = check.num_steps(xs)
        stepwise = jax.vmap(hoisted, axis_size=steps)(*jax.tree.leaves(xs))
        # The indices of the steps give the loop its length if it needs no values of the input.
        over_time = stepwise, jnp.arange(steps)
        carry, sunk_inputs = recurrence.run(loop, invariant, transposed, carry, over_time)
        return carry, jax.vmap(sunk, axis_size=steps)(stepwise, sunk_inputs)

    size = check.num_steps(xs) * loop.bytes_per_step
    last, ys = chunks.in_chunks(chunk, traced.varying, xs, size)
    return traced.whole(last), ys


def closed(step: Step, params: Params, carry: Carry, xs: PyTree) -> ClosedStep:
    """Returns the step as a function of its arguments; closed-over values are among its params."""
    traced = _traced(step, params, carry, xs)

    def pure(params: Values, varying: Values, x: PyTree) -> StepResult:
        parameters = params[: len(traced.parameters)]
        changes = [not same for same in traced.unchanged]
        without_varying = expand(traced.unchanged, params[len(parameters) :], [None] * len(changes))
        carry = expand(changes, varying, without_varying)
        outs = jaxprs.evaluate_jaxpr(traced.jaxpr, [*parameters, *carry, *jax.tree.leaves(x)])
        new_carry, ys = outs[: len(carry)], outs[len(carry) :]
        return compress(changes, new_carry), traced.y_structure.unflatten(ys)

    zero_y = [jaxprs.zeros_like(v) for v in traced.jaxpr.outvars[len(traced.carry) :]]
    rules = [eqn for eqn in traced.jaxpr.eqns if jaxprs.has_custom_vjp(eqn)]
    return ClosedStep(
        *(pure, traced.params, traced.varying, traced.whole),
        zero_y=traced.y_structure.unflatten(zero_y),
        has_custom_vjp=bool(rules),
        has_custom_vjp_of_params=bool(rules) and _has_rule_of_params(traced, rules),
    )


def _has_rule_of_params(traced: _Step, rules: list[Equation]) -> bool:
    """Returns whether a custom rule may act on params alone."""
    parts = regions.classify(traced.jaxpr, len(traced.parameters), len(traced.carry))

    def dependence(eqn: Equation) -> int:
        read = (parts.depends[v] for v in jaxprs.reads([eqn]))
        return max(read, default=regions.INVARIANT)

    return any(regions.has_rule_of_parameters(eqn, dependence(eqn)) for eqn in rules)


def _traced(step: Step, params: Params, carry: Carry, xs: PyTree) -> _Step:
    jaxpr, constants, structure = jaxprs.flat_jaxpr(step, params, carry, check.one_step(xs))
    parameters = [*constants, *jax.tree.leaves(params)]
    leaves, carry_structure = jax.tree.flatten(carry)
    unchanged = regions.unchanged(jaxpr, len(parameters), len(leaves))
    _, y_structure = structure.children()
    return _Step(jaxpr, parameters, leaves, unchanged, carry_structure, y_structure)
