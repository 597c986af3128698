"""The influence of one parameter on the carry, and the sum over past steps that it is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.types import Array, Carry, Params, PyTree, Step


class ParameterInfluence(NamedTuple):
    """The derivative of the carry with respect to one number among the parameters.

    Fields:
        total: ∂c_t/∂w, a tree like the carry, each leaf `(T, *batch, ...)`.
        terms: the terms of its unrolled sum, each leaf `(T, T, *batch, ...)`; `terms[t, i]` is what
            the use of w at step i adds at step t, and zero for i > t.
    """

    total: Carry
    terms: Carry


def parameter_influence(
    step: Step, params: Params, carry: Carry, xs: PyTree, *, name: str, index: tuple[int, ...] = ()
) -> ParameterInfluence:
    """Returns ∂c_t/∂w for one parameter w at every step, and the sum that it is.

        ∂c_t/∂w = ∂f_t/∂w + (∂f_t/∂c_{t-1}) ∂c_{t-1}/∂w                                        (1)
                = Σ_{i≤t} ( Π_{j=i+1..t} ∂f_j/∂c_{j-1} ) ∂f_i/∂w                               (2)

    (1) is the textbook's forward recurrence, which `jaxrnn.online.rtrl` runs for all parameters.
    The product in (2) explodes or vanishes with t - i, which is what the terms show.

    Args:
        step: a Cell or a plain Step.
        params: its parameters.
        carry: the carry before the first step.
        xs: the inputs, `(T, *batch, ...)`.
        name: the name of a real floating-point leaf of the parameters, its keys joined with dots,
            such as "w_h".
        index: the position of w in the leaf, such as `(2, 3)`.

    Returns:
        A `ParameterInfluence`. Leaves of the carry without a gradient are zero.

    Raises:
        TypeError, ValueError: if there is no such parameter, or an argument does not fit.

    Time: T forward derivatives of each step. Memory: T² carries.
    """
    params, carry = tree.checked_arguments(step, params, carry, xs)
    direction = _unit_direction(params, name, index)
    inexact, others = tree.split_inexact(carry)

    def advance(inexact: Carry, others: Carry, params: Params, x: PyTree) -> tuple[Carry, Carry]:
        new, _ = step(params, tree.merge_inexact(inexact, others), x)
        return tree.split_inexact(new)

    def one_step(
        state: tuple[Carry, Carry, Carry], inputs: tuple[PyTree, jax.Array]
    ) -> tuple[tuple[Carry, Carry, Carry], Carry]:
        inexact, others, terms = state
        x, t = inputs

        def new_carry(inexact: Carry, params: Params) -> Carry:
            return advance(inexact, others, params, x)[0]

        def of_carry(d_carry: Carry) -> Carry:
            """Returns (∂f_t/∂c_{t-1}) d."""
            _, d_new = jax.jvp(lambda inexact: new_carry(inexact, params), (inexact,), (d_carry,))
            return d_new

        _, of_params = jax.jvp(lambda params: new_carry(inexact, params), (params,), (direction,))
        terms = jax.vmap(of_carry)(terms)  # one more factor of the product in (2)
        terms = jax.tree.map(lambda a, d: a.at[t].set(d), terms, of_params)
        new_inexact, new_others = advance(inexact, others, params, x)
        return (new_inexact, new_others, terms), terms

    steps = check.num_steps(xs)
    # One term at least, since none cannot be indexed.
    zeros = jax.tree.map(lambda c: jnp.zeros((max(steps, 1), *c.shape), c.dtype), inexact)
    _, terms = jax.lax.scan(one_step, (inexact, others, zeros), (xs, jnp.arange(steps)))
    terms = jax.tree.map(lambda a: a[:, :steps], terms)
    missing = jax.tree.map(lambda c: jnp.zeros((steps, steps, *jnp.shape(c))), others)
    terms = tree.merge_inexact(terms, missing)
    return ParameterInfluence(jax.tree.map(lambda a: jnp.sum(a, axis=1), terms), terms)


def _unit_direction(params: Params, name: str, index: tuple[int, ...]) -> Params:
    """Returns zeros like the parameters, with a one at one place."""
    leaves = tree.leaves_by_name(params)
    check.require(name in leaves, "name", repr(name), f"one of {sorted(leaves)}")
    leaf = leaves[name]
    is_real = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    check.require_type(is_real, f"params {name}", leaf, "a real floating-point array")
    is_index = isinstance(index, tuple) and len(index) == jnp.ndim(leaf)
    fits = is_index and all(0 <= i < n for i, n in zip(index, jnp.shape(leaf), strict=True))
    check.require(fits, "index", index, f"a position in {name}, {check.describe(leaf)}")

    def one(path: tuple[Any, ...], x: Array) -> jax.Array:
        zeros = jnp.zeros_like(x)
        is_leaf = jax.tree_util.keystr(path, simple=True, separator=".") == name
        return zeros.at[index].set(1) if is_leaf else zeros

    return jax.tree_util.tree_map_with_path(one, params)
