"""h-detach: the gradient to the previous step, dropped at random."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.transforms.carry_noise import CarryNoiseCell, draw_booleans, rate_of_each_array
from jaxrnn.transforms.rows import batch_axes
from jaxrnn.types import Carry, Key, Params, PyTree, Residuals, Weights, WithNoise


@dataclasses.dataclass(frozen=True, repr=False)
class detach_adjoint(CarryNoiseCell):
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

    def _draw(self, key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[None, Carry]:
        # One boolean for each row, not for each number: h is detached as a whole.
        shape = (check.num_steps(xs), *batch_axes(self.cell, carry))
        rates = rate_of_each_array(self.rate, carry)
        keep_rates = jax.tree.map(lambda p: 1 - p, rates)
        return None, draw_booleans(key, keep_rates, lambda _: shape, carry)

    def advance(self, w: Weights, carry: Carry, z: WithNoise) -> tuple[Carry, PyTree]:
        """Calls the inner cell."""
        # For a loop that differentiates the step by JAX, and not by `adjoint`.
        carry = _where_kept(z.noise, carry, jax.lax.stop_gradient(carry))
        return self.cell.advance(w, carry, z.value)

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Calls the inner cell, and drops the gradient where it is detached (HD1)."""
        d_previous, delta = self.cell.adjoint(w, self._inner_residuals(residuals), d_carry)
        zero = jax.tree.map(jnp.zeros_like, d_previous)
        return _where_kept(residuals.z.noise, d_previous, zero), delta  # (HD1)


def _where_kept(keep: Carry | None, kept: Carry, dropped: Carry) -> Carry:
    """Returns `kept` in the rows where `keep` is True, else `dropped`; `kept` without noise."""
    if keep is None:
        return kept
    return jax.tree.map(tree.where, keep, kept, dropped)
