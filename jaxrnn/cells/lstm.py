"""The long short-term memory of Hochreiter and Schmidhuber (1997), with forget gate."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import sigmoid

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.types import Array, Cell


class LSTMCarry(NamedTuple):
    """The hidden state h and the memory c, each `(*batch, H)`."""

    h: Array
    c: Array


class LSTMGates(NamedTuple):
    """One array `(*batch, H)` a gate: pre-activations, activations or their cotangents."""

    i: Array
    f: Array
    g: Array
    o: Array


class LSTMWeights(NamedTuple):
    """What the loop uses: the recurrent kernel, and its transpose for the way back."""

    w_h: Array
    w_h_t: Array


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
        A Cell with params `w_x (I, 4H)`, `w_h (H, 4H)`, `b (4H)`, gates in the order i, f, g, o, all
        of one floating dtype, and the carry `LSTMCarry(h, c)`, each `(*batch, H)`. Inputs x
        `(*batch, I)`, outputs h `(*batch, H)`, dimensionless.

    Gradient: exact, by hand. Time: three products of the size of the forward one per step, two of
    them outside the loop. Memory: h, c and the four gates, 6·T·B·H.

    Source: S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997);
    F. Gers, J. Schmidhuber, F. Cummins, "Learning to forget", Neural Computation 12 (2000).
    """
    check.integer("hidden_size", hidden_size, least=1)
    return _lstm(hidden_size, check.number("forget_bias", forget_bias))


@functools.cache
def _lstm(hidden_size: int, forget_bias: float) -> Cell:
    def init(key, input_size, dtype=jnp.float32):
        params = parts.initial(key, input_size, hidden_size, 4, dtype)
        b = LSTMGates(*parts.split_gates(params["b"], 4))
        return {**params, "b": parts.join_gates(*b._replace(f=b.f + forget_bias))}

    def carry(batch_shape=(), dtype=jnp.float32):
        # Two arrays, not one twice: a buffer may be donated only once.
        return LSTMCarry(*(parts.zero_carry(hidden_size, batch_shape, dtype) for _ in "hc"))

    def project(params, xs):
        return LSTMGates(*parts.project_gates("lstm", params, xs, 4, hidden_size))  # (L1)

    def prepare(params):
        return LSTMWeights(params["w_h"], params["w_h"].T)

    def advance(w, carry_tm1, z):
        a = LSTMGates(*parts.split_gates(carry_tm1.h @ w.w_h, 4))
        i, f, o = sigmoid(z.i + a.i), sigmoid(z.f + a.f), sigmoid(z.o + a.o)  # (L2)
        g = jnp.tanh(z.g + a.g)
        c = f * carry_tm1.c + i * g  # (L3)
        return LSTMCarry(o * jnp.tanh(c), c), LSTMGates(i, f, g, o)  # (L4)

    def output(params, carries):
        return carries.h

    def adjoint(w, carry_tm1, z, carry_t, saved, d_carry):
        i, f, g, o = saved
        m = jnp.tanh(carry_t.c)
        d_c = d_carry.c + d_carry.h * o * (1 - m * m)  # (L5)
        delta = LSTMGates(
            i=d_c * g * i * (1 - i),
            f=d_c * carry_tm1.c * f * (1 - f),
            g=d_c * i * (1 - g * g),
            o=d_carry.h * m * o * (1 - o),
        )  # (L6)
        return LSTMCarry(parts.join_gates(*delta) @ w.w_h_t, d_c * f), delta  # (L7)

    def gather(w, carries_tm1, zs, carries, saved, deltas):
        d_w_h = parts.summed_product(carries_tm1.h, parts.join_gates(*deltas))
        return LSTMWeights(d_w_h, None), deltas  # (L8)

    return Cell(init, carry, project, advance, output, adjoint, gather, prepare)
