"""h-detach: the gradient that passes to the step before, stopped at random."""

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
    """The same cell, whose gradient to the step before is dropped at random.

    Of what goes on to step t-1, each row of each array is

        ∂L/∂c_{t-1} ← 0                        with probability p                            (A3)

    Values do not change. Each step keeps its own loss.

    Args:
        cell: a Cell, whose backward pass stays the hand-written one.
        rate: p in [0, 1), one number or one for each array of the carry: `LSTMCarry(h=0.25, c=0.0)`
            is h-detach.

    Returns:
        A Cell that takes what `cell` takes: with `unroll(key=...)` it draws where to detach,
        without a key it is `cell`. Equal arguments give equal cells.

    Raises:
        TypeError, ValueError: a rate outside [0, 1); while tracing, rates of another form than the
            carry.

    Gradient: biased on purpose, unless p = 0. Time and memory: T·B bools for each array of the
    carry.

    Source: B. Kanuparthi et al., "h-detach: Modifying the LSTM gradient towards better
    optimization", ICLR 2019.
    """

    rate: float | Carry

    def __post_init__(self) -> None:
        check.require_instance("cell", self.cell, Cell)
        self.replace_fields(rate=check_rates("rate", self.rate))

    def __hash__(self) -> int:
        return hash_with_rates(self, self.rate)

    def _draw(self, key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[None, Carry]:
        shape = (check.num_steps(xs), *batch_axes(carry))
        rates = rate_of_each_array("rate", self.rate, carry)
        keep_rates = jax.tree.map(lambda p: 1 - p, rates)
        return None, draw_booleans(key, keep_rates, lambda _: shape, carry)

    def _project(
        self, params: Params, xs: PyTree, shared: None, per_step: Carry | None
    ) -> WithNoise:
        return WithNoise(self.cell.project(params, xs), per_step)

    def advance(self, w: Weights, carry: Carry, z: WithNoise) -> tuple[Carry, PyTree]:
        """As the inner cell."""
        carry = _where_kept(z.noise, carry, jax.lax.stop_gradient(carry))
        return self.cell.advance(w, carry, z.value)

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """That of the inner cell, dropped where it is detached (A3)."""
        d_previous, delta = self.cell.adjoint(w, _of_inner_cell(residuals), d_carry)
        zero = jax.tree.map(jnp.zeros_like, d_previous)
        return _where_kept(residuals.z.noise, d_previous, zero), delta  # (A3)

    def gradients(
        self, w: Weights, residuals: Residuals, deltas: PyTree
    ) -> tuple[Weights, WithNoise]:
        """As the inner cell; the noise has no gradient."""
        d_w, d_zs = self.cell.gradients(w, _of_inner_cell(residuals), deltas)
        return d_w, WithNoise(d_zs, None)


def _of_inner_cell(residuals: Residuals) -> Residuals:
    return residuals._replace(z=residuals.z.value)


def _where_kept(keep: Carry | None, kept: Carry, dropped: Carry) -> Carry:
    return kept if keep is None else jax.tree.map(tree.where, keep, kept, dropped)
