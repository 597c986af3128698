"""Where noise rides: beside the parameters if it is shared over time, beside the inputs if not."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.types import Carry, Cell, Draw, Key, Noised, Params, PyTree

Part = Callable[..., PyTree]  # a function of a Cell, and the noise that goes to it


def with_noise(cell: Cell, draw: Draw, *, project: Part, prepare: Part | None = None) -> Cell:
    """`cell` with noise of its own around what noise it has already.

    `draw` returns (shared, stepwise), None where there is nothing; `project(params, xs, shared,
    stepwise)` and `prepare(params, shared)`, unless the cell's own is to stay, get them, None both
    where no noise was drawn.
    """

    def noise(key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[PyTree, PyTree]:
        key, key_inner = jax.random.split(key)
        shared, stepwise = draw(key, params, carry, xs)
        inner = (None, None) if cell.noise is None else cell.noise(key_inner, params, carry, xs)
        return (shared, inner[0]), (stepwise, inner[1])

    def project_noised(params: Params, xs: PyTree) -> PyTree:
        (params, shared), (xs, stepwise) = opened(params), opened(xs)
        return project(params, xs, shared, stepwise)

    def prepare_noised(params: Params) -> PyTree:
        params, shared = opened(params)
        return cell.prepare(params) if prepare is None else prepare(params, shared)

    def output(params: Params, carries: Carry) -> PyTree:
        return cell.output(opened(params)[0], carries)

    parts = {"project": project_noised, "prepare": prepare_noised, "output": output}
    return cell.changed(cell.adjoint, cell.gather, noise=noise, **parts)


def noised(draw: Draw, key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[Noised, Noised]:
    """Parameters and inputs, each with its part of what `draw`, a cell's `noise`, draws."""
    shared, stepwise = draw(key, params, carry, xs)
    return Noised(params, shared), Noised(xs, stepwise)


def opened(noised: PyTree) -> tuple[PyTree, PyTree]:
    """What goes on to the cell inside, and the noise of the cell around it; None where none is."""
    if not isinstance(noised, Noised):
        return noised, None
    own, inner = noised.noise
    return (noised.value if inner is None else Noised(noised.value, inner)), own


def factors(keep: Any, rate: float, dtype: Any) -> Any:
    """1/(1-rate) where `keep`, which has that mean, is True, else 0; None where there is none."""
    return None if keep is None else jnp.where(keep, 1 / (1 - rate), 0).astype(dtype)


def rates(name: str, value: Any) -> None:
    """Raise unless it is a rate, or a tree of some."""
    leaves = jax.tree.leaves(value)
    check.that(leaves, name, value, "a rate in [0, 1), or one for each array of the carry")
    for leaf in leaves:
        check.rate(name, leaf)


def of_arrays(name: str, rate: float | Carry, carry: Carry) -> Carry:
    """A rate for each array of the carry, of one number or of as many as there are arrays."""
    if not isinstance(rate, (int, float)):
        check.same_form(name, rate, carry)
    return jax.tree.broadcast(rate, carry)


def drawn(key: Key, rates: Carry, shapes: Callable[[jax.Array], tuple], carry: Carry) -> Carry:
    """Bools, True with each array's rate, of the shapes that its array asks for."""
    form: Any = jax.tree.structure(carry)
    keys = form.unflatten(jax.random.split(key, form.num_leaves))

    def one(key: Key, rate: float, c: jax.Array) -> jax.Array:
        shape, of_c = shapes(c), jax.typeof(c).sharding  # over devices as the array itself is
        lead = (None,) * (len(shape) - c.ndim)
        return jax.random.bernoulli(
            key, rate, shape, out_sharding=of_c.update(spec=jax.P(*lead, *of_c.spec))
        )

    return jax.tree.map(one, keys, rates, carry)


def found(kind: Any, tree: PyTree) -> list[Any]:
    """The NamedTuples of one kind that stand anywhere in a tree."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def with_keep(kind: Any, tree: PyTree, keep: Any) -> PyTree:
    """The tree, with `keep` in all NamedTuples of one kind, over what is kept there already."""

    def over(x: Any) -> Any:
        if keep is None or not isinstance(x, kind):
            return x
        return x._replace(keep=keep if x.keep is None else x.keep * keep)

    return jax.tree.map(over, tree, is_leaf=lambda x: isinstance(x, kind))
