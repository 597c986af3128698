"""The long short-term memory with peephole connections, of Gers and Schmidhuber (2000)."""

import dataclasses
from typing import NamedTuple

from jax.nn import initializers, sigmoid, tanh

from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GateInputs, Parameter
from jaxrnn.cells.kernels import RecurrentKernel, Vector
from jaxrnn.cells.lstm import (
    LSTMCarry,
    LSTMCell,
    LSTMGates,
    lstm_gradients,
    output_adjoint,
    update_memory,
    update_memory_adjoint,
)
from jaxrnn.types import Params, Residuals


class PeepholeWeights(NamedTuple):
    """The recurrent kernel, and the peephole weights of each gate, `(H)`."""

    w_h: RecurrentKernel
    p_i: Vector
    p_f: Vector
    p_o: Vector


@dataclasses.dataclass(frozen=True, repr=False)
class peephole_lstm(LSTMCell):
    """The LSTM in which each unit's gates read its memory, through peepholes.

        z_t   = x_t W_x + b,    a_t = z_t + h_{t-1} W_h                                      (P1)
        i     = σ(a_i + p_i ⊙ c_{t-1}),    f = σ(a_f + p_f ⊙ c_{t-1}),    g = tanh(a_g)      (P2)
        c_t   = f ⊙ c_{t-1} + i ⊙ g                                                          (P3)
        o     = σ(a_o + p_o ⊙ c_t),    h_t = o ⊙ tanh(c_t),    y_t = h_t                     (P4)

    where the columns of a_t are split between the gates, and backward, with λ_t = ∂L/∂h_t, μ_t =
    ∂L/∂c_t and m = tanh(c_t),

        δ_o   = λ_t ⊙ m ⊙ o(1-o),    μ_t += λ_t ⊙ o ⊙ (1 - m²) + δ_o ⊙ p_o                   (P5)
        δ_i, δ_f, δ_g from μ_t                                                               (P6)
        λ_{t-1}  = [δ_i δ_f δ_g δ_o] W_hᵀ,    μ_{t-1} = μ_t ⊙ f + δ_i ⊙ p_i + δ_f ⊙ p_f      (P7)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ [δ_i δ_f δ_g δ_o],    ∂L/∂z_t = δ_t,
        ∂L/∂p_i  = Σ_t δ_i ⊙ c_{t-1},    ∂L/∂p_f = Σ_t δ_f ⊙ c_{t-1},
        ∂L/∂p_o  = Σ_t δ_o ⊙ c_t                                                             (P8)

    where δ_i, δ_f and δ_g follow from μ_t as in (L6) of `lstm`.

    Parameters: `w_x (I, 4H)`, `w_h (H, 4H)`, `b (4H)`, with gates in the order i, f, g, o, and
    `p_i`, `p_f`, `p_o`, each `(H)`, all of one floating-point dtype. The peepholes are initialised
    to zero, so the cell starts as an LSTM. The carry is `LSTMCarry(h, c)`, each `(*batch, H)`; c is
    float32 if params are narrower. Inputs are x `(*batch, I)`, outputs are h `(*batch, H)`,
    dimensionless.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        forget_bias: the initial value of the forget gate's part of `b`. Nothing is added to it
            later.

    Gradient: exact, hand-written. Time: one recurrent product a step forward and one backward, in
    order; the gradient of the kernel is one more product, for all steps at once. Memory: h, c and
    the four gates, 6·T·B·H.

    Source: F. Gers, J. Schmidhuber, "Recurrent nets that time and count", IJCNN 2000, whose
    gradient is truncated, while this one is exact; A. Graves, "Generating sequences with recurrent
    neural networks", arXiv:1308.0850, eq. (7)-(11).
    """

    @property
    def extra_parameters(self) -> dict[str, Parameter]:
        """The peephole weights."""
        peephole = Parameter((self.hidden_size,), initializers.zeros)
        return {"p_i": peephole, "p_f": peephole, "p_o": peephole}

    def prepare(self, params: Params) -> PeepholeWeights:
        """Returns the recurrent kernel with its transpose, and the peephole weights."""
        w_h = kernels.recurrent_kernel(params["w_h"])
        return PeepholeWeights(w_h, params["p_i"], params["p_f"], params["p_o"])

    def _advance(
        self, w: PeepholeWeights, carry: LSTMCarry, z: GateInputs
    ) -> tuple[LSTMCarry, LSTMGates]:
        p = LSTMGates(*kernels.split_gates(kernels.recurrent_product(carry.h, w.w_h), 4))
        peephole_i = kernels.scale(carry.c, w.p_i)
        peephole_f = kernels.scale(carry.c, w.p_f)
        p = p._replace(i=p.i + peephole_i, f=p.f + peephole_f)
        c, i, f, g = update_memory(p, carry.c, z)  # (P2), (P3)
        o = sigmoid(z.gates.o + p.o + kernels.scale(c, w.p_o))
        return LSTMCarry(o * tanh(c), c), LSTMGates(i, f, g, o)  # (P4)

    def _adjoint(
        self, w: PeepholeWeights, residuals: Residuals, d_carry: LSTMCarry
    ) -> tuple[LSTMCarry, LSTMGates]:
        d_c, delta_o = output_adjoint(residuals, d_carry)
        d_c = d_c + kernels.scale(delta_o, w.p_o)  # (P5), since o reads c_t too
        delta = update_memory_adjoint(residuals, residuals.saved, d_c, delta_o)  # (P6)
        d_h_tm1 = kernels.recurrent_product_adjoint(kernels.join_gates(*delta), w.w_h)
        d_peepholes = kernels.scale(delta.i, w.p_i) + kernels.scale(delta.f, w.p_f)
        return LSTMCarry(d_h_tm1, d_c * residuals.saved.f + d_peepholes), delta  # (P7)

    def _gradients(
        self, w: PeepholeWeights, residuals: Residuals, deltas: LSTMGates
    ) -> tuple[PeepholeWeights, GateInputs]:
        d_w_h, d_z = lstm_gradients(w.w_h, residuals, deltas)
        c_tm1 = residuals.previous_carry.c
        c = residuals.carry.c
        d_p_i = kernels.bias_gradient(deltas.i * c_tm1)
        d_p_f = kernels.bias_gradient(deltas.f * c_tm1)
        d_p_o = kernels.bias_gradient(deltas.o * c)
        return PeepholeWeights(d_w_h, d_p_i, d_p_f, d_p_o), d_z  # (P8)
