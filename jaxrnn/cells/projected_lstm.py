"""The long short-term memory with a recurrent projection, of Sak, Senior and Beaufays (2014)."""

from collections import namedtuple

from jax.nn import initializers, tanh

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.cells.lstm import LSTMCarry, LSTMForm, LSTMGates, adjoint, advance, gather
from jaxrnn.types import Cell, Params, Seen, once


class Weights(namedtuple("Weights", "h w_p w_p_t")):
    """The recurrent Kernel, the projection `(H, P)` and its transpose, None in a gradient."""


@once
def projected_lstm(hidden_size: int, projection_size: int, *, forget_bias: float = 1.0) -> Cell:
    """The LSTM whose state is a linear projection of its output, as in PyTorch (`proj_size`).

        z_t      = x_t W_x + b                                                               (J1)
        i, f, o  = σ(z_t + h_{t-1} W_h),    g = tanh(z_t + h_{t-1} W_h), each its own columns (J2)
        c_t      = f ⊙ c_{t-1} + i ⊙ g                                                       (J3)
        s_t      = o ⊙ tanh(c_t),    h_t = s_t W_p,    y_t = h_t                             (J4)

    and backward, with λ_t = ∂L/∂h_t, μ_t = ∂L/∂c_t and m = tanh(c_t),

        σ_t      = λ_t W_pᵀ = ∂L/∂s_t,    μ_t += σ_t ⊙ o ⊙ (1 - m²)                          (J5)
        δ_i, δ_f, δ_g from μ_t as in the LSTM,    δ_o = σ_t ⊙ m ⊙ o(1-o)                     (J6)
        λ_{t-1}  = [δ_i δ_f δ_g δ_o] W_hᵀ,    μ_{t-1} = μ_t ⊙ f                              (J7)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ [δ_i δ_f δ_g δ_o],    ∂L/∂W_p = Σ_t s_tᵀ λ_t,
        ∂L/∂z_t  = δ_t                                                                       (J8)

    Args:
        hidden_size: H, features of the memory, at least 1; ValueError below, TypeError if not an
            int.
        projection_size: P, features of the state and the output, likewise.
        forget_bias: what `init` puts into the forget gate's part of `b`; nothing is added later.

    Returns:
        A Cell with params `w_x (I, 4H)`, `w_h (P, 4H)`, `b (4H)`, gates in the order i, f, g, o,
        and `w_p (H, P)`, all of one floating dtype, and the carry `LSTMCarry(h, c)`, h
        `(*batch, P)`, c `(*batch, H)`. Inputs x `(*batch, I)`, outputs h `(*batch, P)`,
        dimensionless. `init` draws w_p Lecun-normal. c is float32 where params are narrower.

    Gradient: exact, by hand. Time: two products a step forward and two backward, in order; the
    kernels' gradients are one more each for all steps at once. Memory: h, c and the four gates,
    T·B·(5H + P).

    Source: H. Sak, A. Senior, F. Beaufays, "Long short-term memory recurrent neural network
    architectures for large scale acoustic modeling", Interspeech 2014; without its peepholes and
    its second, non-recurrent projection.
    """
    size = check.integer("projection_size", projection_size, least=1)
    more = {"w_p": ((hidden_size, size), initializers.lecun_normal())}
    form = LSTMForm("projected_lstm", hidden_size, LSTMGates.biases(forget_bias), more, size)
    return form.cell(form.driven, _advance, _adjoint, _gather, _prepare)  # (J1)


def _prepare(params: Params) -> Weights:
    return Weights(parts.kernel(params["w_h"]), params["w_p"], params["w_p"].T)


def _advance(w: Weights, carry_tm1: LSTMCarry, z: parts.Drive) -> tuple[LSTMCarry, LSTMGates]:
    (s, c), gates = advance(w.h, carry_tm1, z)  # (J2), (J3)
    return LSTMCarry(parts.dot(s, w.w_p), c), gates  # (J4)


def _adjoint(w: Weights, seen: Seen, d_carry: LSTMCarry) -> tuple[LSTMCarry, parts.Deltas]:
    d_s = parts.dot(d_carry.h, w.w_p_t)  # (J5)
    d_carry_tm1, delta = adjoint(w.h, seen, LSTMCarry(d_s, d_carry.c))  # (J5), (J6), (J7)
    return d_carry_tm1, parts.Deltas(delta, d_carry.h)


def _gather(w: Weights, seen: Seen, deltas: parts.Deltas) -> tuple[Weights, parts.Drive]:
    d_w_h, d_z = gather(w.h, seen, deltas.gates)
    d_w_p = parts.summed_product(seen.saved.o * tanh(seen.carry.c), deltas.behind, w.w_p)
    return Weights(d_w_h, d_w_p, None), d_z  # (J8)
