"""The adjoint of a cell, taken apart: its coefficients for all steps at once, then the loop.

The backward recurrence is linear in λ,

    λ_{t-1} = A_t λ_t                                                                        (1)

so an equation of a cell's `adjoint` either depends on λ or computes a coefficient of A_t, which is
known for all t before the loop begins. In the loop remain the equations that depend on λ. Where λ
is multiplied elementwise more than once, the coefficients are multiplied first,

    (λ ⊙ a) ⊙ b = λ ⊙ (a ⊙ b)                                                                (2)

so that a step reads one array for each product of λ. The jaxpr of `adjoint` shows all of this, so
every cell has it, transformed ones and a user's own too.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Atom, Environment, Equation, Var
from jaxrnn.types import Carry, Cell, Residuals, Weights

Factors = tuple[Var, ...]  # a coefficient is the product of their values


class Scaling(NamedTuple):
    """An equation λ' = λ ⊙ c of the loop.

    Fields:
        result: λ'.
        base: λ, or what was made of it.
        factors: c is their product.
    """

    result: Var
    base: Var
    factors: Factors


class LinearAdjoint(NamedTuple):
    """The two functions of an adjoint whose coefficients are computed for all steps at once.

    Fields:
        coefficients: `(w, residuals) -> coefficients`, both of all steps.
        apply: `(w, coefficients_t, λ_t) -> λ_{t-1}` (1).
    """

    coefficients: Callable[[Weights, Residuals], list[Any]]
    apply: Callable[[Weights, list[Any], Carry], Carry]


def linear_adjoint(cell: Cell, w: Weights, residuals: Residuals, d_carry: Carry) -> LinearAdjoint:
    """Takes the adjoint of a cell apart.

    Args:
        cell: with a hand-written backward pass.
        w: its weights, or their shapes and dtypes.
        residuals: shapes and dtypes of one step.
        d_carry: of λ, likewise.
    """

    def previous_cotangent(w: Weights, residuals: Residuals, d_carry: Carry) -> Carry:
        return cell.adjoint(w, residuals, d_carry)[0]

    jaxpr, constants, _ = jaxprs.flat_jaxpr(previous_cotangent, w, residuals, d_carry)
    sizes = [len(jax.tree.leaves(part)) for part in (constants, w, residuals, d_carry)]
    variables = iter([*jaxpr.constvars, *jaxpr.invars])
    groups = [list(itertools.islice(variables, size)) for size in sizes]
    constant_vars, w_vars, residual_vars, lambda_vars = groups

    in_loop = _equations_in_loop(lambda_vars, jaxpr.eqns)
    ahead = [eqn for eqn in jaxpr.eqns if eqn not in in_loop]
    steps = _combine_scalings(lambda_vars, [e for e in jaxpr.eqns if e in in_loop], jaxpr.outvars)
    wanted = _coefficients_of(lambda_vars, steps, jaxpr.outvars)
    same_at_all_steps = {*constant_vars, *w_vars}
    for eqn in ahead:
        if same_at_all_steps.issuperset(jaxprs.reads([eqn])):
            same_at_all_steps.update(eqn.outvars)
    shared = [factors for factors in wanted if same_at_all_steps.issuperset(factors)]
    stacked = [factors for factors in wanted if factors not in shared]

    def environment(w: Weights) -> Environment:
        leaves = [*constants, *jax.tree.leaves(w)]
        return dict(zip([*constant_vars, *w_vars], leaves, strict=True))

    def products(env: Environment, wanted: list[Factors]) -> list[Any]:
        variables = [v for factors in wanted for v in factors]
        env = jaxprs.evaluate_equations(jaxprs.needed_for(variables, ahead), env)
        return [functools.reduce(jnp.multiply, (env[v] for v in factors)) for factors in wanted]

    def coefficients(w: Weights, residuals: Residuals) -> list[Any]:
        def at_one_step(*values: Any) -> list[Any]:
            env = environment(w) | dict(zip(residual_vars, values, strict=True))
            return products(env, stacked)

        return jax.vmap(at_one_step)(*jax.tree.leaves(residuals)) if stacked else []

    def apply(w: Weights, coefficients_t: list[Any], d_carry: Carry) -> Carry:
        values = products(environment(w), shared) + coefficients_t
        by_factors = dict(zip(shared + stacked, values, strict=True))
        env = dict(zip(lambda_vars, jax.tree.leaves(d_carry), strict=True))
        env |= {factors[0]: x for factors, x in by_factors.items() if len(factors) == 1}
        for step in steps:
            if isinstance(step, Scaling):
                env[step.result] = env[step.base] * by_factors[step.factors]  # (2)
            else:
                env = jaxprs.evaluate_equations([step], env)
        leaves = [jaxprs.value_of(env, v) for v in jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(d_carry), leaves)

    return LinearAdjoint(coefficients, apply)


def _equations_in_loop(lambda_vars: Iterable[Var], eqns: list[Equation]) -> set[Equation]:
    """The equations that depend on λ, and those that cannot run for all steps at once."""
    found: set[Any] = set()
    dependent = {*lambda_vars}
    for eqn in eqns:
        if jaxprs.is_opaque(eqn) or eqn.effects or not dependent.isdisjoint(jaxprs.reads([eqn])):
            found.add(eqn)
            dependent.update(eqn.outvars)
    return found


def _combine_scalings(
    lambda_vars: list[Var], eqns: list[Equation], outs: list[Atom]
) -> list[Equation | Scaling]:
    """The steps of the loop in order, products with coefficients combined by (2)."""
    in_loop = {*lambda_vars, *jaxprs.producers(eqns)}
    scalings: dict[Var, Scaling] = {}
    steps: list[Equation | Scaling] = []
    for eqn in eqns:
        operands = _scaling_operands(eqn, in_loop)
        if operands is None:
            steps.append(eqn)
            continue
        base, factor = operands
        before = scalings.get(base, Scaling(base, base, ()))
        (result,) = eqn.outvars
        scalings[result] = Scaling(result, before.base, (*before.factors, factor))
        steps.append(scalings[result])
    return _needed_steps(steps, outs)


def _scaling_operands(eqn: Equation, in_loop: set[Any]) -> tuple[Var, Var] | None:
    """λ and a, in this order, if the equation is λ ⊙ a."""
    if eqn.primitive.name != "mul" or any(map(jaxprs.is_literal, eqn.invars)):
        return None
    first, second = eqn.invars
    if first.aval.shape != second.aval.shape or (first in in_loop) == (second in in_loop):
        return None
    return (first, second) if first in in_loop else (second, first)


def _needed_steps(steps: list[Equation | Scaling], outs: list[Atom]) -> list[Equation | Scaling]:
    """The steps that λ_{t-1} needs."""
    wanted, needed = {*jaxprs.variables_of(outs)}, []
    for step in reversed(steps):
        results = [step.result] if isinstance(step, Scaling) else step.outvars
        if not wanted.isdisjoint(results):
            needed.append(step)
            wanted.update([step.base] if isinstance(step, Scaling) else jaxprs.reads([step]))
    return needed[::-1]


def _coefficients_of(
    lambda_vars: list[Var], steps: list[Equation | Scaling], outs: list[Atom]
) -> list[Factors]:
    """What the loop reads beside λ and its own results, each as a product of factors."""
    in_loop = {*lambda_vars}
    for step in steps:
        in_loop.update([step.result] if isinstance(step, Scaling) else step.outvars)
    factors: list[Factors] = []
    for step in steps:
        if isinstance(step, Scaling):
            factors.append(step.factors)
        else:
            factors += [(v,) for v in jaxprs.reads([step]) if v not in in_loop]
    factors += [(v,) for v in jaxprs.variables_of(outs) if v not in in_loop]
    return jaxprs.unique(factors)
