"""Backpropagation through time for a step given only as a function: its jaxpr shows its parts.

With c_t the carry, x_t the input, y_t the output and F the values up to which parameters and inputs
act only linearly, a step is divided into

    w        = what depends on parameters alone, computed once                               (1)
    z_t      = what depends on x_t and w, computed for all steps before the loop             (2)
    c_t, v_t = advance(w, c_{t-1}, z_t), in order; (4) reads v_t                             (3)
    y_t      = what only outputs need, computed of v_t for all steps after the loop          (4)
    λ_{t-1}  = (∂c_t/∂c_{t-1})ᵀ λ_t, in order,    δ_t = ∂L/∂F_t                              (5)
    ∂L/∂w, z = (∂F/∂(w, z))ᵀ δ, for all steps at once: each matrix's is one product          (6)

An array of the carry that a step hands on as it is, such as an encoder's outputs beside the state
of an attention decoder, is the same at all steps: it is one of the parameters.

An example, a tanh cell with a readout, `h = tanh(x @ u + h @ w + b); y = h @ v`:

    { lambda ; b u v w h x. let
        i = dot_general x u           before the loop (2), for all steps at once
        j = dot_general h w           in the loop (3)
        k = add i j                   in the loop
        l = broadcast_in_dim b        in the loop: before it, it would only take more memory
        m = add k l                   in the loop; m is F, since tanh is not linear: δ_t = ∂L/∂m_t
        n = tanh m                    in the loop; n is c_t, and the only value that is kept
        o = dot_general n v           after the loop (4): one product for all steps
      in (n, o) }

    backward    λ_{t-1} = δ_t wᵀ,    δ_t = (1 - n²) ⊙ (λ_t + what (4) sends back)            (5)
    gradients   ∂L/∂w = Σ h_{t-1}ᵀ δ_t,    ∂L/∂b = Σ δ_t,    ∂L/∂i_t = δ_t                   (6)

One file a question:

    jaxprs      What is in a jaxpr, and how is some of it run?
    regions     When does each equation run, (1) to (4)?
    exits       Where do gradients of parameters and inputs leave the loop; how do they follow (6)?
    linearized  What are one step forward and one step backward, and what is kept between them?
    recurrence  How do they become two loops, (3) and (5), with a gradient of their own?
    graph       Which values separate one part of a graph from another at the least cost? (Three of
                the questions above are this one: v_t, F, and what is kept are smallest cuts.)

What is kept is the least, by its bytes, out of which the backward pass can be made by cheap
equations; products and functions such as tanh are never run again.

Sources: for (5) and (6), see `jaxrnn.bptt`; for the choice of what is kept, H. He, S. Yu,
"Transcending runtime-memory tradeoffs in checkpointing by being fusion aware", MLSys 2023.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.loops import backend, chunks
from jaxrnn.loops.derived import jaxprs, recurrence, regions
from jaxrnn.loops.derived.linearized import where
from jaxrnn.loops.derived.recurrence import Recurrence
from jaxrnn.types import Carry, Params, PyTree, Step, StepResult

Values = list[Any]


class ClosedStep(NamedTuple):
    """A step as a function of its arguments alone, that changes all of its carry.

    Fields:
        step: `(params, carry, x) -> (carry, y)`, of lists.
        params: all that is the same at every step: constants, parameters, and the arrays of the
            carry that the step hands on as they are.
        carry: the others.
        whole: rebuilds the original step's carry from this step's carry.
    """

    step: Step
    params: Values
    carry: Values
    whole: Callable[[Values], Carry]


class _Step(NamedTuple):
    """A step's jaxpr, and its arguments in the order of the jaxpr's inputs."""

    jaxpr: Any
    own: Values  # constants and parameters
    carry: Values
    unchanged: list[bool]  # of each array of the carry
    carry_form: Any
    y_form: Any

    @property
    def params(self) -> Values:
        """What is the same at every step, as `regions.Regions.parameters` has it."""
        return [*self.own, *where(self.unchanged, self.carry)]

    @property
    def varying(self) -> Values:
        """The carry that changes."""
        return where([not same for same in self.unchanged], self.carry)

    def whole(self, varying: Values) -> Carry:
        """The carry, from what of it changes."""
        left = iter(varying)
        pairs = zip(self.unchanged, self.carry, strict=True)
        return self.carry_form.unflatten([c if same else next(left) for same, c in pairs])


def run(step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
    """Run a step over time, and differentiate it by (1) to (6)."""
    traced = _traced(step, params, carry, xs)
    parts = regions.classify(traced.jaxpr, len(traced.own), len(traced.carry))
    loop = Recurrence(parts, backend.settings().unroll)
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
        return traced.y_form.unflatten([jaxprs.value_of(at_t, v) for v in parts.outputs])

    def chunk(carry: Values, xs: PyTree) -> tuple[Values, PyTree]:
        steps = check.num_steps(xs)
        stepwise = jax.vmap(hoisted, axis_size=steps)(*jax.tree.leaves(xs))
        # The numbers of the steps make a sequence of them where nothing of the input is needed.
        over_time = stepwise, jnp.arange(steps)
        carry, sunk_inputs = recurrence.run(loop, invariant, transposed, carry, over_time)
        return carry, jax.vmap(sunk, axis_size=steps)(stepwise, sunk_inputs)

    size = check.num_steps(xs) * loop.bytes_beside
    last, ys = chunks.in_chunks(chunk, traced.varying, xs, size)
    return traced.whole(last), ys


def closed(step: Step, params: Params, carry: Carry, xs: PyTree) -> ClosedStep:
    """The step as a function of its arguments alone; what it closed over is among its params."""
    traced = _traced(step, params, carry, xs)

    def pure(params: Values, varying: Values, x: PyTree) -> StepResult:
        own, kept = params[: len(traced.own)], iter(params[len(traced.own) :])
        left = iter(varying)
        carry = [next(kept if same else left) for same in traced.unchanged]
        outs = jaxprs.evaluate_jaxpr(traced.jaxpr, [*own, *carry, *jax.tree.leaves(x)])
        carry, ys = outs[: len(carry)], outs[len(carry) :]
        changed = where([not same for same in traced.unchanged], carry)
        return changed, traced.y_form.unflatten(ys)

    return ClosedStep(pure, traced.params, traced.varying, traced.whole)


def _traced(step: Step, params: Params, carry: Carry, xs: PyTree) -> _Step:
    jaxpr, constants, form = jaxprs.flat_jaxpr(step, params, carry, check.one_step(xs))
    own = [*constants, *jax.tree.leaves(params)]
    leaves, carry_form = jax.tree.flatten(carry)
    unchanged = regions.unchanged(jaxpr, len(own), len(leaves))
    return _Step(jaxpr, own, leaves, unchanged, carry_form, form.children()[1])
