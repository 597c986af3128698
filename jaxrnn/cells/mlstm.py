"""The matrix memory of xLSTM, of Beck et al. (2024)."""

import dataclasses
import math
from collections import namedtuple
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import heads, kernels
from jaxrnn.cells.exponential_gating import (
    ExponentialGates,
    update_stabilizer,
    update_stabilizer_adjoint,
)
from jaxrnn.cells.matrix_memory import MatrixMemoryCell
from jaxrnn.types import Array, Key, Params, Residuals, State

# exp(±80) and its inverse are finite in float32.
LARGEST_EXPONENT = 80.0


class MLSTMCarry(NamedTuple):
    """The output, the memory, the normaliser and the stabiliser of each head.

    Fields:
        h: the output `(*batch, H)`, which no step reads. It is kept here since it depends on the
            query and the output gate of its step.
        c: the memory C `(*batch, N, K, V)`, a sum of products of keys and values.
        n: the normaliser `(*batch, N, K)`, the same sum of the keys.
        m: the stabiliser `(*batch, N)`.
    """

    h: State
    c: Float[Array, "*lead N K V"]
    n: Float[Array, "*lead N K"]
    m: Float[Array, "*lead N"]


class MLSTMInputs(namedtuple("MLSTMInputs", "q k v i f o")):
    """The projections of an input, or their cotangents.

    Query and key are `(*lead, N, K)`, value and output gate `(*lead, N, V)`, the gates i and f are
    `(*lead, N)`. It also serves for the number of columns of each.
    """


class MLSTMValues(NamedTuple):
    """The share s, the gates f and o, h̃, and the denominator of h̃."""

    s: Float[Array, "*lead N"]
    f: Float[Array, "*lead N"]
    o: Float[Array, "*lead N V"]
    retrieved: Float[Array, "*lead N V"]
    size: Float[Array, "*lead N 1"]


@dataclasses.dataclass(frozen=True, repr=False)
class mlstm(MatrixMemoryCell):
    """The mLSTM, whose memory is a matrix that stores values by their keys.

    For each head, with row vectors q, k of K and v of V numbers,

        q_t, k̂_t, v_t, ĩ_t, f̃_t, õ_t = x_t W_x + b,    k_t = k̂_t / √K                        (ML1)
        C_t  = f C_{t-1} + i kᵀ v,    n_t = f n_{t-1} + i k,    i = exp(ĩ), f = σ(f̃)         (ML2)
        h̃_t  = q C_t / max(|q n_tᵀ|, 1),    h_t = σ(õ) ⊙ h̃_t,    y_t = h_t                   (ML3)

    C and n would overflow, so the carry has both divided by exp(m_t), with the stabiliser m_t and
    the share s_t of `jaxrnn/cells/exponential_gating.py`. With it (ML2) and (ML3) are

        m_t  = log(f exp(m_{t-1}) + i),    s = i exp(-m_t)                                   (ML4)
        C_t  = C_{t-1} + s (kᵀ v - C_{t-1}),    n_t = n_{t-1} + s (k - n_{t-1})              (ML5)
        h̃_t  = q C_t / d_t,    d_t = max(|q n_tᵀ|, exp(-m_t))                                (ML6)

    Backward, with λ_t, M_t, η_t and ν_t for the cotangents of h, C, n and m,

        κ        = λ_t ⊙ o / d_t,    δ_o = λ_t ⊙ h̃_t ⊙ o(1-o),    ε = -κ h̃_tᵀ                (ML7)
        M_t     += qᵀ κ                                                                      (ML8)
        η_t     += ε sign(q n_tᵀ) q    if |q n_tᵀ| is the greater, and
        ν_t     -= ε d_t               otherwise                                             (ML9)
        δ_q      = κ C_tᵀ + ε sign(q n_tᵀ) n_t, the second term if |q n_tᵀ| is the greater   (ML10)
        δ_k      = s (v M_tᵀ + η_t),    δ_v = s k M_t                                        (ML11)
        ∂L/∂s    = ⟨M_t, kᵀ v - C_{t-1}⟩ + ⟨η_t, k - n_{t-1}⟩, then (X5) to (X7)             (ML12)
        M_{t-1}  = (1-s) M_t,    η_{t-1} = (1-s) η_t                                         (ML13)

    and ∂L/∂z_t = δ_t. No parameter is used in the loop, so the gradients of W_x and b are one
    product over time.

    Parameters: `w_x (I, 2NK + 2H + 2N)` and `b (2NK + 2H + 2N)`, with columns in the order q, k, v,
    i, f, o, of one floating-point dtype; `init` draws w_x Lecun-normal; the part of b for f goes
    from 3 to 6 over the heads, as in the paper's code, all else is 0. The carry is
    `MLSTMCarry(h, c, n, m)`; c, n and m are float32 if params are narrower. Inputs are x
    `(*batch, I)`, outputs are h `(*batch, H)`, dimensionless. The convolution, the norms and the
    projections of the paper's block are not part of the cell.

    Args:
        hidden_size: H = N·V, at least 1; ValueError below, TypeError if not an int.
        num_heads: N, a divisor of H; ValueError otherwise.
        key_size: K, at least 1; defaults to V.

    Gradient: exact, hand-written. Time: O(H·K) for each step and row, in order. Memory: the
    matrices C, T·B·H·K. The loop `checkpointed` keeps fewer of them.

    Source: M. Beck et al., "xLSTM: extended long short-term memory", NeurIPS 2024;
    arXiv:2405.04517, eq. (19)-(27).
    """

    @property
    def _widths(self) -> MLSTMInputs:
        """The number of columns of each projection."""
        keys = math.prod(self._key_shape)
        return MLSTMInputs(
            q=keys,
            k=keys,
            v=self.hidden_size,
            i=self.num_heads,
            f=self.num_heads,
            o=self.hidden_size,
        )

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the initial parameters."""
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        wide = kernels.at_least_float32(dtype)
        widths = self._widths
        zeros = [jnp.zeros(width, wide) for width in widths]
        # Heads that forget at different rates at the start.
        forget_biases = jnp.linspace(3.0, 6.0, self.num_heads, dtype=wide)
        biases = MLSTMInputs(*zeros)._replace(f=forget_biases)
        w_x = jax.nn.initializers.lecun_normal()(key, (input_size, sum(widths)), wide)
        params = {"w_x": w_x, "b": jnp.concatenate(biases)}
        return kernels.cast_parameters(params, dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> MLSTMCarry:
        """Returns the zero state; all but h is float32 at least, since it is a sum over time."""
        wide = kernels.at_least_float32(dtype)
        return MLSTMCarry(
            h=kernels.zeros(self.hidden_size, batch_shape, dtype),
            c=self._zero_memory(batch_shape, dtype),
            n=kernels.zeros(self._key_shape, batch_shape, wide),
            m=kernels.zeros(self.num_heads, batch_shape, wide),
        )

    def project(self, params: Params, xs: Array) -> MLSTMInputs:
        """Returns (ML1)."""
        self._check_inputs(params, xs)
        q, k, v, i, f, o = heads.project(params, xs, self._widths)
        q, k, v, o = (heads.split_heads(x, self.num_heads) for x in (q, k, v, o))
        return MLSTMInputs(q, k / k.shape[-1] ** 0.5, v, i, f, o)

    def output(self, params: Params, carries: MLSTMCarry) -> State:
        """Returns h."""
        return check.require_instance("carry", carries, MLSTMCarry).h

    def _advance(
        self, w: None, carry: MLSTMCarry, z: MLSTMInputs
    ) -> tuple[MLSTMCarry, MLSTMValues]:
        m, (s, f) = update_stabilizer(z.i, z.f, carry.m)  # (ML4)
        c = carry.c + s[..., None, None] * (heads.outer(z.k, z.v) - carry.c)
        n = carry.n + s[..., None] * (z.k - carry.n)  # (ML5)
        product = heads.inner(z.q, n)
        bound = _exp_of_minus(m)
        size = jnp.maximum(jnp.abs(product), bound)[..., None]
        retrieved = heads.vector_matrix(z.q, c) / size  # (ML6)
        o = sigmoid(z.o)
        h = heads.join_heads(o * retrieved)  # (ML3)
        return MLSTMCarry(h, c, n, m), MLSTMValues(s, f, o, retrieved, size)

    def _adjoint(
        self, w: None, residuals: Residuals, d_carry: MLSTMCarry
    ) -> tuple[MLSTMCarry, MLSTMInputs]:
        previous, (q, k, v, *_), (_, c, n, m), (s, f, o, retrieved, size) = residuals
        d_h = heads.split_heads(d_carry.h, self.num_heads)
        delta_o = d_h * retrieved * o * (1 - o)
        d_read = d_h * o / size
        d_size = -heads.inner(d_read, retrieved)  # (ML7)
        d_c = d_carry.c + heads.outer(q, d_read)  # (ML8)
        product = heads.inner(q, n)
        bound = _exp_of_minus(m)
        # The cotangent of d_t goes to the greater of its two arguments. That of exp(-m) is 0 where
        # the exponent is clipped.
        is_bound = bound > jnp.abs(product)
        d_product = jnp.where(is_bound, 0, d_size * jnp.sign(product))[..., None]
        d_bound = jnp.where(is_bound & (jnp.abs(m) < LARGEST_EXPONENT), d_size * bound, 0)
        d_n = d_carry.n + d_product * q
        d_m = d_carry.m - d_bound  # (ML9)
        delta_q = heads.matrix_vector(c, d_read) + d_product * n  # (ML10)
        delta_k = s[..., None] * (heads.matrix_vector(d_c, v) + d_n)
        delta_v = s[..., None] * heads.vector_matrix(k, d_c)  # (ML11)
        d_s = jnp.sum(d_c * (heads.outer(k, v) - previous.c), axis=(-2, -1))
        d_s += heads.inner(d_n, k - previous.n)
        gates = ExponentialGates(s, f)
        d_m_tm1, delta_i, delta_f = update_stabilizer_adjoint(gates, d_s, d_m)  # (ML12)
        rest = 1 - s[..., None]
        d_previous = MLSTMCarry(
            h=jnp.zeros_like(d_carry.h),  # no step reads h_{t-1}
            c=rest[..., None] * d_c,
            n=rest * d_n,
            m=d_m_tm1,
        )  # (ML13)
        return d_previous, MLSTMInputs(delta_q, delta_k, delta_v, delta_i, delta_f, delta_o)


def _exp_of_minus(m: Float[Array, "*lead N"]) -> Float[Array, "*lead N"]:
    """Returns exp(-m), constant where it would overflow, or vanish and leave a division by 0."""
    return jnp.exp(-jnp.clip(m, -LARGEST_EXPONENT, LARGEST_EXPONENT))
