"""Noise of cells: drawn once for a sequence, beside the parameters and beside the inputs."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.transforms.base import TransformedCell
from jaxrnn.types import Carry, Key, Params, Part, PyTree, Weights, WithNoise


@dataclasses.dataclass(frozen=True, repr=False)
class NoisyCell(TransformedCell):
    """A Cell that draws noise of its own, around an inner cell that may draw some too.

    What all steps share rides beside the parameters, and what has a time axis beside the inputs. A
    subclass defines `_draw` and uses what it drew in `_project` and `_prepare`. Both get None where
    no noise was drawn.
    """

    @abc.abstractmethod
    def _draw(self, key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[PyTree, PyTree]:
        """The noise of this cell alone: what all steps share, and what has a time axis."""

    def _project(self, params: Params, xs: PyTree, shared: PyTree, per_step: PyTree) -> PyTree:
        """`project` of the inner cell, with the noise of this one."""
        return self.cell.project(params, xs)

    def _prepare(self, params: Params, shared: PyTree) -> Weights:
        """`prepare` of the inner cell, with the noise of this one."""
        return self.cell.prepare(params)

    @property
    def is_noisy(self) -> bool:
        """True."""
        return True

    def draw_noise(
        self, key: Key, params: Params, carry: Carry, xs: PyTree
    ) -> tuple[PyTree, PyTree]:
        """The noise of this cell and of the inner one: pairs."""
        key, inner_key = jax.random.split(key)
        shared, per_step = self._draw(key, params, carry, xs)
        inner_shared, inner_per_step = self.cell.draw_noise(inner_key, params, carry, xs)
        return (shared, inner_shared), (per_step, inner_per_step)

    def project(self, params: Params, xs: PyTree) -> PyTree:
        """The projected inputs, with what noise came with params and xs."""
        (params, shared), (xs, per_step) = separate_noise(params), separate_noise(xs)
        return self._project(params, xs, shared, per_step)

    def prepare(self, params: Params) -> Weights:
        """The weights, with what noise came with the parameters."""
        return self._prepare(*separate_noise(params))

    def output(self, params: Params, carries: Carry) -> PyTree:
        """The outputs of the inner cell."""
        inner_params, _ = separate_noise(params)
        return self.cell.output(inner_params, carries)


def add_noise(
    part: Part, key: Key, params: Params, carry: Carry, xs: PyTree
) -> tuple[WithNoise, WithNoise]:
    """Parameters and inputs, each with the noise that a part draws for it."""
    shared, per_step = part.draw_noise(key, params, carry, xs)
    return WithNoise(params, shared), WithNoise(xs, per_step)


def separate_noise(value: PyTree) -> tuple[PyTree, PyTree]:
    """What the inner cell gets, and the noise of the cell around it; None where there is none."""
    if not isinstance(value, WithNoise):
        return value, None
    own, inner = value.noise
    return (value.value if inner is None else WithNoise(value.value, inner)), own


def dropout_factors(keep: Any, rate: float, dtype: Any) -> Any:
    """1/(1-rate) where `keep`, of mean 1-rate, is True, else 0; None where it is None."""
    return None if keep is None else jnp.where(keep, 1 / (1 - rate), 0).astype(dtype)


def check_rates(name: str, value: Any) -> Any:
    """`value`, of floats, if it is a rate, or a tree of rates; otherwise our error."""
    leaves = jax.tree.leaves(value)
    check.require(leaves, name, value, "a rate in [0, 1), or one for each array of the carry")
    return jax.tree.map(lambda leaf: check.require_rate(name, leaf), value)


def rate_of_each_array(name: str, rate: float | Carry, carry: Carry) -> Carry:
    """A rate for each array of the carry, from one number or from one for each array."""
    if not isinstance(rate, (int, float)):
        check.require_same_structure(name, rate, carry)
    return jax.tree.broadcast(rate, carry)


def hash_with_rates(cell: Any, rates: Any) -> int:
    """The hash of a cell that holds rates in a pytree, such as a dict, which may have no hash."""
    leaves, structure = jax.tree.flatten(rates)
    return hash((type(cell), cell.cell, structure, tuple(leaves)))


def draw_booleans(
    key: Key, rates: Carry, shapes: Callable[[jax.Array], tuple[int, ...]], carry: Carry
) -> Carry:
    """Booleans that are True at each array's rate, of the shape `shapes(array)`."""
    structure: Any = jax.tree.structure(carry)
    keys = structure.unflatten(jax.random.split(key, structure.num_leaves))

    def draw(key: Key, rate: float, array: jax.Array) -> jax.Array:
        shape, sharding = shapes(array), jax.typeof(array).sharding
        leading = (None,) * (len(shape) - array.ndim)
        spec = jax.P(*leading, *sharding.spec)  # over devices as the array itself
        return jax.random.bernoulli(key, rate, shape, out_sharding=sharding.update(spec=spec))

    return jax.tree.map(draw, keys, rates, carry)


def find_all(kind: Any, tree: PyTree) -> list[Any]:
    """The NamedTuples of one type that stand anywhere in a tree."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def add_dropout_mask(kind: Any, tree: PyTree, mask: Any) -> PyTree:
    """The tree, with the mask multiplied into all NamedTuples of one type."""

    def add(x: Any) -> Any:
        if mask is None or not isinstance(x, kind):
            return x
        product = mask if x.dropout_mask is None else x.dropout_mask * mask
        return x._replace(dropout_mask=product)

    return jax.tree.map(add, tree, is_leaf=lambda x: isinstance(x, kind))
