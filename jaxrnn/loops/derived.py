"""The adjoint and the gather of a step that has none of its own, derived by JAX.

The two phases stay what they are by hand: in order of time runs only the transposed Jacobian in the
carry; then the transposed Jacobian of all steps at once gives every other gradient, each weight's
as one product over time and batch. Both linearise the step anew from c_{t-1} and z_t, so that
nothing but the carries is remembered.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxrnn import check, tree
from jaxrnn.types import Carry, Params, PyTree, Step


class Recurrence(NamedTuple):
    """What runs over time: of a Cell's functions those that a loop's recurrence uses."""

    advance: Callable[..., tuple[Carry, PyTree]]
    adjoint: Callable[..., tuple[Carry, PyTree]]
    gather: Callable[..., tuple[PyTree, PyTree]]


def from_step(
    step: Step, params: Params, carry: Carry, xs: PyTree, y: PyTree
) -> tuple[Recurrence, PyTree, tuple[Carry, PyTree]]:
    """A plain Step's recurrence, whose carry is the pair of the step's carry and its last output.

    `y` holds the shapes of one output. Returns the recurrence, its w and its first carry.
    """
    pair = (carry, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), y))

    def advance(params, pair_tm1, x):
        return step(params, pair_tm1[0], x), ()

    return (*from_advance(advance, params, pair, xs), pair)


def from_advance(
    advance: Callable[..., tuple[Carry, PyTree]], w: PyTree, carry: Carry, zs: PyTree
) -> tuple[Recurrence, PyTree]:
    """What `advance` alone defines, and its w: yours and whatever `advance` closed over."""
    pure, w = closed(lambda *args: advance(*args)[0], w, carry, zs)

    def adjoint(w, seen_t, d_carry_t):
        pull = tree.pullback(lambda c: pure(w, c, seen_t.z), seen_t.carry_tm1)
        return pull(d_carry_t)[0][0], d_carry_t

    def gather(w, seen, d_carries):
        over_time = jax.vmap(pure, in_axes=(None, 0, 0))
        pull = tree.pullback(lambda w, zs: over_time(w, seen.carry_tm1, zs), w, seen.z)
        return pull(d_carries)[0]

    return Recurrence(lambda *args: (pure(*args), ()), adjoint, gather), w


def closed(step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[Step, Params]:
    """The step as a function of its arguments alone, and its params: yours, and all it closed over.

    A custom_vjp must not close over traced values, so the step is traced once, on shapes, and all
    its constants, of any dtype, become arguments.
    """
    jaxpr, shapes = jax.make_jaxpr(step, return_shape=True)(params, carry, check.at_one_step(xs))
    form: Any = jax.tree.structure(shapes)

    def pure(params, carry, x):
        own, constants = params
        closed_jaxpr = ClosedJaxpr(jaxpr.jaxpr, constants)
        return form.unflatten(jaxpr_as_fun(closed_jaxpr)(*jax.tree.leaves((own, carry, x))))

    return pure, (params, jaxpr.consts)
