"""The long short-term memory of Hochreiter and Schmidhuber (1997), with forget gate."""

from collections import namedtuple
from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import sigmoid, tanh
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.cells.parts import Drive, Form, Kernel
from jaxrnn.types import Carry, Cell, Params, Seen, State, once


class LSTMCarry(NamedTuple):
    """The hidden state h and the memory c, each `(*batch, H)`; h `(*batch, P)` if projected."""

    h: State
    c: State


class LSTMGates(namedtuple("LSTMGates", "i f g o")):
    """One array `(*batch, H)` a gate: pre-activations, activations or their cotangents."""

    @classmethod
    def biases(cls, forget_bias: float) -> "LSTMGates":
        """What each gate's part of `b` starts at."""
        return cls(0.0, check.finite("forget_bias", forget_bias), 0.0, 0.0)


@once
def lstm(hidden_size: int, *, forget_bias: float = 1.0) -> Cell:
    """The LSTM as in PyTorch and cuDNN, with a single bias.

        z_t      = x_t W_x + b                                                               (L1)
        i, f, o  = σ(z_t + h_{t-1} W_h),    g = tanh(z_t + h_{t-1} W_h), each its own columns (L2)
        c_t      = f ⊙ c_{t-1} + i ⊙ g                                                       (L3)
        h_t      = o ⊙ tanh(c_t),    y_t = h_t                                               (L4)

    and backward, with λ_t = ∂L/∂h_t, μ_t = ∂L/∂c_t and m = tanh(c_t),

        μ_t     += λ_t ⊙ o ⊙ (1 - m²)                                                        (L5)
        δ_i = μ_t ⊙ g ⊙ i(1-i)          δ_f = μ_t ⊙ c_{t-1} ⊙ f(1-f)
        δ_g = μ_t ⊙ i ⊙ (1-g²)          δ_o = λ_t ⊙ m ⊙ o(1-o)                               (L6)
        λ_{t-1}  = [δ_i δ_f δ_g δ_o] W_hᵀ,    μ_{t-1} = μ_t ⊙ f                              (L7)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ [δ_i δ_f δ_g δ_o],    ∂L/∂z_t = δ_t                          (L8)

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        forget_bias: what `init` puts into the forget gate's part of `b`; nothing is added later.

    Returns:
        A Cell with params `w_x (I, 4H)`, `w_h (H, 4H)`, `b (4H)`, gates in the order i, f, g, o,
        all of one floating dtype, and the carry `LSTMCarry(h, c)`, each `(*batch, H)`. Inputs x
        `(*batch, I)`, outputs h `(*batch, H)`, dimensionless. c is float32 where params are
        narrower.

    Gradient: exact, by hand. Time: one recurrent product a step forward and one backward, in order;
    the kernel's gradient is one more for all steps at once. Memory: h, c and the four gates,
    6·T·B·H.

    Source: S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997);
    F. Gers, J. Schmidhuber, F. Cummins, "Learning to forget", Neural Computation 12 (2000).
    """
    form = LSTMForm("lstm", hidden_size, LSTMGates.biases(forget_bias))
    return form.cell(form.driven, advance, adjoint, gather, parts.recurrent_kernel)  # (L1)


def advance(w: Kernel, carry_tm1: LSTMCarry, z: Drive) -> tuple[LSTMCarry, LSTMGates]:
    a = LSTMGates(*parts.split_gates(parts.product(carry_tm1.h, w), 4))
    c, i, f, g = remembered(a, carry_tm1.c, z)
    o = sigmoid(z.gates.o + a.o)  # (L2)
    return LSTMCarry(o * tanh(c), c), LSTMGates(i, f, g, o)  # (L4)


def adjoint(w: Kernel, seen: Seen, d_carry: LSTMCarry) -> tuple[LSTMCarry, LSTMGates]:
    f, o, m = seen.saved.f, seen.saved.o, tanh(seen.carry.c)
    d_c = d_carry.c + d_carry.h * o * (1 - m * m)  # (L5)
    delta_o = d_carry.h * m * o * (1 - o)  # (L6)
    delta = remembered_adjoint(seen, seen.saved, d_c, delta_o)
    d_h_tm1 = parts.product_adjoint(parts.join_gates(*delta), w)
    return LSTMCarry(d_h_tm1, d_c * f), delta  # (L7)


def gather(w: Kernel, seen: Seen, deltas: LSTMGates) -> tuple[Kernel, Drive]:
    d_w = parts.product_gathered(seen.carry_tm1.h, parts.join_gates(*deltas), w)
    return d_w, Drive(deltas)  # (L8)


class LSTMForm(Form):
    """The form of a cell with the gates i, f, g, o and a memory beside its state."""

    def carry(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Carry:
        """The zero state; c sums up over all time, and is float32 at least."""
        h = parts.zeros(self.state_size or self.hidden_size, batch_shape, dtype)
        c = parts.zeros(self.hidden_size, batch_shape, parts.at_least_float32(dtype))
        return LSTMCarry(h, c)

    def output(self, params: Params, carries: Carry) -> State:
        """What is seen of the carry: the state, y = h."""
        return check.instance("carry", carries, LSTMCarry).h


def remembered(a: LSTMGates, c_tm1: State, z: Drive) -> tuple[State, State, State, State]:
    """c_t, i, f, g of (L2) and (L3), where `a` is what the recurrence gives each gate."""
    x = z.gates
    i, f, g = sigmoid(x.i + a.i), sigmoid(x.f + a.f), tanh(x.g + a.g)  # (L2)
    return f * c_tm1 + i * parts.scaled(g, z.keep), i, f, g  # (L3)


def remembered_adjoint(seen: Seen, gates: LSTMGates, d_c: State, delta_o: State) -> LSTMGates:
    """All of (L6), given μ_t and δ_o."""
    (i, f, g, _), keep = gates, seen.z.keep
    return LSTMGates(
        i=d_c * parts.scaled(g, keep) * i * (1 - i),
        f=d_c * seen.carry_tm1.c * f * (1 - f),
        g=parts.scaled(d_c * i, keep) * (1 - g * g),
        o=delta_o,
    )  # (L6)
