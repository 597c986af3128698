"""Noise of cells, drawn once for a sequence and passed along with parameters and inputs."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.transforms.base import TransformedCell
from jaxrnn.types import Carry, Cell, Key, Params, Part, PyTree, Weights, WithNoise


@dataclasses.dataclass(frozen=True, repr=False)
class NoisyCell(TransformedCell):
    """A Cell that draws noise, around an inner cell that may draw noise too.

    Noise that all steps share is passed along with the parameters, and noise with a time axis along
    with the inputs. A subclass defines `_draw`, and uses the drawn noise in `_project` and
    `_prepare`. Both get None if no noise was drawn.
    """

    @abc.abstractmethod
    def _draw(self, key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[PyTree, PyTree]:
        """Draws the noise of this cell alone: what all steps share, and what has a time axis."""

    def _project(self, params: Params, xs: PyTree, shared: PyTree, per_step: PyTree) -> PyTree:
        """Calls `project` of the inner cell, and applies the noise of this cell."""
        return self.cell.project(params, xs)

    def _prepare(self, params: Params, shared: PyTree) -> Weights:
        """Calls `prepare` of the inner cell, and applies the noise of this cell."""
        return self.cell.prepare(params)

    @property
    def is_noisy(self) -> bool:
        """True."""
        return True

    def draw_noise(
        self, key: Key, params: Params, carry: Carry, xs: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Returns pairs of the noise of this cell and the noise of the inner cell."""
        key, inner_key = jax.random.split(key)
        shared, per_step = self._draw(key, params, carry, xs)
        inner_shared, inner_per_step = self.cell.draw_noise(inner_key, params, carry, xs)
        return (shared, inner_shared), (per_step, inner_per_step)

    def project(self, params: Params, xs: PyTree) -> PyTree:
        """Returns the projected inputs, with the noise of params and xs applied."""
        (params, shared), (xs, per_step) = separate_noise(params), separate_noise(xs)
        return self._project(params, xs, shared, per_step)

    def prepare(self, params: Params) -> Weights:
        """Returns the weights, with the noise of the parameters applied."""
        return self._prepare(*separate_noise(params))

    def output(self, params: Params, carries: Carry) -> PyTree:
        """Returns the outputs of the inner cell."""
        inner_params, _ = separate_noise(params)
        return self.cell.output(inner_params, carries)


def add_noise(
    part: Part, key: Key, params: Params, carry: Carry, xs: PyTree
) -> tuple[WithNoise, WithNoise]:
    """Returns parameters and inputs, each with the noise that a part draws for it."""
    shared, per_step = part.draw_noise(key, params, carry, xs)
    return WithNoise(params, shared), WithNoise(xs, per_step)


def separate_noise(value: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the value for the inner cell, and the noise of the cell around it.

    The noise is None if none was drawn.
    """
    if not isinstance(value, WithNoise):
        return value, None
    noise, inner_noise = value.noise
    inner = value.value if inner_noise is None else WithNoise(value.value, inner_noise)
    return inner, noise


def dropout_factors(keep: Any, rate: float, dtype: Any) -> Any:
    """Returns 1/(1-rate) where `keep` is True, else 0; None if `keep` is None."""
    if keep is None:
        return None
    return jnp.where(keep, 1 / (1 - rate), 0).astype(dtype)


def check_rates(name: str, value: Any, cell: Cell) -> Any:
    """Returns a rate, or one for each array of the carry, as floats; raises an error otherwise."""
    leaves = jax.tree.leaves(value)
    check.require(leaves, name, value, "a rate in [0, 1), or one for each array of the carry")
    rates = jax.tree.map(lambda leaf: check.require_rate(name, leaf), value)
    if not isinstance(rates, float):
        carry = jax.eval_shape(cell.initial_carry)
        check.require_same_structure(name, rates, carry, ", the tree of the carry")
    return rates


def rate_of_each_array(rate: float | Carry, carry: Carry) -> Carry:
    """Returns a rate for each array of the carry, from one number or from one for each array."""
    return jax.tree.broadcast(rate, carry)


def hash_with_rates(cell: Any, rates: Any) -> int:
    """Returns the hash of a cell whose rates are a pytree.

    The pytree may be a dict, which has no hash.
    """
    leaves, structure = jax.tree.flatten(rates)
    return hash((type(cell), cell.cell, structure, tuple(leaves)))


def draw_booleans(
    key: Key, rates: Carry, shapes: Callable[[jax.Array], tuple[int, ...]], carry: Carry
) -> Carry:
    """Draws booleans of the shape `shapes(array)`, True with the rate of each array."""
    structure: Any = jax.tree.structure(carry)
    keys = structure.unflatten(jax.random.split(key, structure.num_leaves))

    def draw(key: Key, rate: float, array: jax.Array) -> jax.Array:
        shape = shapes(array)
        sharding = jax.typeof(array).sharding
        leading = (None,) * (len(shape) - array.ndim)
        spec = jax.P(*leading, *sharding.spec)  # sharded as the array itself
        return jax.random.bernoulli(key, rate, shape, out_sharding=sharding.update(spec=spec))

    return jax.tree.map(draw, keys, rates, carry)


def find_all(wanted: Any, tree: PyTree) -> list[Any]:
    """Returns all NamedTuples of one type in a tree."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, wanted))
    return [leaf for leaf in leaves if isinstance(leaf, wanted)]


def add_dropout_mask(wanted: Any, tree: PyTree, mask: Any) -> PyTree:
    """Returns the tree, with the mask multiplied into all NamedTuples of one type."""

    def add(x: Any) -> Any:
        if mask is None or not isinstance(x, wanted):
            return x
        product = mask if x.dropout_mask is None else x.dropout_mask * mask
        return x._replace(dropout_mask=product)

    return jax.tree.map(add, tree, is_leaf=lambda x: isinstance(x, wanted))
