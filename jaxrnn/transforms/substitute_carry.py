"""Replaces the new carry of a plain step wherever it is used, by evaluating the step's jaxpr."""

from collections.abc import Callable
from typing import Any

import jax

from jaxrnn import check
from jaxrnn.loops.derived import jaxprs
from jaxrnn.types import Carry, Params, PyTree, Step, StepResult

REMAT = {"checkpoint", "remat", "remat2"}  # names of `jax.checkpoint` in a jaxpr


def with_watched_carry(
    step: Step, watch: Callable[[Carry], Carry], params: Params, carry: Carry, x: PyTree
) -> StepResult:
    """Runs a step with `watch(new_carry)` in the place of the new carry.

    The output y is also computed from the watched carry.
    """
    jaxpr, values, structure = _flat(step, params, carry, x)
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
    env = jaxprs.evaluate_equations(jaxpr.eqns, env)
    new_carry, _ = structure.unflatten([jaxprs.value_of(env, v) for v in jaxpr.outvars])
    new_carry = watch(new_carry)
    # Values that depend on the new carry are computed again, from the watched carry. All others
    # stay as they are, since a custom derivative rule must not run twice.
    computed = jaxprs.producers(jaxpr.eqns)
    outputs = zip(jaxpr.outvars, jax.tree.leaves(new_carry), strict=False)
    watched = {v: c for v, c in outputs if not jaxprs.is_literal(v) and v in computed}
    changed = {*watched}
    env |= watched
    for eqn in jaxpr.eqns:
        if not changed.isdisjoint(jaxprs.reads([eqn])):
            changed.update(eqn.outvars)
            results = jaxprs.evaluate(eqn, [jaxprs.value_of(env, v) for v in eqn.invars])
            env |= zip(eqn.outvars, results, strict=True)
            env |= watched
    _, y = structure.unflatten([jaxprs.value_of(env, v) for v in jaxpr.outvars])
    return new_carry, y


def _flat(step: Step, params: Params, carry: Carry, x: PyTree) -> tuple[Any, list[Any], Any]:
    """Returns the step's jaxpr, the values of its variables, and the structure of its result.

    Calls of `jit` are inlined, and so is a `jax.checkpoint` that returns the new carry, since they
    would hide which parts of y are computed from the carry. A custom derivative rule is not
    inlined.
    """
    traced, shapes = jax.make_jaxpr(step, return_shape=True)(params, carry, x)
    carries = len(jax.tree.leaves(check.require_pair("step", shapes)[0]))

    def evaluate(jaxpr: Any, carry: list[Any], values: list[Any]) -> list[Any]:
        """Returns the outputs of a jaxpr in which the variables `carry` are the new carry."""
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        for eqn in jaxpr.eqns:
            of_carry = [any(v is c for c in carry) for v in eqn.outvars]
            inputs = [jaxprs.value_of(env, v) for v in eqn.invars]
            if eqn.primitive.name == "jit" or (eqn.primitive.name in REMAT and any(of_carry)):
                inner, consts = eqn.params["jaxpr"], []
                if eqn.primitive.name == "jit":
                    inner, consts = inner.jaxpr, inner.consts
                inner_carry = [v for v, c in zip(inner.outvars, of_carry, strict=True) if c]
                results = evaluate(inner, inner_carry, [*consts, *inputs])
            else:
                results = jaxprs.evaluate(eqn, inputs)
            env |= zip(eqn.outvars, results, strict=True)
        return [jaxprs.value_of(env, v) for v in jaxpr.outvars]

    new_carry = traced.jaxpr.outvars[:carries]
    leaves = [*traced.consts, *jax.tree.leaves((params, carry, x))]
    flat = jax.make_jaxpr(lambda *leaves: evaluate(traced.jaxpr, new_carry, [*leaves]))(*leaves)
    return flat.jaxpr, [*flat.consts, *leaves], jax.tree.structure(shapes)
