"""The long short-term memory with layer normalisation, of Ba, Kiros and Hinton (2016)."""

from collections import namedtuple

from jax.nn import sigmoid, tanh
from jax.nn.initializers import ones, zeros

from jaxrnn.cells import norm, parts
from jaxrnn.cells.lstm import LSTMCarry, LSTMForm, LSTMGates, remembered, remembered_adjoint
from jaxrnn.cells.parts import Deltas, Drive
from jaxrnn.types import Cell, Seen, State, once


class Weights(namedtuple("Weights", "w_h gain_h gain_c b_c")):
    """What the loop uses: the Kernel and its gain `(4H)`, the memory's gain and bias `(H)`."""


@once
def layer_norm_lstm(hidden_size: int, *, forget_bias: float = 1.0, epsilon: float = 1e-5) -> Cell:
    """The LSTM that normalises both its products over all four gates, and its memory.

    With LN(a) = (a - mean a) / √(var a + ε) over the features,

        z_t      = LN(x_t W_x) ⊙ gain_x + b                                                  (Y1)
        a_t      = z_t + p̂ ⊙ gain_h,    p̂ = LN(h_{t-1} W_h)                                  (Y2)
        i, f, o  = σ(a_t),    g = tanh(a_t), each its own columns                            (Y3)
        c_t      = f ⊙ c_{t-1} + i ⊙ g                                                       (Y4)
        k_t      = ĉ ⊙ gain_c + b_c,    ĉ = LN(c_t)                                          (Y5)
        h_t      = o ⊙ tanh(k_t),    y_t = h_t                                               (Y6)

    and backward, with λ_t = ∂L/∂h_t, μ_t = ∂L/∂c_t, m = tanh(k_t) and LN' the adjoint of LN,

        κ_t      = λ_t ⊙ o ⊙ (1 - m²),    μ_t += LN'(κ_t ⊙ gain_c)                           (Y7)
        δ_i, δ_f, δ_g from μ_t as in the LSTM,    δ_o = λ_t ⊙ m ⊙ o(1-o)                     (Y8)
        π_t      = LN'(δ_t ⊙ gain_h),    δ_t = [δ_i δ_f δ_g δ_o]                             (Y9)
        λ_{t-1}  = π_t W_hᵀ,    μ_{t-1} = μ_t ⊙ f                                            (Y10)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ π_t,    ∂L/∂gain_h = Σ_t δ_t ⊙ p̂,    ∂L/∂z_t = δ_t,
        ∂L/∂gain_c = Σ_t κ_t ⊙ ĉ,    ∂L/∂b_c = Σ_t κ_t                                       (Y11)

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        forget_bias: what `init` puts into the forget gate's part of `b`; nothing is added later.
        epsilon: ε, above 0, so that a row of equal numbers stays finite; ValueError otherwise.

    Returns:
        A Cell with params `w_x (I, 4H)`, `w_h (H, 4H)`, `b (4H)`, `gain_x (4H)`, `gain_h (4H)`,
        gates in the order i, f, g, o, and `gain_c (H)`, `b_c (H)`, all of one floating dtype, and
        the carry `LSTMCarry(h, c)`, each `(*batch, H)`. Inputs x `(*batch, I)`, outputs h
        `(*batch, H)`, dimensionless. Gains start at 1. Statistics are taken in float32 at least,
        and c is float32 where params are narrower.

    Gradient: exact, by hand. Time: one recurrent product a step forward and one backward, in order;
    the kernel's gradient is one more for all steps at once. Memory: h, c, the four gates and p̂,
    10·T·B·H, and T·B; LN' and ĉ are computed again for (Y11).

    Source: J. Ba, J. Kiros, G. Hinton, "Layer normalization", arXiv:1607.06450, eq. (20)-(22); the
    biases of its two norms in (20) and its b are one b here.
    """
    normed = norm.normaliser(epsilon)
    more = {"gain_c": ((hidden_size,), ones), "b_c": ((hidden_size,), zeros)}
    biases = LSTMGates.biases(forget_bias)
    form = LSTMForm("layer_norm_lstm", hidden_size, biases, more, norm=normed)

    def squashed(w: Weights, c_hat: State) -> State:
        return tanh(parts.plus_bias(parts.scaled(c_hat, w.gain_c), w.b_c))  # (Y5)

    def advance(w: Weights, carry_tm1: LSTMCarry, z: Drive) -> tuple[LSTMCarry, norm.NormedSaved]:
        p = normed(parts.product(carry_tm1.h, w.w_h))
        a = LSTMGates(*parts.split_gates(parts.scaled(p.values, w.gain_h), 4))  # (Y2)
        c, i, f, g = remembered(a, carry_tm1.c, z)  # (Y3), (Y4)
        o = sigmoid(z.gates.o + a.o)
        h = o * squashed(w, normed(c).values)  # (Y6)
        return LSTMCarry(h, c), norm.NormedSaved(LSTMGates(i, f, g, o), p)

    def adjoint(w: Weights, seen: Seen, d_carry: LSTMCarry) -> tuple[LSTMCarry, Deltas]:
        gates, p = seen.saved
        o, c_hat = gates.o, normed(seen.carry.c)
        m = squashed(w, c_hat.values)
        d_k = d_carry.h * o * (1 - m * m)
        d_c = d_carry.c + c_hat.adjoint(parts.scaled(d_k, w.gain_c))  # (Y7)
        delta_o = d_carry.h * m * o * (1 - o)
        delta = remembered_adjoint(seen, gates, d_c, delta_o)  # (Y8)
        d_h_tm1 = parts.product_adjoint(norm.product_adjoint(w, p, parts.join_gates(*delta)), w.w_h)
        return LSTMCarry(d_h_tm1, d_c * gates.f), Deltas(delta, d_k)  # (Y10)

    def gather(w: Weights, seen: Seen, deltas: Deltas) -> tuple[Weights, Drive]:
        p, joined = seen.saved.p, parts.join_gates(*deltas.gates)
        d_p = norm.product_gathered(w, seen.carry_tm1.h, p, joined)
        d_gain_c = parts.summed(deltas.behind * normed(seen.carry.c).values)
        return Weights(*d_p, d_gain_c, parts.summed(deltas.behind)), Drive(deltas.gates)  # (Y11)

    return form.cell(form.driven, advance, adjoint, gather, parts.prepared(Weights))  # (Y1)
