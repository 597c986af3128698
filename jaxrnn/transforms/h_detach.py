"""h-detach: the gradient to the previous step, dropped at random."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.transforms.noise import (
    NoisyCell,
    check_rates,
    draw_booleans,
    hash_with_rates,
    rate_of_each_array,
)
from jaxrnn.transforms.rows import batch_axes
from jaxrnn.types import Carry, Cell, Key, Params, PyTree, Residuals, Weights, WithNoise


@dataclasses.dataclass(frozen=True, repr=False)
class detach_adjoint(NoisyCell):
    """A cell with the same values, whose gradient to the previous step is dropped at random.

    For each row of each array of the carry,

        ∂L/∂c_{t-1} ← 0                        with probability p                           (HD1)

    before it is passed on to step t-1. Values do not change. The gradient of each step's own loss
    remains. With `unroll(key=...)` the cell draws where to detach. Without a key it is `cell`.

    Args:
        cell: a Cell, whose backward pass stays hand-written.
        rate: p in [0, 1), one number for all arrays of the carry, or one for each array:
            `LSTMCarry(h=0.25, c=0.0)` is h-detach.

    Raises:
        TypeError, ValueError: for a rate outside [0, 1); for rates whose structure is not that of
            the carry.

    Equal arguments construct equal cells. Gradient: biased on purpose, unless p = 0. Time and
    memory: T·B bools for each array of the carry.

    Source: B. Kanuparthi et al., "h-detach: Modifying the LSTM gradient towards better
    optimization", ICLR 2019.
    """

    rate: float | Carry

    def __post_init__(self) -> None:
        check.require_instance("cell", self.cell, Cell)
        self.replace_fields(rate=check_rates("rate", self.rate, self.cell))

    def __hash__(self) -> int:
        return hash_with_rates(self, self.rate)

    def _draw(self, key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[None, Carry]:
        shape = (check.num_steps(xs), *batch_axes(self.cell, carry))
        rates = rate_of_each_array(self.rate, carry)
        keep_rates = jax.tree.map(lambda p: 1 - p, rates)
        return None, draw_booleans(key, keep_rates, lambda _: shape, carry)

    def _project(
        self, params: Params, xs: PyTree, shared: None, per_step: Carry | None
    ) -> WithNoise:
        return WithNoise(self.cell.project(params, xs), per_step)

    def advance(self, w: Weights, carry: Carry, z: WithNoise) -> tuple[Carry, PyTree]:
        """Calls the inner cell."""
        carry = _where_kept(z.noise, carry, jax.lax.stop_gradient(carry))
        return self.cell.advance(w, carry, z.value)

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Calls the inner cell, and drops the gradient where it is detached (HD1)."""
        d_previous, delta = self.cell.adjoint(w, _of_inner_cell(residuals), d_carry)
        zero = jax.tree.map(jnp.zeros_like, d_previous)
        return _where_kept(residuals.z.noise, d_previous, zero), delta  # (HD1)

    def gradients(
        self, w: Weights, residuals: Residuals, deltas: PyTree
    ) -> tuple[Weights, WithNoise]:
        """Calls the inner cell; the noise has no gradient."""
        d_w, d_zs = self.cell.gradients(w, _of_inner_cell(residuals), deltas)
        return d_w, WithNoise(d_zs, None)


def _of_inner_cell(residuals: Residuals) -> Residuals:
    return residuals._replace(z=residuals.z.value)


def _where_kept(keep: Carry | None, kept: Carry, dropped: Carry) -> Carry:
    if keep is None:
        return kept
    return jax.tree.map(tree.where, keep, kept, dropped)
