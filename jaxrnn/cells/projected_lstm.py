"""The long short-term memory with a recurrent projection, of Sak, Senior and Beaufays (2014)."""

import dataclasses
from typing import NamedTuple

from jax.nn import initializers, tanh

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GateCotangents, GateInputs, Parameter
from jaxrnn.cells.kernels import Matrix, RecurrentKernel
from jaxrnn.cells.lstm import (
    LSTMCarry,
    LSTMCell,
    LSTMGates,
    lstm_adjoint,
    lstm_advance,
    lstm_gradients,
)
from jaxrnn.types import Params, Residuals


class ProjectedWeights(NamedTuple):
    """The recurrent kernel `(P, 4H)`, and the projection `(H, P)` with its transpose."""

    w_h: RecurrentKernel
    w_p: Matrix
    w_p_t: Matrix


@dataclasses.dataclass(frozen=True, repr=False)
class projected_lstm(LSTMCell):
    """The LSTM whose state is a linear projection of its output, `proj_size` in PyTorch.

        z_t      = x_t W_x + b                                                               (J1)
        a_t      = z_t + h_{t-1} W_h,    i, f, o = σ(a_t),    g = tanh(a_t)                  (J2)
        c_t      = f ⊙ c_{t-1} + i ⊙ g                                                       (J3)
        s_t      = o ⊙ tanh(c_t),    h_t = s_t W_p,    y_t = h_t                             (J4)

    where the columns of a_t are split between the gates, and backward, with λ_t = ∂L/∂h_t, μ_t =
    ∂L/∂c_t and m = tanh(c_t),

        σ_t      = λ_t W_pᵀ = ∂L/∂s_t,    μ_t += σ_t ⊙ o ⊙ (1 - m²)                          (J5)
        δ_i, δ_f, δ_g from μ_t,    δ_o = σ_t ⊙ m ⊙ o(1-o)                                    (J6)
        λ_{t-1}  = [δ_i δ_f δ_g δ_o] W_hᵀ,    μ_{t-1} = μ_t ⊙ f                              (J7)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ [δ_i δ_f δ_g δ_o],    ∂L/∂W_p = Σ_t s_tᵀ λ_t,
        ∂L/∂z_t  = δ_t                                                                       (J8)

    where δ_i, δ_f and δ_g follow from μ_t as in (L6) of `lstm`.

    Parameters: `w_x (I, 4H)`, `w_h (P, 4H)`, `b (4H)`, with gates in the order i, f, g, o, and
    `w_p (H, P)`, all of one floating-point dtype; `init` draws w_p Lecun-normal. The carry is
    `LSTMCarry(h, c)`, h `(*batch, P)` and c `(*batch, H)`; c is float32 if params are narrower.
    Inputs are x `(*batch, I)`, outputs are h `(*batch, P)`, dimensionless.

    Args:
        hidden_size: H, the features of the memory, at least 1; ValueError below, TypeError if not
            an int.
        projection_size: P, the features of state and output, at least 1; ValueError below,
            TypeError if not an int.
        forget_bias: the initial value of the forget gate's part of `b`. Nothing is added to it
            later.

    Gradient: exact, hand-written. Time: two products a step forward and two backward, in order; the
    gradients of the kernels are one more product each, for all steps at once. Memory: h, c and the
    four gates, T·B·(5H + P).

    Source: H. Sak, A. Senior, F. Beaufays, "Long short-term memory recurrent neural network
    architectures for large scale acoustic modeling", Interspeech 2014; without its peepholes and
    its second, non-recurrent projection.
    """

    projection_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check.require_int("projection_size", self.projection_size, least=1)

    @property
    def extra_parameters(self) -> dict[str, Parameter]:
        """The projection."""
        shape = (self.hidden_size, self.projection_size)
        return {"w_p": Parameter(shape, initializers.lecun_normal())}

    @property
    def state_size(self) -> int:
        """P."""
        return self.projection_size

    def prepare(self, params: Params) -> ProjectedWeights:
        """Returns both kernels with their transposes."""
        w_p = params["w_p"]
        return ProjectedWeights(kernels.recurrent_kernel(params["w_h"]), w_p, w_p.T)

    def _advance(
        self, w: ProjectedWeights, carry: LSTMCarry, z: GateInputs
    ) -> tuple[LSTMCarry, LSTMGates]:
        (s, c), gates = lstm_advance(w.w_h, carry, z)  # (J2), (J3)
        return LSTMCarry(kernels.dot(s, w.w_p), c), gates  # (J4)

    def _adjoint(
        self, w: ProjectedWeights, residuals: Residuals, d_carry: LSTMCarry
    ) -> tuple[LSTMCarry, GateCotangents]:
        d_s = kernels.dot(d_carry.h, w.w_p_t)  # (J5)
        # s is the output of a plain LSTM, so its backward pass does the rest.
        d_unprojected = LSTMCarry(d_s, d_carry.c)
        d_previous, delta = lstm_adjoint(w.w_h, residuals, d_unprojected)  # (J5), (J6), (J7)
        # λ_t is kept for ∂L/∂W_p, which needs it at all steps at once.
        return d_previous, GateCotangents(delta, d_carry.h)

    def _gradients(
        self, w: ProjectedWeights, residuals: Residuals, deltas: GateCotangents
    ) -> tuple[ProjectedWeights, GateInputs]:
        d_w_h, d_z = lstm_gradients(w.w_h, residuals, deltas.gates)
        s = residuals.saved.o * tanh(residuals.carry.c)
        d_w_p = kernels.kernel_gradient(s, deltas.extra, w.w_p)
        return ProjectedWeights(d_w_h, d_w_p, kernels.NO_GRADIENT), d_z  # (J8)
