"""The long short-term memory with layer normalisation, of Ba, Kiros and Hinton (2016)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers, sigmoid, tanh

from jaxrnn.cells import kernels, norm
from jaxrnn.cells.gated import GateCotangents, GateInputs, Parameter
from jaxrnn.cells.kernels import RecurrentKernel, Vector
from jaxrnn.cells.lstm import (
    LSTMCarry,
    LSTMCell,
    LSTMGates,
    update_memory,
    update_memory_adjoint,
)
from jaxrnn.types import Array, Params, Residuals, State


class LayerNormLSTMWeights(NamedTuple):
    """The recurrent kernel and its gain `(4H)`, and the gain and bias of the memory `(H)`."""

    w_h: RecurrentKernel
    gain_h: Vector
    gain_c: Vector
    b_c: Vector


@dataclasses.dataclass(frozen=True, repr=False)
class layer_norm_lstm(LSTMCell):
    """The LSTM that normalises both products over all four gates, and its memory.

    With LN(a) = (a - mean a) / √(var a + ε) over the features,

        z_t      = LN(x_t W_x) ⊙ gain_x + b                                                  (Y1)
        a_t      = z_t + p̂ ⊙ gain_h,    p̂ = LN(h_{t-1} W_h)                                  (Y2)
        i, f, o  = σ(a_t),    g = tanh(a_t)                                                  (Y3)
        c_t      = f ⊙ c_{t-1} + i ⊙ g                                                       (Y4)
        k_t      = ĉ ⊙ gain_c + b_c,    ĉ = LN(c_t)                                          (Y5)
        h_t      = o ⊙ tanh(k_t),    y_t = h_t                                               (Y6)

    where the columns of a_t are split between the gates, and backward, with λ_t = ∂L/∂h_t, μ_t =
    ∂L/∂c_t, m = tanh(k_t) and LN' the adjoint of LN,

        κ_t      = λ_t ⊙ o ⊙ (1 - m²),    μ_t += LN'(κ_t ⊙ gain_c)                           (Y7)
        δ_i, δ_f, δ_g from μ_t,    δ_o = λ_t ⊙ m ⊙ o(1-o)                                    (Y8)
        π_t      = LN'(δ_t ⊙ gain_h),    δ_t = [δ_i δ_f δ_g δ_o]                             (Y9)
        λ_{t-1}  = π_t W_hᵀ,    μ_{t-1} = μ_t ⊙ f                                            (Y10)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ π_t,    ∂L/∂gain_h = Σ_t δ_t ⊙ p̂,    ∂L/∂z_t = δ_t,
        ∂L/∂gain_c = Σ_t κ_t ⊙ ĉ,    ∂L/∂b_c = Σ_t κ_t                                       (Y11)

    where δ_i, δ_f and δ_g follow from μ_t as in (L6) of `lstm`.

    Parameters: `w_x (I, 4H)`, `w_h (H, 4H)`, `b (4H)`, `gain_x (4H)`, `gain_h (4H)`, with gates in
    the order i, f, g, o, and `gain_c (H)`, `b_c (H)`, all of one floating-point dtype; gains start
    at 1. The carry is `LSTMCarry(h, c)`, each `(*batch, H)`; c is float32 if params are narrower.
    Inputs are x `(*batch, I)`, outputs are h `(*batch, H)`, dimensionless. Means and variances are
    computed in float32 at least.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        forget_bias: the initial value of the forget gate's part of `b`. Nothing is added to it
            later.
        epsilon: ε, above 0, so that a row of equal numbers stays finite; ValueError otherwise.

    Gradient: exact, hand-written. Time: one recurrent product a step forward and one backward, in
    order; the gradient of the kernel is one more product, for all steps at once. Memory: h, c, the
    four gates and p̂, 10·T·B·H, and T·B; LN' and ĉ are computed again for (Y11).

    Source: J. Ba, J. Kiros, G. Hinton, "Layer normalization", arXiv:1607.06450, eq. (20)-(22). Here
    `b` is the sum of the biases of its two norms in (20) and of its b.
    """

    epsilon: float = dataclasses.field(default=1e-5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.replace_fields(epsilon=norm.check_epsilon(self.epsilon))

    @property
    def extra_parameters(self) -> dict[str, Parameter]:
        """The gains of both products, and the gain and bias of the memory."""
        gain = Parameter((4 * self.hidden_size,), initializers.ones)
        return {
            "gain_x": gain,
            "gain_h": gain,
            "gain_c": Parameter((self.hidden_size,), initializers.ones),
            "b_c": Parameter((self.hidden_size,), initializers.zeros),
        }

    def project_gates(self, params: Params, xs: Array) -> list[jax.Array]:
        """Returns (Y1), one array for each gate."""
        self._check_inputs(params, xs)
        product = jnp.asarray(xs, params["w_x"].dtype) @ params["w_x"]
        return norm.project_gates(norm.normalize(product, self.epsilon), params, 4)

    def prepare(self, params: Params) -> LayerNormLSTMWeights:
        """Returns the recurrent kernel and its gain, and the gain and bias of the memory."""
        w_h = kernels.recurrent_kernel(params["w_h"])
        return LayerNormLSTMWeights(w_h, params["gain_h"], params["gain_c"], params["b_c"])

    def _advance(
        self, w: LayerNormLSTMWeights, carry: LSTMCarry, z: GateInputs
    ) -> tuple[LSTMCarry, norm.NormalizedSaved]:
        product = norm.normalize(kernels.recurrent_product(carry.h, w.w_h), self.epsilon)
        p = LSTMGates(*kernels.split_gates(kernels.scale(product.values, w.gain_h), 4))  # (Y2)
        c, i, f, g = update_memory(p, carry.c, z)  # (Y3), (Y4)
        o = sigmoid(z.gates.o + p.o)
        c_hat = norm.normalize(c, self.epsilon).values
        h = o * _squash(w, c_hat)  # (Y6)
        return LSTMCarry(h, c), norm.NormalizedSaved(LSTMGates(i, f, g, o), product)

    def _adjoint(
        self, w: LayerNormLSTMWeights, residuals: Residuals, d_carry: LSTMCarry
    ) -> tuple[LSTMCarry, GateCotangents]:
        gates, product = residuals.saved
        o = gates.o
        c_hat = norm.normalize(residuals.carry.c, self.epsilon)
        m = _squash(w, c_hat.values)
        d_k = d_carry.h * o * (1 - m * m)
        d_c = d_carry.c + c_hat.adjoint(kernels.scale(d_k, w.gain_c))  # (Y7)
        delta_o = d_carry.h * m * o * (1 - o)
        delta = update_memory_adjoint(residuals, gates, d_c, delta_o)  # (Y8)
        d_product = norm.product_adjoint(product, w.gain_h, kernels.join_gates(*delta))  # (Y9)
        d_h_tm1 = kernels.recurrent_product_adjoint(d_product, w.w_h)
        return LSTMCarry(d_h_tm1, d_c * gates.f), GateCotangents(delta, d_k)  # (Y10)

    def _gradients(
        self, w: LayerNormLSTMWeights, residuals: Residuals, deltas: GateCotangents
    ) -> tuple[LayerNormLSTMWeights, GateInputs]:
        h_tm1 = residuals.previous_carry.h
        product = residuals.saved.product
        d_gained = kernels.join_gates(*deltas.gates)
        d_k = deltas.extra
        d_w_h, d_gain_h = norm.product_gradients(w.w_h, w.gain_h, h_tm1, product, d_gained)
        # From the kept memory once more, so that no array over time is kept for ĉ.
        c_hat = norm.normalize(residuals.carry.c, self.epsilon).values
        d_gain_c = kernels.bias_gradient(d_k * c_hat)
        d_b_c = kernels.bias_gradient(d_k)
        return LayerNormLSTMWeights(d_w_h, d_gain_h, d_gain_c, d_b_c), GateInputs(
            deltas.gates
        )  # (Y11)


def _squash(w: LayerNormLSTMWeights, c_hat: State) -> State:
    """Returns tanh(k) of (Y5)."""
    return tanh(kernels.add_bias(kernels.scale(c_hat, w.gain_c), w.b_c))
