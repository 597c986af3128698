"""Zoneout: units that keep their last value."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.transforms.noise import drawn, of_arrays, rates, with_noise
from jaxrnn.types import Carry, Cell, Key, Noised, Params, PyTree, Seen, once


class ZoneoutSaved(NamedTuple):
    """What the cell inside remembers, and the carry that it made."""

    saved: PyTree
    carry: Carry


@once
def zoneout(cell: Cell, rate: float | Carry) -> Cell:
    """Each unit of the carry keeps its last value with a probability p, drawn anew at every step.

        c'_t = cell(c_{t-1}, x_t)
        c_t  = d_t ⊙ c_{t-1} + (1 - d_t) ⊙ c'_t,    d_t ~ Bernoulli(p)                       (Z1)
        c_t  = p c_{t-1} + (1 - p) c'_t                         without a key                (Z2)

    and backward, with D = d_t or p,

        λ'_t = (1 - D) ⊙ λ_t,    λ_{t-1} = adjoint(λ'_t) + D ⊙ λ_t                           (Z3)

    Args:
        cell: a Cell with real arrays in its carry.
        rate: p, in [0, 1); one number for all arrays of the carry, or one for each, such as
            `LSTMCarry(h=0.05, c=0.5)`.

    Returns:
        A Cell: with `unroll(key=...)` it draws d, without a key it takes the mean (Z2).

    Raises:
        ValueError: a rate outside [0, 1); while tracing, rates of another form than the carry.

    Gradient: exact for the noise drawn. Memory: one bool and c'_t for each unit and step more.

    Source: D. Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden
    activations", ICLR 2017.
    """
    check.instance("cell", cell, Cell)
    rates("rate", rate)
    inner: Any = cell  # has an adjoint and a gather where they are called

    def draw(key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[None, Carry]:
        steps, each = check.length(xs), of_arrays("rate", rate, carry)
        return None, drawn(key, each, lambda c: (steps, *c.shape), carry)

    def project(params: Params, xs: PyTree, _: None, hold: Carry | None) -> Noised:
        """What drives the cell inside, and which units hold."""
        return Noised(cell.project(params, xs), hold)

    def mixed(hold: Carry | None, held: Carry, new: Carry) -> Carry:
        """`held` with weight D, `new` with weight 1 - D."""
        if hold is None:
            each = of_arrays("rate", rate, new)
            return jax.tree.map(lambda p, a, b: p * a + (1 - p) * b, each, held, new)
        return jax.tree.map(jnp.where, hold, held, new)

    def advance(w: PyTree, carry_tm1: Carry, z: Noised) -> tuple[Carry, ZoneoutSaved]:
        new, saved = cell.advance(w, carry_tm1, z.value)
        return mixed(z.noise, carry_tm1, new), ZoneoutSaved(saved, new)  # (Z1), (Z2)

    def inner_seen(seen: Seen) -> Seen:
        """What the cell inside saw, which made c'."""
        return Seen(seen.carry_tm1, seen.z.value, seen.saved.carry, seen.saved.saved)

    def adjoint(w: PyTree, seen: Seen, d_carry: Carry) -> tuple[Carry, PyTree]:
        hold, nothing = seen.z.noise, jax.tree.map(jnp.zeros_like, d_carry)
        d_new, d_held = mixed(hold, nothing, d_carry), mixed(hold, d_carry, nothing)
        d_carry_tm1, delta = inner.adjoint(w, inner_seen(seen), d_new)
        return jax.tree.map(jnp.add, d_carry_tm1, d_held), delta  # (Z3)

    def gather(w: PyTree, seen: Seen, deltas: PyTree) -> tuple[PyTree, Noised]:
        d_w, d_zs = inner.gather(w, inner_seen(seen), deltas)
        return d_w, Noised(d_zs, None)

    return with_noise(cell, draw, project=project).changed(adjoint, gather, advance=advance)
