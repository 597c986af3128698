"""The adjoint of a cell, split into coefficients for all steps at once and a loop.

The backward recurrence is linear in λ,

    λ_{t-1} = A_t λ_t                                                                        (1)

so each equation of a cell's `adjoint` either depends on λ, or computes a coefficient of A_t, which
is known for all t before the loop begins. Only the equations that depend on λ stay in the loop.
Where λ is multiplied elementwise more than once, the coefficients are multiplied first,

    (λ ⊙ a) ⊙ b = λ ⊙ (a ⊙ b)                                                                (2)

so that a step reads one array for each product of λ. The split is read from the jaxpr of `adjoint`,
so it works for every cell, also for transformed cells and cells of a user.

For example, the adjoint of `h = tanh(x + h w)` is `(d_h * (1 - h * h)) @ w.T`. 1 - h² and wᵀ do not
depend on λ = d_h, so both are coefficients: 1 - h² for all steps at once, wᵀ once. The loop keeps
one product ⊙ and one matrix product.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Atom, Environment, Equation, Values, Var
from jaxrnn.types import Carry, Cell, Residuals, Weights

Factors = tuple[Var, ...]  # a coefficient is the product of these variables


class Scaling(NamedTuple):
    """An equation λ' = λ ⊙ c of the loop.

    Fields:
        result: λ'.
        base: λ, or a value computed from it.
        factors: the factors of c.
    """

    result: Var
    base: Var
    factors: Factors


class LinearAdjoint(NamedTuple):
    """The two functions of an adjoint that is split in this way.

    Fields:
        coefficients: `(w, residuals) -> coefficients`, for all steps.
        apply: `(w, coefficients_t, λ_t) -> λ_{t-1}` (1).
    """

    coefficients: Callable[[Weights, Residuals], Values]
    apply: Callable[[Weights, Values, Carry], Carry]


def linear_adjoint(cell: Cell, w: Weights, residuals: Residuals, d_carry: Carry) -> LinearAdjoint:
    """Splits the adjoint of a cell.

    Args:
        cell: a Cell with a hand-written backward pass.
        w: its weights, or their shapes and dtypes.
        residuals: the shapes and dtypes of one step's residuals.
        d_carry: λ, or its shapes and dtypes.
    """

    def previous_cotangent(w: Weights, residuals: Residuals, d_carry: Carry) -> Carry:
        return cell.adjoint(w, residuals, d_carry)[0]

    jaxpr, constants, arguments, _ = jaxprs.trace(previous_cotangent, w, residuals, d_carry)
    constant_vars = jaxprs.inputs_of(jaxpr)[: len(constants)]
    sizes = [len(jax.tree.leaves(part)) for part in (w, residuals, d_carry)]
    remaining = iter(arguments)
    w_vars, residual_vars, lambda_vars = (list(itertools.islice(remaining, size)) for size in sizes)

    in_loop = _equations_in_loop(lambda_vars, jaxpr.eqns)
    ahead = [eqn for eqn in jaxpr.eqns if eqn not in in_loop]
    loop_equations = [eqn for eqn in jaxpr.eqns if eqn in in_loop]
    steps = _combine_scalings(lambda_vars, loop_equations, jaxpr.outvars)
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

    def products(env: Environment, wanted: list[Factors]) -> Values:
        variables = [v for factors in wanted for v in factors]
        env = jaxprs.evaluate_equations(jaxprs.needed_for(variables, ahead), env)
        return [functools.reduce(jnp.multiply, (env[v] for v in factors)) for factors in wanted]

    def coefficients(w: Weights, residuals: Residuals) -> Values:
        def at_one_step(*values: jax.Array) -> Values:
            env = environment(w) | dict(zip(residual_vars, values, strict=True))
            return products(env, stacked)

        return jax.vmap(at_one_step)(*jax.tree.leaves(residuals)) if stacked else []

    def apply(w: Weights, coefficients_t: Values, d_carry: Carry) -> Carry:
        values = products(environment(w), shared) + coefficients_t
        by_factors = dict(zip(shared + stacked, values, strict=True))
        env = dict(zip(lambda_vars, jax.tree.leaves(d_carry), strict=True))
        env |= {factors[0]: x for factors, x in by_factors.items() if len(factors) == 1}
        for step in steps:
            if isinstance(step, Scaling):
                env[step.result] = env[step.base] * by_factors[step.factors]  # (2)
            else:
                env = jaxprs.evaluate_equations([step], env)
        leaves = jaxprs.values_of(env, jaxpr.outvars)
        return jax.tree.unflatten(jax.tree.structure(d_carry), leaves)

    return LinearAdjoint(coefficients, apply)


def _equations_in_loop(lambda_vars: Iterable[Var], eqns: list[Equation]) -> set[Equation]:
    """Returns the equations that depend on λ, or cannot run for all steps at once."""
    in_loop: set[Equation] = set()
    dependent = {*lambda_vars}
    for eqn in eqns:
        reads_lambda = not dependent.isdisjoint(jaxprs.reads([eqn]))
        if reads_lambda or jaxprs.is_opaque(eqn) or eqn.effects:
            in_loop.add(eqn)
            dependent.update(eqn.outvars)
    return in_loop


def _combine_scalings(
    lambda_vars: list[Var], eqns: list[Equation], outs: list[Atom]
) -> list[Equation | Scaling]:
    """Returns the steps of the loop in order, with products of coefficients combined by (2)."""
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


def _scaling_operands(eqn: Equation, in_loop: set[Var]) -> tuple[Var, Var] | None:
    """Returns λ and a if the equation is λ ⊙ a, else None."""
    if eqn.primitive.name != "mul":
        return None
    first, second = eqn.invars
    if isinstance(first, Literal) or isinstance(second, Literal):
        return None
    has_same_shape = jaxprs.shape_of(first) == jaxprs.shape_of(second)
    if not has_same_shape or (first in in_loop) == (second in in_loop):
        return None
    return (first, second) if first in in_loop else (second, first)


def _needed_steps(steps: list[Equation | Scaling], outs: list[Atom]) -> list[Equation | Scaling]:
    """Returns the steps that λ_{t-1} needs.

    A scaling reads λ itself and not the scalings before it, so those may be superfluous.
    """
    wanted = {*jaxprs.variables_of(outs)}
    needed: list[Equation | Scaling] = []
    for step in reversed(steps):
        results = [step.result] if isinstance(step, Scaling) else step.outvars
        if not wanted.isdisjoint(results):
            needed.append(step)
            wanted.update([step.base] if isinstance(step, Scaling) else jaxprs.reads([step]))
    return needed[::-1]


def _coefficients_of(
    lambda_vars: list[Var], steps: list[Equation | Scaling], outs: list[Atom]
) -> list[Factors]:
    """Returns the coefficients that the loop reads, each as a product of factors."""
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
