"""The long short-term memory with peephole connections, of Gers and Schmidhuber (2000)."""

from collections import namedtuple

from jax.nn import initializers, sigmoid, tanh

from jaxrnn.cells import parts
from jaxrnn.cells.lstm import LSTMCarry, LSTMForm, LSTMGates, gather, remembered, remembered_adjoint
from jaxrnn.types import Cell, Seen, once


class Weights(namedtuple("Weights", "w_h p_i p_f p_o")):
    """What the loop uses: the recurrent Kernel, and what each gate sees of the memory, `(H)`."""


@once
def peephole_lstm(hidden_size: int, *, forget_bias: float = 1.0) -> Cell:
    """The LSTM whose gates see the memory, each unit its own.

        z_t   = x_t W_x + b,    a_t = z_t + h_{t-1} W_h, each gate its own columns           (P1)
        i     = σ(a_i + p_i ⊙ c_{t-1}),    f = σ(a_f + p_f ⊙ c_{t-1}),    g = tanh(a_g)      (P2)
        c_t   = f ⊙ c_{t-1} + i ⊙ g                                                          (P3)
        o     = σ(a_o + p_o ⊙ c_t),    h_t = o ⊙ tanh(c_t),    y_t = h_t                     (P4)

    and backward, with λ_t = ∂L/∂h_t, μ_t = ∂L/∂c_t and m = tanh(c_t),

        δ_o   = λ_t ⊙ m ⊙ o(1-o),    μ_t += λ_t ⊙ o ⊙ (1 - m²) + δ_o ⊙ p_o                   (P5)
        δ_i, δ_f, δ_g from μ_t as in the LSTM                                                (P6)
        λ_{t-1}  = [δ_i δ_f δ_g δ_o] W_hᵀ,    μ_{t-1} = μ_t ⊙ f + δ_i ⊙ p_i + δ_f ⊙ p_f      (P7)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ [δ_i δ_f δ_g δ_o],    ∂L/∂z_t = δ_t,
        ∂L/∂p_i  = Σ_t δ_i ⊙ c_{t-1},    p_f likewise,    ∂L/∂p_o = Σ_t δ_o ⊙ c_t            (P8)

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        forget_bias: what `init` puts into the forget gate's part of `b`; nothing is added later.

    Returns:
        A Cell with params `w_x (I, 4H)`, `w_h (H, 4H)`, `b (4H)`, gates in the order i, f, g, o,
        and `p_i`, `p_f`, `p_o`, each `(H)`, all of one floating dtype, and the carry
        `LSTMCarry(h, c)`, each `(*batch, H)`. Inputs x `(*batch, I)`, outputs h `(*batch, H)`,
        dimensionless. The peepholes start at zero, so the cell starts as an LSTM.
        c is float32 where params are narrower.

    Gradient: exact, by hand. Time: one recurrent product a step forward and one backward, in order;
    the kernel's gradient is one more for all steps at once. Memory: h, c and the four gates,
    6·T·B·H.

    Source: F. Gers, J. Schmidhuber, "Recurrent nets that time and count", IJCNN 2000, here with the
    whole gradient and not theirs, which is truncated; A. Graves, "Generating sequences with
    recurrent neural networks", arXiv:1308.0850, eq. (7)-(11).
    """
    more = dict.fromkeys(("p_i", "p_f", "p_o"), ((hidden_size,), initializers.zeros))
    form = LSTMForm("peephole_lstm", hidden_size, LSTMGates.biases(forget_bias), more)
    return form.cell(form.driven, _advance, _adjoint, _gather, parts.prepared(Weights))  # (P1)


def _advance(w: Weights, carry_tm1: LSTMCarry, z: parts.Drive) -> tuple[LSTMCarry, LSTMGates]:
    a = LSTMGates(*parts.split_gates(parts.product(carry_tm1.h, w.w_h), 4))
    seen_i, seen_f = (parts.scaled(carry_tm1.c, p) for p in (w.p_i, w.p_f))
    a = a._replace(i=a.i + seen_i, f=a.f + seen_f)
    c, i, f, g = remembered(a, carry_tm1.c, z)  # (P2), (P3)
    o = sigmoid(z.gates.o + a.o + parts.scaled(c, w.p_o))
    return LSTMCarry(o * tanh(c), c), LSTMGates(i, f, g, o)  # (P4)


def _adjoint(w: Weights, seen: Seen, d_carry: LSTMCarry) -> tuple[LSTMCarry, LSTMGates]:
    f, o, m = seen.saved.f, seen.saved.o, tanh(seen.carry.c)
    delta_o = d_carry.h * m * o * (1 - o)
    d_c = d_carry.c + d_carry.h * o * (1 - m * m) + parts.scaled(delta_o, w.p_o)  # (P5)
    delta = remembered_adjoint(seen, seen.saved, d_c, delta_o)  # (P6)
    d_h_tm1 = parts.product_adjoint(parts.join_gates(*delta), w.w_h)
    d_seen = parts.scaled(delta.i, w.p_i) + parts.scaled(delta.f, w.p_f)
    return LSTMCarry(d_h_tm1, d_c * f + d_seen), delta  # (P7)


def _gather(w: Weights, seen: Seen, deltas: LSTMGates) -> tuple[Weights, parts.Drive]:
    d_w_h, d_z = gather(w.w_h, seen, deltas)
    d_ps = deltas.i * seen.carry_tm1.c, deltas.f * seen.carry_tm1.c, deltas.o * seen.carry.c
    return Weights(d_w_h, *map(parts.summed, d_ps)), d_z  # (P8)
