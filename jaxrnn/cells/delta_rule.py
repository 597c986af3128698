"""The gated delta rule of Yang et al. (2024), the recurrence of Gated DeltaNet."""

import dataclasses
import math
from collections import namedtuple
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import heads, kernels
from jaxrnn.cells.matrix_memory import MatrixMemoryCell
from jaxrnn.types import Array, Key, Params, Residuals, State

# Added to a squared norm, as in the authors' code, so that a key of zeros has a slope.
EPSILON = 1e-6


class DeltaRuleCarry(NamedTuple):
    """The output and the memory of each head.

    Fields:
        h: the output `(*batch, H)`, which no step reads. It is kept here since it depends on the
            query of its step.
        s: the memory S `(*batch, N, K, V)`, which maps a key to its value.
    """

    h: State
    s: Float[Array, "*lead N K V"]


class DeltaRuleInputs(namedtuple("DeltaRuleInputs", "q k v log_decay beta")):
    """The projections of an input, or their cotangents.

    Query and key are `(*lead, N, K)`, the value is `(*lead, N, V)`, log α and β are `(*lead, N)`.
    It also serves for the number of columns of each.
    """


@dataclasses.dataclass(frozen=True, repr=False)
class delta_rule(MatrixMemoryCell):
    """The gated delta rule: a matrix memory that replaces the value of a key instead of adding.

    For each head, with row vectors q, k of K and v of V numbers,

        q̃, k̃, v, α̃, β̃ = x_t W_x + b                                                         (DR1)
        q = q̃ / ‖q̃‖,    k = k̃ / ‖k̃‖,    log α = -exp(a_log) softplus(α̃),    β = σ(β̃)        (DR2)
        e    = v - α k S_{t-1}                                                               (DR3)
        S_t  = α S_{t-1} + β kᵀ e = α (1 - β kᵀ k) S_{t-1} + β kᵀ v                          (DR4)
        h_t  = q S_t,    y_t = h_t                                                           (DR5)

    where e is the error of the value that the memory has for the key. S is the transpose of the
    paper's. Backward, with λ_t = ∂L/∂h_t and M_t = ∂L/∂S_t,

        M_t     += qᵀ λ_t,    δ_q = λ_t S_tᵀ                                                 (DR6)
        ε        = β k M_t,    δ_v = ε,    δ_β = k M_t eᵀ                                    (DR7)
        δ_k      = β e M_tᵀ - α ε S_{t-1}ᵀ                                                   (DR8)
        K        = M_t - kᵀ ε,    M_{t-1} = α K                                              (DR9)
        ∂L/∂log α = α ⟨K, S_{t-1}⟩                                                           (DR10)

    and ∂L/∂z_t = δ_t. No parameter is used in the loop, so the gradients of the parameters are one
    product over time.

    Parameters: `w_x (I, 2NK + H + 2N)` and `b (2NK + H + 2N)`, with columns in the order q, k, v,
    α, β, and `a_log (N)`, of one floating-point dtype; `init` draws w_x Lecun-normal, exp(a_log)
    uniform in [1, 16], and the part of b for α so that softplus(b) is log-uniform in [0.001, 0.1];
    all else is 0. The carry is `DeltaRuleCarry(h, s)`; s is float32 if params are narrower. Inputs
    are x `(*batch, I)`, outputs are h `(*batch, H)`, dimensionless. The convolutions, the norm and
    the output gate of the paper's block are not part of the cell.

    Args:
        hidden_size: H = N·V, at least 1; ValueError below, TypeError if not an int.
        num_heads: N, a divisor of H; ValueError otherwise.
        key_size: K, at least 1; defaults to V.

    Gradient: exact, hand-written. Time: O(H·K) for each step and row, in order. Memory: the
    matrices S, T·B·H·K. The loop `checkpointed` keeps fewer of them.

    Source: S. Yang, J. Kautz, A. Hatamizadeh, "Gated delta networks: improving Mamba2 with delta
    rule", ICLR 2025; arXiv:2412.06464, eq. (10).
    """

    @property
    def parameter_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each parameter; None stands for any size."""
        return {**super().parameter_shapes, "a_log": (self.num_heads,)}

    @property
    def _widths(self) -> DeltaRuleInputs:
        """The number of columns of each projection; `log_decay` and `beta` stand for α̃ and β̃."""
        keys = math.prod(self._key_shape)
        return DeltaRuleInputs(
            q=keys,
            k=keys,
            v=self.hidden_size,
            log_decay=self.num_heads,
            beta=self.num_heads,
        )

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the initial parameters."""
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        wide = kernels.at_least_float32(dtype)
        key_x, key_a, key_b = jax.random.split(key, 3)
        zeros = [jnp.zeros(width, wide) for width in self._widths]
        shape = (self.num_heads,)
        log_step = jax.random.uniform(key_b, shape, wide, math.log(1e-3), math.log(0.1))
        # Of a time step Δ = softplus(b) and a rate -exp(a_log): α = exp(-exp(a_log) Δ) as in Mamba.
        decay_biases = kernels.inverse_softplus(jnp.exp(log_step))
        biases = DeltaRuleInputs(*zeros)._replace(log_decay=decay_biases)
        w_x = jax.nn.initializers.lecun_normal()(key_x, (input_size, sum(self._widths)), wide)
        a_log = jnp.log(jax.random.uniform(key_a, shape, wide, 1.0, 16.0))
        params = {"w_x": w_x, "b": jnp.concatenate(biases), "a_log": a_log}
        return kernels.cast_parameters(params, dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> DeltaRuleCarry:
        """Returns the zero state; s is float32 at least, since it is a sum over time."""
        h = kernels.zeros(self.hidden_size, batch_shape, dtype)
        return DeltaRuleCarry(h, self._zero_memory(batch_shape, dtype))

    def project(self, params: Params, xs: Array) -> DeltaRuleInputs:
        """Returns (DR1) and (DR2)."""
        self._check_inputs(params, xs)
        q, k, v, x_a, x_b = heads.project(params, xs, self._widths)
        q, k, v = (heads.split_heads(x, self.num_heads) for x in (q, k, v))
        log_decay = -kernels.scale(softplus(x_a), jnp.exp(params["a_log"]))
        return DeltaRuleInputs(_unit_vector(q), _unit_vector(k), v, log_decay, sigmoid(x_b))

    def output(self, params: Params, carries: DeltaRuleCarry) -> State:
        """Returns h."""
        return check.require_instance("carry", carries, DeltaRuleCarry).h

    def _advance(
        self, w: None, carry: DeltaRuleCarry, z: DeltaRuleInputs
    ) -> tuple[DeltaRuleCarry, Float[Array, "*lead N V"]]:
        alpha, beta = _gates(z)
        kept = alpha[..., None] * carry.s  # α S_{t-1}, of which (DR3) and (DR4) are functions
        error = z.v - heads.vector_matrix(z.k, kept)  # (DR3)
        s = kept + heads.outer(z.k, beta * error)  # (DR4)
        return DeltaRuleCarry(heads.join_heads(heads.vector_matrix(z.q, s)), s), error  # (DR5)

    def _adjoint(
        self, w: None, residuals: Residuals, d_carry: DeltaRuleCarry
    ) -> tuple[DeltaRuleCarry, DeltaRuleInputs]:
        (_, s_tm1), z, (_, s), error = residuals
        alpha, beta = _gates(z)
        d_h = heads.split_heads(d_carry.h, self.num_heads)
        d_s = d_carry.s + heads.outer(z.q, d_h)
        delta_q = heads.matrix_vector(s, d_h)  # (DR6)
        d_written = heads.vector_matrix(z.k, d_s)  # k M_t, the cotangent of β e
        d_error = beta * d_written
        delta_beta = heads.inner(d_written, error)  # (DR7)
        d_read = heads.matrix_vector(s_tm1, d_error)
        delta_k = beta * heads.matrix_vector(d_s, error) - alpha * d_read  # (DR8)
        d_kept = d_s - heads.outer(z.k, d_error)  # K, the cotangent of α S_{t-1}
        d_s_tm1 = alpha[..., None] * d_kept  # (DR9)
        delta_log_decay = alpha[..., 0] * jnp.sum(d_kept * s_tm1, axis=(-2, -1))  # (DR10)
        # e = v - …, so the cotangent of v is that of e.
        delta = DeltaRuleInputs(delta_q, delta_k, d_error, delta_log_decay, delta_beta)
        no_gradient = jnp.zeros_like(d_carry.h)  # no step reads h_{t-1}
        return DeltaRuleCarry(no_gradient, d_s_tm1), delta


def _gates(z: DeltaRuleInputs) -> tuple[Float[Array, "*lead N 1"], Float[Array, "*lead N 1"]]:
    """Returns α and β, each with an axis to be broadcast over a vector.

    z has log α, since an α near 1 is 1 in bfloat16.
    """
    return jnp.exp(z.log_decay)[..., None], z.beta[..., None]


def _unit_vector(x: heads.ByHead) -> heads.ByHead:
    """Returns x / ‖x‖ of (DR2), computed in float32 at least."""
    wide = jnp.asarray(x, kernels.at_least_float32(x.dtype))
    square = jnp.sum(wide * wide, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(square + EPSILON)).astype(x.dtype)
