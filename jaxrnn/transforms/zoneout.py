"""Zoneout: units that keep their previous value at random."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.transforms.carry_noise import CarryNoiseCell, draw_booleans, rate_of_each_array
from jaxrnn.types import Array, Carry, Key, Params, PyTree, Residuals, Weights, WithNoise


class ZoneoutSaved(NamedTuple):
    """The saved values of the inner cell, and the carry c' that it returned."""

    saved: PyTree
    carry: Carry


@dataclasses.dataclass(frozen=True, repr=False)
class zoneout(CarryNoiseCell):
    """A cell whose units keep their previous value with probability p, drawn anew at every step.

        c'_t = cell(c_{t-1}, x_t)
        c_t  = d_t ⊙ c_{t-1} + (1 - d_t) ⊙ c'_t,    d_t ~ Bernoulli(p)                       (Z1)
        c_t  = p c_{t-1} + (1 - p) c'_t                         without a key                (Z2)

    and backward, with D = d_t or p,

        λ'_t = (1 - D) ⊙ λ_t,    λ_{t-1} = adjoint(λ'_t) + D ⊙ λ_t                           (Z3)

    With `unroll(key=...)` the cell draws d. Without a key it uses the mean (Z2).

    Args:
        cell: a Cell with real arrays in its carry.
        rate: p, in [0, 1); one number for all arrays of the carry, or one for each array, such as
            `LSTMCarry(h=0.05, c=0.5)`.

    Raises:
        TypeError, ValueError: for a rate outside [0, 1); for rates whose structure is not that of
            the carry.

    Gradient: exact for the drawn noise. Memory: one bool and c'_t more for each unit and step.

    Source: D. Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden
    activations", ICLR 2017.
    """

    def _draw(self, key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[None, Carry]:
        steps = check.num_steps(xs)

        def shape_over_time(array: Array) -> tuple[int, ...]:
            return (steps, *array.shape)

        rates = rate_of_each_array(self.rate, carry)
        return None, draw_booleans(key, rates, shape_over_time, carry)

    def _mix(self, hold: Carry | None, held: Carry, new: Carry) -> Carry:
        """Returns `held` with weight D plus `new` with weight 1 - D."""
        if hold is not None:
            return jax.tree.map(jnp.where, hold, held, new)
        rates = rate_of_each_array(self.rate, new)
        return jax.tree.map(lambda p, c, new_c: p * c + (1 - p) * new_c, rates, held, new)

    def advance(self, w: Weights, carry: Carry, z: WithNoise) -> tuple[Carry, ZoneoutSaved]:
        """Runs one step of (Z1) or (Z2)."""
        new_carry, saved = self.cell.advance(w, carry, z.value)
        mixed = self._mix(z.noise, carry, new_carry)  # (Z1), (Z2)
        return mixed, ZoneoutSaved(saved, new_carry)

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Runs one step of (Z3)."""
        hold = residuals.z.noise
        # `_mix(hold, a, b)` is D ⊙ a + (1 - D) ⊙ b, so a zero in one place leaves the other's part.
        zero = jax.tree.map(jnp.zeros_like, d_carry)
        d_new = self._mix(hold, zero, d_carry)
        d_held = self._mix(hold, d_carry, zero)
        d_previous, delta = self.cell.adjoint(w, self._inner_residuals(residuals), d_new)
        return jax.tree.map(jnp.add, d_previous, d_held), delta  # (Z3)

    def _inner_residuals(self, residuals: Residuals) -> Residuals:
        """Returns the residuals of the inner cell, which returned c' and not the mixed carry."""
        inner_saved, inner_carry = residuals.saved
        inner_z, _ = residuals.z
        return residuals._replace(z=inner_z, carry=inner_carry, saved=inner_saved)
