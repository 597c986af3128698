"""The gated recurrent unit with layer normalisation, of Ba, Kiros and Hinton (2016)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from jaxrnn.cells import kernels, norm
from jaxrnn.cells.gated import GatedCell, GateInputs, Parameter
from jaxrnn.cells.gru import (
    GRUGates,
    GRUValues,
    product_cotangent,
    step_after,
    step_after_adjoint,
)
from jaxrnn.cells.kernels import RecurrentKernel, Vector
from jaxrnn.types import Array, Params, Residuals, State


class NormalizedProduct(NamedTuple):
    """A product with [W_r W_z W_n], normalised over r and z together, and over n.

    It is a `norm.NormalizedArray` of all three gates.
    """

    rz: norm.Normalized
    n: norm.Normalized

    @property
    def values(self) -> State:
        """p̂ of all three gates, `(*lead, 3H)`."""
        return jnp.concatenate([self.rz.values, self.n.values], axis=-1)

    def adjoint(self, d_values: State) -> State:
        """Returns the adjoint of both norms, concatenated."""
        sizes = [self.rz.values.shape[-1], self.n.values.shape[-1]]
        d_rz, d_n = lax.split(d_values, sizes, axis=d_values.ndim - 1)
        return jnp.concatenate([self.rz.adjoint(d_rz), self.n.adjoint(d_n)], axis=-1)


class LayerNormGRUWeights(NamedTuple):
    """The recurrent kernel, its gain `(3H)`, and the bias of q, `(H)`."""

    w_h: RecurrentKernel
    gain_h: Vector
    b_n: Vector


@dataclasses.dataclass(frozen=True, repr=False)
class layer_norm_gru(GatedCell):
    """The GRU that normalises its products, r and z together and n separately.

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

    Parameters: `w_x (I, 3H)`, `w_h (H, 3H)`, `b (3H)`, `gain_x (3H)`, `gain_h (3H)`, with gates in
    the order r, z, n, and `b_n (H)`, all of one floating-point dtype; gains start at 1. The carry
    is h `(*batch, H)`, inputs are x `(*batch, I)`, outputs are h `(*batch, H)`, dimensionless.
    Means and variances are computed in float32 at least.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int. With H = 1 the norm
            of n is over one number, so neither x nor h reaches the candidate through it.
        epsilon: ε, above 0, so that a row of equal numbers stays finite; ValueError otherwise.

    Gradient: exact, hand-written. Time: one recurrent product a step forward and one backward, in
    order; the gradient of the kernel is one more product, for all steps at once. Memory: h, three
    gates and p̂, 7·T·B·H, and 2·T·B; LN' is computed again for (Q8).

    Source: J. Ba, J. Kiros, G. Hinton, "Layer normalization", arXiv:1607.06450, its GRU. The z of
    the paper is 1 - z here. The paper adds the two biases of its two norms; here `b` is their sum.
    """

    epsilon: float = dataclasses.field(default=1e-5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.replace_fields(epsilon=norm.check_epsilon(self.epsilon))

    @property
    def gate_biases(self) -> GRUGates:
        """The initial biases of the gates, all 0."""
        return GRUGates(0.0, 0.0, 0.0)

    @property
    def extra_parameters(self) -> dict[str, Parameter]:
        """The gains of both products, and the bias of q."""
        gain = Parameter((3 * self.hidden_size,), initializers.ones)
        b_n = Parameter((self.hidden_size,), initializers.zeros)
        return {"gain_x": gain, "gain_h": gain, "b_n": b_n}

    def project_gates(self, params: Params, xs: Array) -> list[jax.Array]:
        """Returns (Q1) for the input, one array for each gate."""
        self._check_inputs(params, xs)
        product = jnp.asarray(xs, params["w_x"].dtype) @ params["w_x"]
        return norm.project_gates(self._normalize(product), params, 3)

    def prepare(self, params: Params) -> LayerNormGRUWeights:
        """Returns the recurrent kernel with its transpose, its gain, and the bias of q."""
        w_h = kernels.recurrent_kernel(params["w_h"])
        return LayerNormGRUWeights(w_h, params["gain_h"], params["b_n"])

    def _normalize(self, p: Array) -> NormalizedProduct:
        rz, n = lax.split(p, (2 * self.hidden_size, self.hidden_size), axis=p.ndim - 1)
        return NormalizedProduct(norm.normalize(rz, self.epsilon), norm.normalize(n, self.epsilon))

    def _advance(
        self, w: LayerNormGRUWeights, carry: State, z: GateInputs
    ) -> tuple[State, norm.NormalizedSaved]:
        product = self._normalize(kernels.recurrent_product(carry, w.w_h))
        gained = kernels.scale(product.values, w.gain_h)
        h, values = step_after(carry, gained, w.b_n, z)  # (Q2), (Q3), (Q4)
        # q is not kept, since it follows from the product.
        return h, norm.NormalizedSaved(GRUGates(values.r, values.z, values.n), product)

    def _adjoint(
        self, w: LayerNormGRUWeights, residuals: Residuals, d_carry: State
    ) -> tuple[State, GRUGates]:
        (r, z, n), product = residuals.saved
        _, _, p_n = kernels.split_gates(kernels.scale(product.values, w.gain_h), 3)
        values = GRUValues(r, z, n, kernels.add_bias(p_n, w.b_n))
        delta = step_after_adjoint(residuals, values, d_carry)  # (Q5), (Q6)
        d_product = norm.product_adjoint(product, w.gain_h, product_cotangent(delta, r))
        d_recurrent = kernels.recurrent_product_adjoint(d_product, w.w_h)
        return d_carry * z + d_recurrent, delta  # (Q7)

    def _gradients(
        self, w: LayerNormGRUWeights, residuals: Residuals, deltas: GRUGates
    ) -> tuple[LayerNormGRUWeights, GateInputs]:
        (r, _, _), product = residuals.saved
        h_tm1 = residuals.previous_carry
        d_gained = product_cotangent(deltas, r)
        d_w_h, d_gain_h = norm.product_gradients(w.w_h, w.gain_h, h_tm1, product, d_gained)
        d_b_n = kernels.bias_gradient(deltas.n * r)
        return LayerNormGRUWeights(d_w_h, d_gain_h, d_b_n), GateInputs(deltas)  # (Q8)
