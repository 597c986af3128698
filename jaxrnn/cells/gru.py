"""The gated recurrent unit of Cho et al. (2014), in both variants."""

import dataclasses
from collections import namedtuple
from typing import NamedTuple

from jax.nn import initializers, sigmoid, tanh

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GatedCell, GateInputs, Parameter
from jaxrnn.cells.kernels import Gates, RecurrentKernel, Vector
from jaxrnn.types import Params, PyTree, Residuals, State, Weights


class GRUGates(namedtuple("GRUGates", "r z n")):
    """One array `(*batch, H)` for each gate: pre-activations, values or cotangents."""


class GRUValues(NamedTuple):
    """The values of the gates, and q, the product that the reset gate multiplies."""

    r: State
    z: State
    n: State
    q: State


class ResetAfterWeights(NamedTuple):
    """The weights in the loop if reset comes after the product; b_n is `(H)`."""

    w_h: RecurrentKernel
    b_n: Vector


class ResetBeforeWeights(NamedTuple):
    """The weights in the loop if reset comes before: a kernel for h, one for r ⊙ h.

    They are two kernels, since r has to be known before the second product begins.
    """

    gates: RecurrentKernel
    candidate: RecurrentKernel


@dataclasses.dataclass(frozen=True, repr=False)
class gru(GatedCell):
    """The GRU, with the reset after the recurrent product (PyTorch, cuDNN) or before it.

        x_r, x_z, x_n = x_t W_x + b                                                          (G1)
        r = σ(x_r + h_{t-1} W_r),    z = σ(x_z + h_{t-1} W_z)                                (G2)
        n = tanh(x_n + r ⊙ q),       q = h_{t-1} W_n + b_n         reset_after=True          (G3)
        n = tanh(x_n + (r ⊙ h_{t-1}) W_n)                          reset_after=False         (G3')
        h_t = (1 - z) ⊙ n + z ⊙ h_{t-1},    y_t = h_t                                        (G4)

    where the columns of x_t W_x + b are split between the gates, and W_h = [W_r W_z W_n]. Backward,
    with λ_t = ∂L/∂h_t,

        δ_z = λ_t ⊙ (h_{t-1} - n) ⊙ z(1-z),    δ_n = λ_t ⊙ (1-z) ⊙ (1-n²)                    (G5)
        δ_r = δ_n ⊙ q ⊙ r(1-r)                                                               (G6)
        λ_{t-1} = λ_t ⊙ z + [δ_r δ_z δ_n⊙r] W_hᵀ                                             (G7)
        ∂L/∂W_h = Σ_t h_{t-1}ᵀ [δ_r δ_z δ_n⊙r],    ∂L/∂b_n = Σ_t δ_n⊙r                       (G8)

    and, for reset_after=False, with u = δ_n W_nᵀ = ∂L/∂(r ⊙ h_{t-1}),

        δ_r = u ⊙ h_{t-1} ⊙ r(1-r)                                                           (G6')
        λ_{t-1} = λ_t ⊙ z + u ⊙ r + [δ_r δ_z] [W_r W_z]ᵀ                                     (G7')
        ∂L/∂[W_r W_z] = Σ_t h_{t-1}ᵀ [δ_r δ_z],    ∂L/∂W_n = Σ_t (r ⊙ h_{t-1})ᵀ δ_n          (G8')

    In both variants, ∂L/∂x_r, x_z, x_n = δ_r, δ_z, δ_n.

    Parameters: `w_x (I, 3H)`, `w_h (H, 3H)`, `b (3H)`, with gates in the order r, z, n, and
    `b_n (H)` if reset comes after the product, all of one floating-point dtype. The carry is h
    `(*batch, H)`, inputs are x `(*batch, I)`, outputs are h `(*batch, H)`, dimensionless.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        reset_after: (G3) if True, (G3') if False; TypeError if not a bool.

    Gradient: exact, hand-written. Time: one recurrent product a step forward and one backward, in
    order; the gradient of the kernel is one more product, for all steps at once. Memory: h, three
    gates and q, 5·T·B·H; 4·T·B·H with reset before the product.

    Source: K. Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014;
    arXiv:1406.1078v1 for reset after the product.

    Examples:
        >>> cell = jaxrnn.gru(16)
        >>> params = cell.init(jax.random.key(0), input_size=8)
        >>> {name: p.shape for name, p in sorted(params.items())}
        {'b': (48,), 'b_n': (16,), 'w_h': (16, 48), 'w_x': (8, 48)}
        >>> h, y = cell(params, cell.initial_carry((4,)), jnp.ones((4, 8)))  # one step
    """

    reset_after: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check.require_bool("reset_after", self.reset_after)

    @property
    def gate_biases(self) -> GRUGates:
        """The initial biases of the gates, all 0."""
        return GRUGates(0.0, 0.0, 0.0)

    @property
    def extra_parameters(self) -> dict[str, Parameter]:
        """The bias of q, if reset comes after the product."""
        b_n = Parameter((self.hidden_size,), initializers.zeros)
        return {"b_n": b_n} if self.reset_after else {}

    def prepare(self, params: Params) -> ResetAfterWeights | ResetBeforeWeights:
        """Returns the kernels with their transposes, in the form that the variant needs."""
        if self.reset_after:
            return ResetAfterWeights(kernels.recurrent_kernel(params["w_h"]), params["b_n"])
        w_r, w_z, w_n = kernels.split_gates(params["w_h"], 3)
        w_rz = kernels.join_gates(w_r, w_z)
        return ResetBeforeWeights(kernels.recurrent_kernel(w_rz), kernels.recurrent_kernel(w_n))

    def _advance(self, w: Weights, carry: State, z: GateInputs) -> tuple[State, PyTree]:
        if self.reset_after:
            return _advance_after(w, carry, z)
        return _advance_before(w, carry, z)

    def _adjoint(self, w: Weights, residuals: Residuals, d_carry: State) -> tuple[State, GRUGates]:
        if self.reset_after:
            return _adjoint_after(w, residuals, d_carry)
        return _adjoint_before(w, residuals, d_carry)

    def _gradients(
        self, w: Weights, residuals: Residuals, deltas: GRUGates
    ) -> tuple[Weights, GateInputs]:
        if self.reset_after:
            return _gradients_after(w, residuals, deltas)
        return _gradients_before(w, residuals, deltas)


# Reset after the product. `layer_norm_gru` uses the functions without an underscore, with a
# normalised product.


def _advance_after(w: ResetAfterWeights, h_tm1: State, x: GateInputs) -> tuple[State, GRUValues]:
    return step_after(h_tm1, kernels.recurrent_product(h_tm1, w.w_h), w.b_n, x)


def _adjoint_after(
    w: ResetAfterWeights, residuals: Residuals, d_h: State
) -> tuple[State, GRUGates]:
    delta = step_after_adjoint(residuals, residuals.saved, d_h)
    d_product = product_cotangent(delta, residuals.saved.r)
    d_recurrent = kernels.recurrent_product_adjoint(d_product, w.w_h)
    return d_h * residuals.saved.z + d_recurrent, delta  # (G7)


def _gradients_after(
    w: ResetAfterWeights, residuals: Residuals, deltas: GRUGates
) -> tuple[ResetAfterWeights, GateInputs]:
    r = residuals.saved.r
    d_products = product_cotangent(deltas, r)
    d_w_h = kernels.recurrent_kernel_gradient(residuals.previous_carry, d_products, w.w_h)
    d_b_n = kernels.bias_gradient(deltas.n * r)
    return ResetAfterWeights(d_w_h, d_b_n), GateInputs(deltas)  # (G8)


def step_after(h_tm1: State, p: Gates, b_n: Vector, x: GateInputs) -> tuple[State, GRUValues]:
    """Runs one step with the reset after the product p = h_{t-1} W_h."""
    p_r, p_z, p_n = kernels.split_gates(p, 3)
    r = sigmoid(x.gates.r + p_r)  # (G2)
    z = sigmoid(x.gates.z + p_z)  # (G2)
    q = kernels.add_bias(p_n, b_n)
    n = tanh(x.gates.n + r * q)  # (G3)
    return interpolate(h_tm1, z, n, x), GRUValues(r, z, n, q)


def step_after_adjoint(residuals: Residuals, values: GRUValues, d_h: State) -> GRUGates:
    """Returns δ of (G5) and (G6)."""
    r, z, n, q = values
    delta_z, delta_n = interpolate_adjoint(residuals.previous_carry, z, n, residuals.z, d_h)
    return GRUGates(delta_n * q * r * (1 - r), delta_z, delta_n)  # (G6)


def product_cotangent(delta: GRUGates, r: State) -> Gates:
    """Returns [δ_r δ_z δ_n⊙r], the cotangent of the product h_{t-1} W_h."""
    return kernels.join_gates(delta.r, delta.z, delta.n * r)


# Reset before the product.


def _advance_before(w: ResetBeforeWeights, h_tm1: State, x: GateInputs) -> tuple[State, GRUGates]:
    p_r, p_z = kernels.split_gates(kernels.recurrent_product(h_tm1, w.gates), 2)
    r = sigmoid(x.gates.r + p_r)  # (G2)
    z = sigmoid(x.gates.z + p_z)  # (G2)
    n = tanh(x.gates.n + kernels.recurrent_product(r * h_tm1, w.candidate))  # (G3')
    return interpolate(h_tm1, z, n, x), GRUGates(r, z, n)


def _adjoint_before(
    w: ResetBeforeWeights, residuals: Residuals, d_h: State
) -> tuple[State, GRUGates]:
    h_tm1, x, _, (r, z, n) = residuals
    delta_z, delta_n = interpolate_adjoint(h_tm1, z, n, x, d_h)
    u = kernels.recurrent_product_adjoint(delta_n, w.candidate)
    delta_r = u * h_tm1 * r * (1 - r)  # (G6')
    d_rz = kernels.recurrent_product_adjoint(kernels.join_gates(delta_r, delta_z), w.gates)
    return d_h * z + u * r + d_rz, GRUGates(delta_r, delta_z, delta_n)  # (G7')


def _gradients_before(
    w: ResetBeforeWeights, residuals: Residuals, deltas: GRUGates
) -> tuple[ResetBeforeWeights, GateInputs]:
    h_tm1 = residuals.previous_carry
    r = residuals.saved.r
    deltas_rz = kernels.join_gates(deltas.r, deltas.z)
    d_gates = kernels.recurrent_kernel_gradient(h_tm1, deltas_rz, w.gates)
    d_candidate = kernels.recurrent_kernel_gradient(r * h_tm1, deltas.n, w.candidate)
    return ResetBeforeWeights(d_gates, d_candidate), GateInputs(deltas)  # (G8')


# Both variants.


def interpolate(h_tm1: State, z: State, n: State, x: GateInputs) -> State:
    """Returns h_t of (G4)."""
    n = kernels.scale(n, x.dropout_mask)
    # (1 - z) n + z h, with one product instead of two.
    return n + z * (h_tm1 - n)  # (G4)


def interpolate_adjoint(
    h_tm1: State, z: State, n: State, x: GateInputs, d_h: State
) -> tuple[State, State]:
    """Returns δ_z and δ_n of (G5)."""
    delta_z = d_h * (h_tm1 - kernels.scale(n, x.dropout_mask)) * z * (1 - z)  # (G5)
    # The saved n is that before dropout, so the mask scales the cotangent of it too.
    delta_n = kernels.scale(d_h * (1 - z), x.dropout_mask) * (1 - n * n)  # (G5)
    return delta_z, delta_n
