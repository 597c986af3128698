"""Steps of many kinds, as users write them, that are not cells of jaxrnn.

Each function returns a `Kind`: a step, its parameters, a first carry, and inputs. The sizes `FULL`
are those of a small model on a CPU; `QUICK` is small enough for a test. `benchmarks.kinds_of_step`
measures all of them.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxrnn


class Kind(NamedTuple):
    """The arguments of a loop: a step, its parameters, a first carry, and inputs `(T, ...)`."""

    step: jaxrnn.Step
    params: Any
    carry: Any
    xs: Any


class Sizes(NamedTuple):
    """Time, batch, features, slots of a memory, tokens of a vocabulary."""

    T: int
    B: int
    H: int
    S: int
    V: int


FULL = Sizes(T=60, B=16, H=128, S=50, V=500)
QUICK = Sizes(T=6, B=2, H=8, S=4, V=11)


def _normal(i: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(i), shape)


def _weights(size: int, names: str) -> dict[str, jax.Array]:
    """Draws a square matrix for each letter."""
    return {name: 0.05 * _normal(i, size, size) for i, name in enumerate(names)}


def _attend(query: jax.Array, memory: jax.Array) -> jax.Array:
    """Returns the mean of a memory `(S, B, H)`, weighted by a softmax over its slots."""
    weights = jax.nn.softmax(jnp.einsum("bh,sbh->sb", query, memory), 0)
    return jnp.einsum("sb,sbh->bh", weights, memory)


def attention_carried(n: Sizes) -> Kind:
    """An attention decoder with the encoder outputs in the carry."""

    def step(p: Any, carry: Any, x: Any) -> Any:
        h, memory = carry
        context = _attend(h @ p["q"], memory)
        h = jnp.tanh(x @ p["x"] + h @ p["h"] + context @ p["c"])
        return (h, memory), h

    carry = jnp.zeros((n.B, n.H)), _normal(7, n.S, n.B, n.H)
    return Kind(step, _weights(n.H, "qxhc"), carry, _normal(8, n.T, n.B, n.H))


def attention_closed_over(n: Sizes) -> Kind:
    """The same decoder with the encoder outputs in the parameters, as in a closure."""

    def step(p: Any, h: Any, x: Any) -> Any:
        weights, memory = p
        context = _attend(h @ weights["q"], memory)
        h = jnp.tanh(x @ weights["x"] + h @ weights["h"] + context @ weights["c"])
        return h, h

    params = _weights(n.H, "qxhc"), _normal(7, n.S, n.B, n.H)
    return Kind(step, params, jnp.zeros((n.B, n.H)), _normal(8, n.T, n.B, n.H))


def additive_attention(n: Sizes) -> Kind:
    """Bahdanau's attention: a tanh of every slot at every step."""

    def step(p: Any, carry: Any, x: Any) -> Any:
        h, memory, keys = carry
        energy = jnp.tanh(keys + h @ p["q"]) @ p["v"][:, 0]
        context = jnp.einsum("sb,sbh->bh", jax.nn.softmax(energy, 0), memory)
        h = jnp.tanh(x @ p["x"] + h @ p["h"] + context @ p["c"])
        return (h, memory, keys), h

    memory = _normal(7, n.S, n.B, n.H)
    carry = jnp.zeros((n.B, n.H)), memory, 0.1 * memory
    return Kind(step, _weights(n.H, "qxhcv"), carry, _normal(8, n.T, n.B, n.H))


def ring_buffer(n: Sizes) -> Kind:
    """A delay of 16 steps by a ring buffer."""

    def step(p: Any, carry: Any, x: Any) -> Any:
        buffer, i = carry
        late = jax.lax.dynamic_index_in_dim(buffer, (i + 1) % 16, keepdims=False)
        h = jnp.tanh(late @ p["h"] + x @ p["x"])
        return (jax.lax.dynamic_update_index_in_dim(buffer, h, i % 16, 0), i + 1), h

    carry = jnp.zeros((16, n.B, n.H)), jnp.zeros((), jnp.int32)
    return Kind(step, _weights(n.H, "xh"), carry, _normal(8, n.T, n.B, n.H))


def key_value_cache(n: Sizes) -> Kind:
    """Attention over all steps so far, with keys and values in a cache."""

    def step(p: Any, carry: Any, x: Any) -> Any:
        keys, values, i = carry
        keys = jax.lax.dynamic_update_index_in_dim(keys, x @ p["k"], i, 0)
        values = jax.lax.dynamic_update_index_in_dim(values, x @ p["v"], i, 0)
        scores = jnp.einsum("bh,tbh->tb", x @ p["q"], keys) / n.H**0.5
        masked = jnp.where(jnp.arange(n.T)[:, None] <= i, scores, -1e9)
        y = jnp.einsum("tb,tbh->bh", jax.nn.softmax(masked, 0), values)
        return (keys, values, i + 1), y

    empty = jnp.zeros((n.T, n.B, n.H))
    carry = empty, empty, jnp.zeros((), jnp.int32)
    return Kind(step, _weights(n.H, "qkv"), carry, _normal(8, n.T, n.B, n.H))


def convolutional_lstm(n: Sizes) -> Kind:
    """A ConvLSTM on images of 12 by 12 pixels with 8 channels."""
    side, channels = (12, 8) if n == FULL else (4, 2)

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        form = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=form)

    def step(p: Any, carry: Any, x: Any) -> Any:
        h, c = carry
        i, f, g, o = jnp.split(convolve(x, p["x"]) + convolve(h, p["h"]) + p["b"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    kernel = 0.1 * _normal(1, 3, 3, channels, 4 * channels)
    params = {"x": kernel, "h": -kernel, "b": jnp.zeros(4 * channels)}
    zero = jnp.zeros((n.B, side, side, channels))
    return Kind(step, params, (zero, zero), _normal(8, n.T, *zero.shape))


def external_memory(n: Sizes) -> Kind:
    """A memory of slots with erase and add operations, as in a neural Turing machine."""
    slots, width = (32, 24) if n == FULL else (3, 2)

    def step(p: Any, carry: Any, x: Any) -> Any:
        h, memory = carry
        weights = jax.nn.softmax(h @ p["address"], -1)
        read = jnp.einsum("bs,bsw->bw", weights, memory)
        h = jnp.tanh(x @ p["x"] + h @ p["h"] + read @ p["read"])
        erase, add = jax.nn.sigmoid(h @ p["erase"]), jnp.tanh(h @ p["add"])
        memory = memory * (1 - weights[..., None] * erase[:, None]) + jnp.einsum(
            "bs,bw->bsw", weights, add
        )
        return (h, memory), h

    shapes = {
        **dict.fromkeys(("x", "h"), (n.H, n.H)),
        "address": (n.H, slots),
        **dict.fromkeys(("erase", "add"), (n.H, width)),
        "read": (width, n.H),
    }
    params = {name: 0.1 * _normal(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    carry = jnp.zeros((n.B, n.H)), 0.1 * _normal(7, n.B, slots, width)
    return Kind(step, params, carry, _normal(8, n.T, n.B, n.H))


def matrix_state(n: Sizes) -> Kind:
    """Gated linear attention: a decaying sum of outer products."""
    size = 32 if n == FULL else 4

    def step(p: Any, state: Any, x: Any) -> Any:
        q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
        decay = jax.nn.sigmoid(x @ p["a"])
        state = decay[..., None] * state + k[..., None] * v[:, None]
        return state, jnp.einsum("bi,bij->bj", q, state)

    params = {name: 0.1 * _normal(i, n.H, size) for i, name in enumerate("qkva")}
    return Kind(step, params, jnp.zeros((n.B, size, size)), _normal(8, n.T, n.B, n.H))


def delta_rule(n: Sizes) -> Kind:
    """The delta rule: a matrix whose prediction for each key is corrected towards the value."""
    size = 32 if n == FULL else 4

    def step(p: Any, state: Any, x: Any) -> Any:
        q, k, v = x @ p["q"], jnp.tanh(x @ p["k"]), x @ p["v"]
        rate = jax.nn.sigmoid(x @ p["b"])
        error = v - jnp.einsum("bi,bij->bj", k, state)
        state = state + jnp.einsum("bi,bj->bij", k, rate * error)
        return state, jnp.einsum("bi,bij->bj", q, state)

    params = {name: 0.1 * _normal(i, n.H, size) for i, name in enumerate("qkvb")}
    return Kind(step, params, jnp.zeros((n.B, size, size)), _normal(8, n.T, n.B, n.H))


def runge_kutta(n: Sizes) -> Kind:
    """A differential equation, solved by one step of the classical Runge-Kutta method."""

    def step(p: Any, h: Any, x: Any) -> Any:
        drive = x @ p["x"]

        def slope(h: jax.Array) -> jax.Array:
            return jnp.tanh(h @ p["h"] + drive) - h

        k1 = slope(h)
        k2 = slope(h + 0.05 * k1)
        k3 = slope(h + 0.05 * k2)
        k4 = slope(h + 0.1 * k3)
        h = h + 0.1 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return h, h

    return Kind(step, _weights(n.H, "xh"), jnp.zeros((n.B, n.H)), _normal(8, n.T, n.B, n.H))


def _tokens(n: Sizes, i: int) -> jax.Array:
    return jax.random.randint(jax.random.key(i), (n.T, n.B), 0, n.V)


def embedding_inside(n: Sizes) -> Kind:
    """Tokens with the embedding inside the step."""

    def step(p: Any, h: Any, token: Any) -> Any:
        h = jnp.tanh(p["table"][token] @ p["x"] + h @ p["h"])
        return h, h

    params = {**_weights(n.H, "xh"), "table": _normal(5, n.V, n.H)}
    return Kind(step, params, jnp.zeros((n.B, n.H)), _tokens(n, 8))


def tied_softmax_loss(n: Sizes) -> Kind:
    """A language model with tied embedding and output weights, and the loss inside the step."""

    def step(p: Any, h: Any, x: Any) -> Any:
        token, target = x
        h = jnp.tanh(p["table"][token] @ p["x"] + h @ p["h"])
        logs = jax.nn.log_softmax(h @ p["table"].T)
        return h, -jnp.take_along_axis(logs, target[:, None], 1)[:, 0]

    params = {**_weights(n.H, "xh"), "table": 0.1 * _normal(5, n.V, n.H)}
    return Kind(step, params, jnp.zeros((n.B, n.H)), (_tokens(n, 8), _tokens(n, 9)))


def masked_weights(n: Sizes) -> Kind:
    """Sparse recurrent weights with fixed signs: Dale's law, as in neuroscience."""

    def step(p: Any, h: Any, x: Any) -> Any:
        w = jax.nn.relu(p["h"]) * p["mask"] * p["sign"][:, None]
        h = 0.8 * h + 0.2 * jax.nn.relu(x @ p["x"] + h @ w)
        return h, h

    params = _weights(n.H, "xh")
    params["mask"] = (_normal(5, n.H, n.H) > 0).astype(jnp.float32)
    params["sign"] = jnp.sign(_normal(6, n.H))
    return Kind(step, params, jnp.zeros((n.B, n.H)), _normal(8, n.T, n.B, n.H))


def layer_norm_with_keys(n: Sizes) -> Kind:
    """A normalised state with dropout, with its keys in the inputs."""

    def step(p: Any, h: Any, x: Any) -> Any:
        x, key = x
        a = x @ p["x"] + h @ p["h"]
        a = (a - a.mean(-1, keepdims=True)) * jax.lax.rsqrt(a.var(-1, keepdims=True) + 1e-5)
        h = jnp.tanh(a * p["gain"] + p["bias"])
        return h, h * jax.random.bernoulli(key, 0.9, h.shape) / 0.9

    params = {**_weights(n.H, "xh"), "gain": jnp.ones(n.H), "bias": jnp.zeros(n.H)}
    xs = _normal(8, n.T, n.B, n.H), jax.random.split(jax.random.key(3), n.T)
    return Kind(step, params, jnp.zeros((n.B, n.H)), xs)


def nested_unroll(n: Sizes) -> Kind:
    """An RNN of RNNs: the input of each step is a short sequence."""
    cell, inner_steps = jaxrnn.gru(n.H // 2), 5

    def step(p: Any, h: Any, x: Any) -> Any:
        inner, _ = jaxrnn.unroll(cell, p["cell"], x)
        h = jnp.tanh(inner @ p["x"] + h @ p["h"])
        return h, h

    params = {
        "cell": cell.init(jax.random.key(0), n.H // 2),
        "x": 0.1 * _normal(1, n.H // 2, n.H),
        "h": 0.05 * _normal(2, n.H, n.H),
    }
    xs = _normal(8, n.T, inner_steps, n.B, n.H // 2)
    return Kind(step, params, jnp.zeros((n.B, n.H)), xs)


def nested_scan(n: Sizes) -> Kind:
    """Three inner iterations of the state at each step, by `lax.scan`."""

    def step(p: Any, h: Any, x: Any) -> Any:
        def inner(h: Any, _: Any) -> Any:
            return jnp.tanh(x @ p["x"] + h @ p["h"]), None

        h, _ = jax.lax.scan(inner, h, length=3)
        return h, h

    return Kind(step, _weights(n.H, "xh"), jnp.zeros((n.B, n.H)), _normal(8, n.T, n.B, n.H))


def flax_cell(n: Sizes) -> Kind:
    """The GRU of Flax."""
    from flax import nnx

    cell = nnx.GRUCell(n.H, n.H, rngs=nnx.Rngs(0))
    form, state, rest = nnx.split(cell, nnx.Param, ...)

    def step(state: Any, h: Any, x: Any) -> Any:
        return nnx.merge(form, state, rest)(h, x)

    return Kind(step, state, jnp.zeros((n.B, n.H)), _normal(8, n.T, n.B, n.H))


def equinox_cell(n: Sizes) -> Kind:
    """The LSTM of Equinox, which is written for a single row."""
    import equinox

    cell = equinox.nn.LSTMCell(n.H, n.H, key=jax.random.key(0))
    arrays, static = equinox.partition(cell, equinox.is_array)

    def step(arrays: Any, carry: Any, x: Any) -> Any:
        carry = jax.vmap(equinox.combine(arrays, static))(x, carry)
        return carry, carry[0]

    zero = jnp.zeros((n.B, n.H))
    return Kind(step, arrays, (zero, zero), _normal(8, n.T, n.B, n.H))


_INDEPENDENT = (
    attention_carried,
    attention_closed_over,
    additive_attention,
    ring_buffer,
    key_value_cache,
    convolutional_lstm,
    external_memory,
    matrix_state,
    delta_rule,
    runge_kutta,
    embedding_inside,
    tied_softmax_loss,
    masked_weights,
    layer_norm_with_keys,
    nested_unroll,
    nested_scan,
)
_OF_LIBRARIES = {"flax": flax_cell, "equinox": equinox_cell}


@functools.cache
def kinds() -> dict[str, Callable[[Sizes], Kind]]:
    """Returns all kinds by name; those of other libraries only if the library is installed."""
    installed = [make for name, make in _OF_LIBRARIES.items() if importlib.util.find_spec(name)]
    return {make.__name__: make for make in (*_INDEPENDENT, *installed)}
