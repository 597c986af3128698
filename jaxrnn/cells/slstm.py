"""The scalar memory of xLSTM, of Beck et al. (2024)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, tanh
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.cells import heads, kernels
from jaxrnn.cells.exponential_gating import (
    EMPTY,
    ExponentialGates,
    update_stabilizer,
    update_stabilizer_adjoint,
)
from jaxrnn.cells.gated import GatedCell, GateInputs, Parameter
from jaxrnn.cells.kernels import RecurrentKernel
from jaxrnn.cells.lstm import LSTMGates
from jaxrnn.cells.orthogonal import orthogonal
from jaxrnn.types import Key, Params, Residuals, State


class SLSTMCarry(NamedTuple):
    """The hidden state h, the memory c and the stabiliser m, each `(*batch, H)`."""

    h: State
    c: State
    m: State


class SLSTMValues(NamedTuple):
    """The share s of the new value, and the values of the gates f, g, o."""

    s: State
    f: State
    g: State
    o: State


@dataclasses.dataclass(frozen=True, repr=False)
class slstm(GatedCell):
    """The sLSTM, an LSTM with an exponential input gate and a normalised memory.

        z_t  = x_t W_x + b,    a_t = z_t + h_{t-1} W_h                                       (S1)
        i = exp(a_i),    f = σ(a_f),    g = tanh(a_g),    o = σ(a_o)                         (S2)
        C_t  = f ⊙ C_{t-1} + i ⊙ g,    n_t = f ⊙ n_{t-1} + i,    h_t = o ⊙ C_t / n_t         (S3)

    where the columns of a_t are split between the gates, and W_h is block-diagonal, with one block
    for each head. C and n would overflow, so the carry has c = C / n and m = log n, which is the
    stabiliser (X2) of `jaxrnn/cells/exponential_gating.py`. With it the normaliser of the scaled
    memory is 1, and (S3) is

        m_t  = log(f exp(m_{t-1}) + i),    s = i exp(-m_t)                                   (S4)
        c_t  = c_{t-1} + s ⊙ (g - c_{t-1})                                                   (S5)
        h_t  = o ⊙ c_t,    y_t = h_t                                                         (S6)

    Backward, with λ_t = ∂L/∂h_t, μ_t = ∂L/∂c_t and ν_t = ∂L/∂m_t,

        μ_t     += λ_t ⊙ o                                                                   (S7)
        δ_o      = λ_t ⊙ c_t ⊙ o(1-o),    δ_g = μ_t ⊙ s ⊙ (1-g²)                             (S8)
        d        = μ_t ⊙ (g - c_{t-1}) ⊙ s(1-s)                                              (S9)
        ν_{t-1}  = ν_t ⊙ (1-s) - d                                                           (S10)
        δ_i      = ν_t ⊙ s + d,    δ_f = ν_{t-1} ⊙ (1-f)                                     (S11)
        λ_{t-1}  = [δ_i δ_f δ_g δ_o] W_hᵀ,    μ_{t-1} = μ_t ⊙ (1-s)                          (S12)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ [δ_i δ_f δ_g δ_o] in each block,    ∂L/∂z_t = δ_t            (S13)

    Parameters: `w_x (I, 4H)`, `w_h (N, H/N, 4H/N)`, `b (4H)`, with gates in the order i, f, g, o
    and N heads, all of one floating-point dtype; `init` draws w_x Lecun-normal and each block of
    w_h orthogonal for each gate. The carry is `SLSTMCarry(h, c, m)`, each `(*batch, H)`; c and m
    are float32 if params are narrower. The zero state has m = -10³⁰, that is n = 0. Inputs are x
    `(*batch, I)`, outputs are h `(*batch, H)`, dimensionless. The convolution, the norm and the
    projections of the paper's block are not part of the cell.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        num_heads: N, a divisor of H; ValueError otherwise.
        forget_bias: the initial value of the forget gate's part of `b`. Nothing is added to it
            later.

    Gradient: exact, hand-written. Time: one recurrent product a step forward and one backward, in
    order; the gradient of the kernel is one more product, for all steps at once. Memory: h, c, m,
    s and the three gates, 7·T·B·H.

    Source: M. Beck et al., "xLSTM: extended long short-term memory", NeurIPS 2024;
    arXiv:2405.04517, eq. (8)-(17), with f = σ.
    """

    num_heads: int = dataclasses.field(default=1, kw_only=True)
    forget_bias: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        heads.require_num_heads(self.num_heads, self.hidden_size)
        self.replace_fields(forget_bias=check.require_finite("forget_bias", self.forget_bias))

    @property
    def gate_biases(self) -> LSTMGates:
        """The initial biases of the gates: `forget_bias` for f, 0 for the others."""
        return LSTMGates(0.0, self.forget_bias, 0.0, 0.0)

    @property
    def state_size(self) -> int:
        """0, since the recurrent kernel has a block for each head, and is drawn as such."""
        return 0

    @property
    def extra_parameters(self) -> dict[str, Parameter]:
        """The recurrent kernel."""
        size = self.hidden_size // self.num_heads
        return {"w_h": Parameter((self.num_heads, size, 4 * size), _orthogonal_blocks)}

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> SLSTMCarry:
        """Returns the zero state, in which the sum of the weights of the memory is zero."""
        h = kernels.zeros(self.hidden_size, batch_shape, dtype)
        c = kernels.zeros(self.hidden_size, batch_shape, kernels.at_least_float32(dtype))
        return SLSTMCarry(h, c, jnp.full_like(c, EMPTY))

    def output(self, params: Params, carries: SLSTMCarry) -> State:
        """Returns the hidden state, y = h."""
        return check.require_instance("carry", carries, SLSTMCarry).h

    def prepare(self, params: Params) -> RecurrentKernel:
        """Returns the blocks of the recurrent kernel with their transposes."""
        return RecurrentKernel(params["w_h"], jnp.swapaxes(params["w_h"], 1, 2))

    def _advance(
        self, w: RecurrentKernel, carry: SLSTMCarry, z: GateInputs
    ) -> tuple[SLSTMCarry, SLSTMValues]:
        x = z.gates
        p = LSTMGates(*heads.recurrent_gates(carry.h, w, 4))
        m, (s, f) = update_stabilizer(x.i + p.i, x.f + p.f, carry.m)  # (S4)
        g = tanh(x.g + p.g)  # (S2)
        o = sigmoid(x.o + p.o)  # (S2)
        c = carry.c + s * (kernels.scale(g, z.dropout_mask) - carry.c)  # (S5)
        return SLSTMCarry(o * c, c, m), SLSTMValues(s, f, g, o)  # (S6)

    def _adjoint(
        self, w: RecurrentKernel, residuals: Residuals, d_carry: SLSTMCarry
    ) -> tuple[SLSTMCarry, LSTMGates]:
        s, f, g, o = residuals.saved
        c_tm1 = residuals.previous_carry.c
        dropout_mask = residuals.z.dropout_mask
        d_c = d_carry.c + d_carry.h * o  # (S7)
        delta_o = d_carry.h * residuals.carry.c * o * (1 - o)
        delta_g = kernels.scale(d_c * s, dropout_mask) * (1 - g * g)  # (S8)
        d_s = d_c * (kernels.scale(g, dropout_mask) - c_tm1)
        gates = ExponentialGates(s, f)
        # (S9), (S10), (S11)
        d_m_tm1, delta_i, delta_f = update_stabilizer_adjoint(gates, d_s, d_carry.m)
        delta = LSTMGates(delta_i, delta_f, delta_g, delta_o)
        d_h_tm1 = heads.recurrent_gates_adjoint(delta, w)
        return SLSTMCarry(d_h_tm1, d_c * (1 - s), d_m_tm1), delta  # (S12)

    def _gradients(
        self, w: RecurrentKernel, residuals: Residuals, deltas: LSTMGates
    ) -> tuple[RecurrentKernel, GateInputs]:
        d_w = heads.recurrent_gates_gradient(residuals.previous_carry.h, deltas, w)
        return d_w, GateInputs(deltas)  # (S13)


def _orthogonal_blocks(key: Key, shape: tuple[int, int, int], dtype: DTypeLike) -> jax.Array:
    """Draws a block for each head, orthogonal for each gate."""
    num_heads, size, width = shape
    keys = jax.random.split(key, (num_heads, width // size))

    def draw(key: Key) -> jax.Array:
        return orthogonal(key, (size, size), dtype)

    blocks = jax.vmap(jax.vmap(draw))(keys)  # (N, gates, size, size)
    # Gates lie next to each other in the last axis.
    return jnp.reshape(jnp.moveaxis(blocks, 1, 2), shape)
