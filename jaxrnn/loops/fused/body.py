"""One iteration of a scan as equations, for a kernel that evaluates them."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Atom, Equation, Values, Var
from jaxrnn.loops.derived.linearized import compress
from jaxrnn.types import Carry, PyTree, StepResult


class Arrays(NamedTuple):
    """The arrays that a scan reads.

    Fields:
        constants: the arrays that are the same at all steps, such as the recurrent kernel.
        carry: the leaves of the carry before the first step.
        xs: those leaves of the inputs that the body reads, each `(T, ...)`.
    """

    constants: Values
    carry: Values
    xs: Values


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """One iteration of a scan.

    Fields:
        equations: what a step computes.
        constants, carry, x: the variables of the arrays that a step reads; see `Arrays`.
        new_carry: the carry after the step.
        y: the outputs of the step.
        y_structure: the structure of the outputs.
    """

    equations: list[Equation]
    constants: list[Var]
    carry: list[Var]
    x: list[Var]
    new_carry: list[Atom]
    y: list[Atom]
    y_structure: jax.tree_util.PyTreeDef

    def __call__(self, constants: Values, carry: Values, x: Values) -> tuple[Values, Values]:
        """Runs one step; returns the leaves of the new carry and of the outputs."""
        variables = [*self.constants, *self.carry, *self.x]
        env = dict(zip(variables, [*constants, *carry, *x], strict=True))
        env = jaxprs.evaluate_equations(self.equations, env)
        return jaxprs.values_of(env, self.new_carry), jaxprs.values_of(env, self.y)


def trace(
    step: Callable[[Carry, PyTree], StepResult], carry: Carry, xs: PyTree
) -> tuple[Body, Arrays]:
    """Returns the body of a scan, and the arrays that it reads.

    Arrays that the step closes over become constants. Constants and inputs that nothing depends on
    are left out, so a kernel does not bring them on chip: the transposed recurrent kernel is read
    by the backward pass alone.
    """
    traced = jaxprs.trace(step, carry, check.one_step(xs))
    _, y_structure = traced.structure.children()
    jaxpr = traced.jaxpr
    closed_over = traced.constants
    constants = jaxprs.inputs_of(jaxpr)[: len(closed_over)]
    num_carry = len(jax.tree.leaves(carry))
    carry_in = traced.arguments[:num_carry]
    x = traced.arguments[num_carry:]

    equations = jaxprs.needed_for(jaxpr.outvars, jaxpr.eqns)
    read = {*jaxprs.reads(equations), *jaxprs.variables_of(jaxpr.outvars)}
    is_read_constant = [v in read for v in constants]
    is_read_x = [v in read for v in x]
    body = Body(
        equations,
        compress(is_read_constant, constants),
        carry_in,
        compress(is_read_x, x),
        jaxpr.outvars[:num_carry],
        jaxpr.outvars[num_carry:],
        y_structure,
    )
    arrays = Arrays(
        [jnp.asarray(c) for c in compress(is_read_constant, closed_over)],
        jax.tree.leaves(carry),
        compress(is_read_x, jax.tree.leaves(xs)),
    )
    return body, arrays
