"""The gates of xLSTM, whose input gate is an exponential, without overflow and without a kink.

With an input gate i_t = exp(ĩ_t), a forget gate f_t = σ(f̃_t), and values u_t, a memory is

    C_t = f_t C_{t-1} + i_t u_t                                                              (X1)

which overflows. So the memory is stored as c_t = C_t exp(-m_t), where m_t is the stabiliser. Every
choice of m_t gives the same outputs. The paper takes m_t = max(log f_t + m_{t-1}, ĩ_t). Here m_t
is the smooth maximum of the two,

    m_t = log(exp(l_t) + exp(ĩ_t)),    l_t = log f_t + m_{t-1}                               (X2)
    s_t = exp(ĩ_t - m_t) = σ(ĩ_t - l_t),    exp(l_t - m_t) = 1 - s_t                         (X3)
    c_t = c_{t-1} + s_t (u_t - c_{t-1})                                                      (X4)

So c_t is a weighted mean of all u, in which s_t is the share of the newest, and exp(m_t) is the sum
of the weights, which is the paper's normaliser n_t. Every carry has a slope, the paper's has none
where both arguments of the maximum are equal. Backward, with ν_t = ∂L/∂m_t and σ_t = ∂L/∂s_t,

    d_t = σ_t s_t (1 - s_t)                                                                  (X5)
    ν_{t-1} = ν_t (1 - s_t) - d_t                                                            (X6)
    ∂L/∂ĩ_t = ν_t s_t + d_t,    ∂L/∂f̃_t = ν_{t-1} (1 - f_t)                                  (X7)

Source: M. Beck et al., "xLSTM: extended long short-term memory", NeurIPS 2024; arXiv:2405.04517,
eq. (8)-(17) and appendix A.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid
from jaxtyping import Float

from jaxrnn.types import Array

Gate = Float[Array, "*lead N"]

# The stabiliser m of a memory in which nothing is stored yet, the logarithm of 0. It is finite so
# that no difference of two of them is NaN.
EMPTY = -1e30


class ExponentialGates(NamedTuple):
    """The share s of the new value in the memory, and the forget gate f."""

    s: Gate
    f: Gate


def update_stabilizer(x_i: Gate, x_f: Gate, m_tm1: Gate) -> tuple[Gate, ExponentialGates]:
    """Returns m_t of (X2) and the gates of (X3), from ĩ_t and f̃_t."""
    kept = log_sigmoid(x_f) + m_tm1
    gap = x_i - kept
    # log(exp(a) + exp(b)) = max(a, b) + log(1 + exp(-|a - b|)), which cannot overflow.
    # `jnp.logaddexp` has other slopes where its arguments are infinite, or so large that log 2 is
    # lost.
    m = jnp.maximum(kept, x_i) + jnp.log1p(jnp.exp(-jnp.abs(gap)))
    return m, ExponentialGates(sigmoid(gap), sigmoid(x_f))


def update_stabilizer_adjoint(
    gates: ExponentialGates, d_s: Gate, d_m: Gate
) -> tuple[Gate, Gate, Gate]:
    """Returns ν_{t-1}, ∂L/∂ĩ_t and ∂L/∂f̃_t."""
    s, f = gates
    d = d_s * s * (1 - s)  # (X5)
    d_m_tm1 = d_m * (1 - s) - d  # (X6)
    return d_m_tm1, d_m * s + d, d_m_tm1 * (1 - f)  # (X7)
