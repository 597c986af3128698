"""Noise on the carry of a cell: a rate for each array, and booleans drawn anew at every step."""

import dataclasses
from collections.abc import Callable

import jax

from jaxrnn import check
from jaxrnn.transforms.base import ExtraInputCell
from jaxrnn.transforms.noise import NoisyCell
from jaxrnn.types import Array, Carry, Cell, Key, Params, PyTree, WithNoise


@dataclasses.dataclass(frozen=True, repr=False)
class CarryNoiseCell(NoisyCell, ExtraInputCell):
    """A cell that draws booleans at a `rate` for the arrays of its carry.

    The projected inputs are `WithNoise(z_t, the booleans of step t)`; without a key the noise is
    None. A subclass draws them in `_draw`, with `draw_booleans`.
    """

    # A tree of rates, such as a dict, may have no hash. Cells with other rates are not equal, so
    # that they share a hash does no harm.
    rate: float | Carry = dataclasses.field(hash=False)

    def __post_init__(self) -> None:
        check.require_instance("cell", self.cell, Cell)
        self.replace_fields(rate=_check_rates("rate", self.rate, self.cell))

    def _project(
        self, params: Params, xs: PyTree, shared: None, per_step: Carry | None
    ) -> WithNoise:
        return WithNoise(self.cell.project(params, xs), per_step)


def _check_rates(name: str, value: float | PyTree, cell: Cell) -> float | PyTree:
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


def draw_booleans(
    key: Key, rates: Carry, shape_of: Callable[[Array], tuple[int, ...]], carry: Carry
) -> Carry:
    """Draws booleans of the shape `shape_of(array)`, True with the rate of each array."""
    arrays, structure = jax.tree.flatten(carry)
    keys = jax.tree.unflatten(structure, jax.random.split(key, len(arrays)))

    def draw(key: Key, rate: float, array: Array) -> jax.Array:
        shape = shape_of(array)
        # Sharded as the array itself; the axes before its own, such as time, are on every device.
        sharding = jax.typeof(array).sharding
        leading = (None,) * (len(shape) - array.ndim)
        spec = jax.P(*leading, *sharding.spec)
        return jax.random.bernoulli(key, rate, shape, out_sharding=sharding.update(spec=spec))

    return jax.tree.map(draw, keys, rates, carry)
