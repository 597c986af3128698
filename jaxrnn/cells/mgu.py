"""The minimal gated unit of Zhou et al. (2016)."""

import dataclasses
from collections import namedtuple

from jax.nn import sigmoid, tanh

from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GatedCell, GateInputs
from jaxrnn.cells.gru import ResetBeforeWeights
from jaxrnn.types import Params, Residuals, State


class MGUGates(namedtuple("MGUGates", "f n")):
    """One array `(*batch, H)` for each gate: pre-activations, values or cotangents."""


@dataclasses.dataclass(frozen=True, repr=False)
class mgu(GatedCell):
    """The minimal gated unit: a GRU with one gate, which both forgets and resets.

        x_f, x_n = x_t W_x + b                                                               (M1)
        f = σ(x_f + h_{t-1} W_f),    n = tanh(x_n + (f ⊙ h_{t-1}) W_n)                       (M2)
        h_t = (1 - f) ⊙ h_{t-1} + f ⊙ n,    y_t = h_t                                        (M3)

    where the columns of x_t W_x + b are split between the gates, and W_h = [W_f W_n]. Backward,
    with λ_t = ∂L/∂h_t,

        δ_n = λ_t ⊙ f ⊙ (1-n²),    u = δ_n W_nᵀ = ∂L/∂(f ⊙ h_{t-1})                          (M4)
        δ_f = (λ_t ⊙ (n - h_{t-1}) + u ⊙ h_{t-1}) ⊙ f(1-f)                                   (M5)
        λ_{t-1} = λ_t ⊙ (1-f) + u ⊙ f + δ_f W_fᵀ                                             (M6)
        ∂L/∂W_f = Σ_t h_{t-1}ᵀ δ_f,    ∂L/∂W_n = Σ_t (f ⊙ h_{t-1})ᵀ δ_n                      (M7)

    and ∂L/∂x_f, x_n = δ_f, δ_n.

    Parameters: `w_x (I, 2H)`, `w_h (H, 2H)`, `b (2H)`, with gates in the order f, n, all of one
    floating-point dtype. The carry is h `(*batch, H)`, inputs are x `(*batch, I)`, outputs are h
    `(*batch, H)`, dimensionless.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.

    Gradient: exact, hand-written. Time: two recurrent products a step forward and two backward, in
    order; the gradients of the kernels are two more products, for all steps at once. Memory: h, f
    and n, 3·T·B·H.

    Source: G.-B. Zhou, J. Wu, C.-L. Zhang, Z.-H. Zhou, "Minimal gated unit for recurrent neural
    networks", International Journal of Automation and Computing 13 (2016); arXiv:1603.09420.
    """

    @property
    def gate_biases(self) -> MGUGates:
        """The initial biases of both gates, 0."""
        return MGUGates(0.0, 0.0)

    def prepare(self, params: Params) -> ResetBeforeWeights:
        """Returns the kernels of gate and candidate, with their transposes.

        The one gate resets before the product, as in the GRU with reset before.
        """
        w_f, w_n = kernels.split_gates(params["w_h"], 2)
        return ResetBeforeWeights(kernels.recurrent_kernel(w_f), kernels.recurrent_kernel(w_n))

    def _advance(
        self, w: ResetBeforeWeights, carry: State, z: GateInputs
    ) -> tuple[State, MGUGates]:
        f = sigmoid(z.gates.f + kernels.recurrent_product(carry, w.gates))  # (M2)
        n = tanh(z.gates.n + kernels.recurrent_product(f * carry, w.candidate))
        h = carry + f * (kernels.scale(n, z.dropout_mask) - carry)  # (M3)
        return h, MGUGates(f, n)

    def _adjoint(
        self, w: ResetBeforeWeights, residuals: Residuals, d_carry: State
    ) -> tuple[State, MGUGates]:
        h_tm1, x, _, (f, n) = residuals
        delta_n = kernels.scale(d_carry * f, x.dropout_mask) * (1 - n * n)
        u = kernels.recurrent_product_adjoint(delta_n, w.candidate)  # (M4)
        d_f = d_carry * (kernels.scale(n, x.dropout_mask) - h_tm1) + u * h_tm1
        delta_f = d_f * f * (1 - f)  # (M5)
        d_recurrent = kernels.recurrent_product_adjoint(delta_f, w.gates)
        return d_carry * (1 - f) + u * f + d_recurrent, MGUGates(delta_f, delta_n)  # (M6)

    def _gradients(
        self, w: ResetBeforeWeights, residuals: Residuals, deltas: MGUGates
    ) -> tuple[ResetBeforeWeights, GateInputs]:
        h_tm1 = residuals.previous_carry
        f = residuals.saved.f
        d_gates = kernels.recurrent_kernel_gradient(h_tm1, deltas.f, w.gates)
        d_candidate = kernels.recurrent_kernel_gradient(f * h_tm1, deltas.n, w.candidate)
        return ResetBeforeWeights(d_gates, d_candidate), GateInputs(deltas)  # (M7)
