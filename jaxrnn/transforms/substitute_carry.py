"""Replaces the new carry of a plain step wherever it is used, by evaluating the step's jaxpr.

The adjoint of a step, λ_t, is the cotangent of its new carry: from the next step, and from every
value of this step that is computed from the new carry. A Cell computes its output from its carry,
so a rule on its carry sees all of λ_t. A plain step computes both at once:

    def step(params, carry, x):
        h = jnp.tanh(carry @ params + x)
        return h, 2 * h

Its output reads h inside the step, so a rule on the returned carry alone would miss the loss of
this step. Its jaxpr shows where h is read:

    { lambda ; params carry x. let
        a = dot_general carry params;  b = add a x;  h = tanh b;  y = mul 2.0 h
      in (h, y) }

The equations are evaluated. Then h is replaced by `watch(h)`, and the equations that depend on h,
here that of y, are evaluated once more.
"""

import itertools
from collections.abc import Callable

import jax
from jax.extend.core import Jaxpr
from jax.tree_util import PyTreeDef

from jaxrnn import check
from jaxrnn.loops.derived import jaxprs
from jaxrnn.types import Array, Carry, Params, PyTree, Step, StepResult

REMAT = {"checkpoint", "remat", "remat2"}  # names of `jax.checkpoint` in a jaxpr


def with_watched_carry(
    step: Step, watch: Callable[[Carry], Carry], params: Params, carry: Carry, x: PyTree
) -> StepResult:
    """Runs a step with `watch(new_carry)` in the place of the new carry.

    The output y is also computed from the watched carry.
    """
    jaxpr, values, structure = _flat_jaxpr(step, params, carry, x)
    variables = [*jaxpr.constvars, *jaxpr.invars]
    env: jaxprs.Environment = dict(zip(variables, values, strict=True))
    env = jaxprs.evaluate_equations(jaxpr.eqns, env)
    results = [jaxprs.value_of(env, v) for v in jaxpr.outvars]
    new_carry, _ = jax.tree.unflatten(structure, results)
    new_carry = watch(new_carry)
    # Values that depend on the new carry are computed again, from the watched carry. All others
    # stay as they are, since a custom derivative rule must not run twice.
    computed = jaxprs.producers(jaxpr.eqns)
    # The first outputs are the arrays of the carry. One that no equation computes is a constant or
    # an input of the step, such as an array of the old carry that is handed on: what reads it reads
    # the input, and not the new carry.
    outputs = zip(jaxpr.outvars, jax.tree.leaves(new_carry), strict=False)
    watched = {v: c for v, c in outputs if not jaxprs.is_literal(v) and v in computed}
    changed = {*watched}
    env |= watched
    for eqn in jaxpr.eqns:
        if not changed.isdisjoint(jaxprs.reads([eqn])):
            changed.update(eqn.outvars)
            results = jaxprs.evaluate(eqn, [jaxprs.value_of(env, v) for v in eqn.invars])
            env |= zip(eqn.outvars, results, strict=True)
            # One array of the carry may be computed from another: it stays the watched one.
            env |= watched
    results = [jaxprs.value_of(env, v) for v in jaxpr.outvars]
    _, y = jax.tree.unflatten(structure, results)
    return new_carry, y


def _flat_jaxpr(
    step: Step, params: Params, carry: Carry, x: PyTree
) -> tuple[Jaxpr, list[Array], PyTreeDef]:
    """Returns the step's jaxpr, the values of its variables, and the structure of its result.

    Calls of `jit` are inlined, and so is a `jax.checkpoint` that returns the new carry, since they
    would hide which parts of y are computed from the carry. A custom derivative rule is not
    inlined.
    """
    traced, shapes = jax.make_jaxpr(step, return_shape=True)(params, carry, x)
    carry_shapes, _ = check.require_pair("step", shapes)

    def evaluate(jaxpr: Jaxpr, carry: list[jaxprs.Var], values: list[Array]) -> list[Array]:
        """Returns the outputs of a jaxpr in which the variables `carry` are the new carry."""
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        for eqn in jaxpr.eqns:
            # By identity, which is how the variables of a jaxpr are told apart.
            is_carry = [any(v is c for c in carry) for v in eqn.outvars]
            inputs = [jaxprs.value_of(env, v) for v in eqn.invars]
            if eqn.primitive.name == "jit":
                closed = eqn.params["jaxpr"]
                inner_carry = list(itertools.compress(closed.jaxpr.outvars, is_carry))
                results = evaluate(closed.jaxpr, inner_carry, [*closed.consts, *inputs])
            elif eqn.primitive.name in REMAT and any(is_carry):
                inner = eqn.params["jaxpr"]
                inner_carry = list(itertools.compress(inner.outvars, is_carry))
                results = evaluate(inner, inner_carry, inputs)
            else:
                results = jaxprs.evaluate(eqn, inputs)
            env |= zip(eqn.outvars, results, strict=True)
        return [jaxprs.value_of(env, v) for v in jaxpr.outvars]

    new_carry = traced.jaxpr.outvars[: len(jax.tree.leaves(carry_shapes))]
    leaves = [*traced.consts, *jax.tree.leaves((params, carry, x))]
    # Evaluated while JAX traces it, which gives a jaxpr of the equations that were evaluated.
    flat = jax.make_jaxpr(lambda *leaves: evaluate(traced.jaxpr, new_carry, [*leaves]))(*leaves)
    return flat.jaxpr, [*flat.consts, *leaves], jax.tree.structure(shapes)
