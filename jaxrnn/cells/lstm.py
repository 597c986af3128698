"""The long short-term memory of Hochreiter and Schmidhuber (1997), with a forget gate."""

import dataclasses
from collections import namedtuple
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, tanh
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GatedCell, GateInputs
from jaxrnn.cells.kernels import RecurrentKernel
from jaxrnn.types import Carry, Params, PyTree, Residuals, State, Weights


class LSTMCarry(NamedTuple):
    """The hidden state h and the memory c, each `(*batch, H)`; h is `(*batch, P)` if projected."""

    h: State
    c: State


class LSTMGates(namedtuple("LSTMGates", "i f g o")):
    """One array `(*batch, H)` for each gate: pre-activations, values or cotangents."""


@dataclasses.dataclass(frozen=True, repr=False)
class LSTMCell(GatedCell):
    """The shared parts of the LSTM variants: the gates i, f, g, o, and the memory c.

    The three methods below are those of the plain LSTM; a variant overrides all three, and calls
    the functions at the end of this file, which the variants share.
    """

    forget_bias: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.replace_fields(forget_bias=check.require_finite("forget_bias", self.forget_bias))

    @property
    def gate_biases(self) -> LSTMGates:
        """The initial biases of the gates: `forget_bias` for f, 0 for the others."""
        return LSTMGates(0.0, self.forget_bias, 0.0, 0.0)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """Returns the zero state; c is float32 at least, since it is a sum over all time."""
        h = kernels.zeros(self.state_size, batch_shape, dtype)
        c = kernels.zeros(self.hidden_size, batch_shape, kernels.at_least_float32(dtype))
        return LSTMCarry(h, c)

    def output(self, params: Params, carries: Carry) -> State:
        """Returns the hidden state, y = h."""
        return check.require_instance("carry", carries, LSTMCarry).h

    def _advance(self, w: Weights, carry: LSTMCarry, z: GateInputs) -> tuple[LSTMCarry, PyTree]:
        return lstm_advance(w, carry, z)

    def _adjoint(
        self, w: Weights, residuals: Residuals, d_carry: LSTMCarry
    ) -> tuple[LSTMCarry, PyTree]:
        return lstm_adjoint(w, residuals, d_carry)

    def _gradients(
        self, w: Weights, residuals: Residuals, deltas: PyTree
    ) -> tuple[Weights, GateInputs]:
        return lstm_gradients(w, residuals, deltas)


@dataclasses.dataclass(frozen=True, repr=False)
class lstm(LSTMCell):
    """The LSTM of PyTorch and cuDNN, with a single bias.

        z_t      = x_t W_x + b                                                               (L1)
        a_t      = z_t + h_{t-1} W_h,    i, f, o = σ(a_t),    g = tanh(a_t)                  (L2)
        c_t      = f ⊙ c_{t-1} + i ⊙ g                                                       (L3)
        h_t      = o ⊙ tanh(c_t),    y_t = h_t                                               (L4)

    where the columns of a_t are split between the gates, and backward, with λ_t = ∂L/∂h_t, μ_t =
    ∂L/∂c_t and m = tanh(c_t),

        μ_t     += λ_t ⊙ o ⊙ (1 - m²)                                                        (L5)
        δ_i = μ_t ⊙ g ⊙ i(1-i)          δ_f = μ_t ⊙ c_{t-1} ⊙ f(1-f)
        δ_g = μ_t ⊙ i ⊙ (1-g²)          δ_o = λ_t ⊙ m ⊙ o(1-o)                               (L6)
        λ_{t-1}  = [δ_i δ_f δ_g δ_o] W_hᵀ,    μ_{t-1} = μ_t ⊙ f                              (L7)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ [δ_i δ_f δ_g δ_o],    ∂L/∂z_t = δ_t                          (L8)

    Parameters: `w_x (I, 4H)`, `w_h (H, 4H)`, `b (4H)`, with gates in the order i, f, g, o, all of
    one floating-point dtype. The carry is `LSTMCarry(h, c)`, each `(*batch, H)`; c is float32 if
    params are narrower. Inputs are x `(*batch, I)`, outputs are h `(*batch, H)`, dimensionless.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        forget_bias: the initial value of the forget gate's part of `b`. Nothing is added to it
            later.

    Gradient: exact, hand-written. Time: one recurrent product a step forward and one backward, in
    order; the gradient of the kernel is one more product, for all steps at once. Memory: h, c and
    the four gates, 6·T·B·H.

    Source: S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997);
    F. Gers, J. Schmidhuber, F. Cummins, "Learning to forget", Neural Computation 12 (2000).

    Examples:
        >>> cell = jaxrnn.lstm(16)
        >>> params = cell.init(jax.random.key(0), input_size=8)
        >>> carry, ys = jaxrnn.unroll(cell, params, jnp.ones((50, 4, 8)))
        >>> carry.h.shape, carry.c.shape
        ((4, 16), (4, 16))
    """

    def cudnn_weights(self, params: Params) -> jax.Array:
        """Returns the parameters as the one array that cuDNN takes.

        It holds W_xᵀ, W_hᵀ, b and a second bias, which is zero; cuDNN has the same order of gates.
        """
        arrays = params["w_x"].T, params["w_h"].T, params["b"], jnp.zeros_like(params["b"])
        return jnp.concatenate([jnp.ravel(array) for array in arrays])


def lstm_advance(
    w: RecurrentKernel, carry: LSTMCarry, z: GateInputs
) -> tuple[LSTMCarry, LSTMGates]:
    """Returns the next state and memory, and the values of the gates."""
    p = LSTMGates(*kernels.split_gates(kernels.recurrent_product(carry.h, w), 4))
    c, i, f, g = update_memory(p, carry.c, z)
    o = sigmoid(z.gates.o + p.o)  # (L2)
    return LSTMCarry(o * tanh(c), c), LSTMGates(i, f, g, o)  # (L4)


def lstm_adjoint(
    w: RecurrentKernel, residuals: Residuals, d_carry: LSTMCarry
) -> tuple[LSTMCarry, LSTMGates]:
    """Returns (L5) to (L7)."""
    d_c, delta_o = output_adjoint(residuals, d_carry)
    delta = update_memory_adjoint(residuals, residuals.saved, d_c, delta_o)
    d_h_tm1 = kernels.recurrent_product_adjoint(kernels.join_gates(*delta), w)
    return LSTMCarry(d_h_tm1, d_c * residuals.saved.f), delta  # (L7)


def lstm_gradients(
    w: RecurrentKernel, residuals: Residuals, deltas: LSTMGates
) -> tuple[RecurrentKernel, GateInputs]:
    """Returns (L8)."""
    hs_tm1 = residuals.previous_carry.h
    d_w = kernels.recurrent_kernel_gradient(hs_tm1, kernels.join_gates(*deltas), w)
    return d_w, GateInputs(deltas)  # (L8)


def update_memory(p: LSTMGates, c_tm1: State, z: GateInputs) -> tuple[State, State, State, State]:
    """Returns c_t, i, f, g of (L2) and (L3).

    p is the contribution of the recurrence to each gate.
    """
    x = z.gates
    i = sigmoid(x.i + p.i)  # (L2)
    f = sigmoid(x.f + p.f)  # (L2)
    g = tanh(x.g + p.g)  # (L2)
    return f * c_tm1 + i * kernels.scale(g, z.dropout_mask), i, f, g  # (L3)


def output_adjoint(residuals: Residuals, d_carry: LSTMCarry) -> tuple[State, State]:
    """Returns μ_t of (L5), and δ_o of (L6), for an output h_t = o ⊙ tanh(c_t)."""
    o = residuals.saved.o
    m = tanh(residuals.carry.c)  # computed again, so that no array over time is kept for it
    d_c = d_carry.c + d_carry.h * o * (1 - m * m)  # (L5)
    delta_o = d_carry.h * m * o * (1 - o)  # (L6)
    return d_c, delta_o


def update_memory_adjoint(
    residuals: Residuals, gates: LSTMGates, d_c: State, delta_o: State
) -> LSTMGates:
    """Returns (L6), from μ_t and δ_o.

    δ_o is an argument, since the variants differ in the path from h_t to o, and so in δ_o.
    """
    i, f, g, _ = gates
    dropout_mask = residuals.z.dropout_mask
    return LSTMGates(
        i=d_c * kernels.scale(g, dropout_mask) * i * (1 - i),
        f=d_c * residuals.previous_carry.c * f * (1 - f),
        g=kernels.scale(d_c * i, dropout_mask) * (1 - g * g),
        o=delta_o,
    )  # (L6)
