"""The gated recurrent unit with layer normalisation, of Ba, Kiros and Hinton (2016)."""

from collections import namedtuple

import jax.numpy as jnp
from jax import lax, nn

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.cells.gru import GRUGates, mixed, mixed_adjoint
from jaxrnn.cells.norm import NormedSaved, normed, normed_adjoint
from jaxrnn.cells.parts import Drive, Form
from jaxrnn.types import Array, Cell, Params, Seen, State, once


class Normed2(namedtuple("Normed2", "rz n")):
    """A product with [W_r W_z W_n], normalised over r and z together, and over n."""

    def values(self) -> State:
        """p̂ of all three gates, `(*lead, 3H)`."""
        return jnp.concatenate([self.rz.values, self.n.values], axis=-1)


class Weights(namedtuple("Weights", "w_h gain_h b_n")):
    """What the loop uses: the recurrent Kernel, its gain `(3H)`, and the bias of q, `(H)`."""


@once
def layer_norm_gru(hidden_size: int, *, epsilon: float = 1e-5) -> Cell:
    """The GRU that normalises its products, those of r and z together and that of n apart.

    With LN(a) = (a - mean a) / √(var a + ε) over the features, x̂ = [LN(x_t W_rz) LN(x_t W_n)] and
    p̂ = [LN(h_{t-1} W_rz) LN(h_{t-1} W_n)], where W_x and W_h are [W_rz W_n] = [W_r W_z W_n],

        x_r, x_z, x_n = x̂ ⊙ gain_x + b,    p_r, p_z, p_n = p̂ ⊙ gain_h                        (Q1)
        r = σ(x_r + p_r),    z = σ(x_z + p_z)                                                (Q2)
        n = tanh(x_n + r ⊙ q),    q = p_n + b_n                                              (Q3)
        h_t = (1 - z) ⊙ n + z ⊙ h_{t-1},    y_t = h_t                                        (Q4)

    and backward, with λ_t = ∂L/∂h_t and LN' the adjoint of both norms,

        δ_z = λ_t ⊙ (h_{t-1} - n) ⊙ z(1-z),    δ_n = λ_t ⊙ (1-z) ⊙ (1-n²)                    (Q5)
        δ_r = δ_n ⊙ q ⊙ r(1-r),    η_t = [δ_r δ_z δ_n⊙r]                                     (Q6)
        π_t = LN'(η_t ⊙ gain_h),    λ_{t-1} = λ_t ⊙ z + π_t W_hᵀ                             (Q7)
        ∂L/∂W_h = Σ_t h_{t-1}ᵀ π_t,    ∂L/∂gain_h = Σ_t η_t ⊙ p̂,    ∂L/∂b_n = Σ_t δ_n⊙r,
        ∂L/∂x_r, x_z, x_n = δ_r, δ_z, δ_n                                                    (Q8)

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int. With H = 1 the norm
            of n is over one number, so that neither x nor h reaches the candidate through it.
        epsilon: ε, above 0, so that a row of equal numbers stays finite; ValueError otherwise.

    Returns:
        A Cell with params `w_x (I, 3H)`, `w_h (H, 3H)`, `b (3H)`, `gain_x (3H)`, `gain_h (3H)`,
        gates in the order r, z, n, and `b_n (H)`, all of one floating dtype, and the carry h
        `(*batch, H)`. Inputs x `(*batch, I)`, outputs h `(*batch, H)`, dimensionless. Gains start
        at 1. Statistics are taken in float32 at least.

    Gradient: exact, by hand. Time: one recurrent product a step forward and one backward, in order;
    the kernel's gradient is one more for all steps at once. Memory: h, three gates and p̂, 7·T·B·H,
    and 2·T·B; LN' is computed again for (Q8).

    Source: J. Ba, J. Kiros, G. Hinton, "Layer normalization", arXiv:1607.06450, its GRU, whose z is
    1 - z here; where it adds two biases, of two norms, there is one in `b`.
    """
    check.integer("hidden_size", hidden_size, least=1)
    epsilon, sizes = check.positive("epsilon", epsilon), (2 * hidden_size, hidden_size)
    gains = dict.fromkeys(("gain_x", "gain_h"), ((3 * hidden_size,), nn.initializers.ones))
    more = {**gains, "b_n": ((hidden_size,), nn.initializers.zeros)}
    form = Form("layer_norm_gru", hidden_size, GRUGates._make((0.0,) * 3), more)

    def normed2(p: Array) -> Normed2:
        return Normed2(*(normed(a, epsilon) for a in lax.split(p, sizes, axis=p.ndim - 1)))

    def project(params: Params, xs: Array) -> Drive:
        xs = form.fitting(params, xs)
        x = parts.scaled(normed2(xs @ params["w_x"]).values(), params["gain_x"])
        return Drive(GRUGates(*parts.split_gates(parts.plus_bias(x, params["b"]), 3)))  # (Q1)

    def recurrent(w: Weights, p: Normed2) -> GRUGates:
        """p_r, p_z and q."""
        a_r, a_z, q = parts.split_gates(parts.scaled(p.values(), w.gain_h), 3)
        return GRUGates(a_r, a_z, parts.plus_bias(q, w.b_n))

    def advance(w: Weights, h_tm1: State, x: Drive) -> tuple[State, NormedSaved]:
        p = normed2(parts.product(h_tm1, w.w_h))
        a_r, a_z, q = recurrent(w, p)
        r, z = nn.sigmoid(x.gates.r + a_r), nn.sigmoid(x.gates.z + a_z)  # (Q2)
        n = jnp.tanh(x.gates.n + r * q)  # (Q3)
        return mixed(h_tm1, z, n, x), NormedSaved(GRUGates(r, z, n), p)  # (Q4)

    def adjoint(w: Weights, seen: Seen, d_h: State) -> tuple[State, GRUGates]:
        h_tm1, x, _, ((r, z, n), p) = seen
        q = recurrent(w, p).n
        delta_z, delta_n = mixed_adjoint(h_tm1, z, n, x, d_h)  # (Q5)
        delta = GRUGates(delta_n * q * r * (1 - r), delta_z, delta_n)  # (Q6)
        d_p = d_product(w, p, d_recurrent(r, delta))
        return d_h * z + parts.product_adjoint(d_p, w.w_h), delta  # (Q7)

    def d_recurrent(r: State, delta: GRUGates) -> Array:
        return parts.join_gates(delta.r, delta.z, delta.n * r)  # (Q6)

    def d_product(w: Weights, p: Normed2, d_gained: State) -> State:
        d_values = lax.split(parts.scaled(d_gained, w.gain_h), sizes, axis=d_gained.ndim - 1)
        return jnp.concatenate([*map(normed_adjoint, d_values, p)], axis=-1)  # (Q7)

    def gather(w: Weights, seen: Seen, deltas: GRUGates) -> tuple[Weights, Drive]:
        h_tm1, _, _, ((r, _, _), p) = seen
        d_gained = d_recurrent(r, deltas)
        d_w = Weights(
            w_h=parts.product_gathered(h_tm1, d_product(w, p, d_gained), w.w_h),
            gain_h=parts.summed(d_gained * p.values()),
            b_n=parts.summed(deltas.n * r),
        )
        return d_w, Drive(deltas)  # (Q8)

    return form.cell(project, advance, adjoint, gather, parts.prepared(Weights))
