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
    """What `advance` alone defines, and its w: yours and whatever `advance` closed over.

    A custom_vjp must not close over traced values, so `advance` is traced once, on shapes, and all
    its constants, of any dtype, become arguments.
    """
    jaxpr, shapes = jax.make_jaxpr(lambda *args: advance(*args)[0], return_shape=True)(
        w, carry, check.at_one_step(zs)
    )
    carry_tree: Any = jax.tree.structure(shapes)

    def pure(w, carry_tm1, z_t):
        own, constants = w
        closed = ClosedJaxpr(jaxpr.jaxpr, constants)
        return carry_tree.unflatten(jaxpr_as_fun(closed)(*jax.tree.leaves((own, carry_tm1, z_t))))

    def adjoint(w, seen_t, d_carry_t):
        (d_carry_tm1,) = _transposed(lambda c: pure(w, c, seen_t.z), seen_t.carry_tm1)(d_carry_t)
        return d_carry_tm1, d_carry_t

    def gather(w, seen, d_carries):
        over_time = jax.vmap(pure, in_axes=(None, 0, 0))
        return _transposed(lambda w, zs: over_time(w, seen.carry_tm1, zs), w, seen.z)(d_carries)

    return Recurrence(lambda *args: (pure(*args), ()), adjoint, gather), (w, jaxpr.consts)


def _transposed(
    fun: Callable[..., PyTree], *primals: PyTree
) -> Callable[[PyTree], tuple[PyTree, ...]]:
    """The transposed Jacobian of `fun` at `primals`; None where a leaf has no gradient."""
    inexact, others = tree.split_inexact(primals)

    def of_inexact(inexact):
        return tree.split_inexact(fun(*tree.merge(inexact, others)))[0]

    transpose = jax.vjp(of_inexact, inexact)[1]
    return lambda cotangents: transpose(cotangents)[0]
