"""The cells as plain steps for `lax.scan`, with the parameters of jaxrnn's cells."""

from typing import Any

import jax.numpy as jnp
from jax.nn import sigmoid

from jaxrnn import LSTMCarry


def elman(params: Any, h: Any, x: Any) -> Any:
    """H = tanh(x W_x + h W_h + b)."""
    h = jnp.tanh(x @ params["w_x"] + h @ params["w_h"] + params["b"])
    return h, h


def gru(params: Any, h: Any, x: Any) -> Any:
    """The GRU with reset after the product."""
    x_r, x_z, x_n = jnp.split(x @ params["w_x"] + params["b"], 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ params["w_h"], 3, axis=-1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * (h_n + params["b_n"]))
    h = (1 - z) * n + z * h
    return h, h


def lstm(params: Any, carry: Any, x: Any) -> Any:
    """The LSTM, gates i, f, g, o."""
    a = x @ params["w_x"] + carry.h @ params["w_h"] + params["b"]
    i, f, g, o = jnp.split(a, 4, axis=-1)
    c = sigmoid(f) * carry.c + sigmoid(i) * jnp.tanh(g)
    h = sigmoid(o) * jnp.tanh(c)
    return LSTMCarry(h, c), h
