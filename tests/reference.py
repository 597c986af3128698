"""The equations once more, in plain NumPy and plain Python: judges that know nothing of jaxrnn."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def softplus(a):
    return np.log1p(np.exp(a))


def affine(params, x, h, columns):
    """x W_x + b and h W_h, of the given columns."""
    return x @ params["w_x"][:, columns] + params["b"][columns], h @ params["w_h"][:, columns]


def elman_step(params, h, x, f=np.tanh):
    return f(x @ params["w_x"] + params["b"] + h @ params["w_h"])


def elman_softplus_step(params, h, x):
    return elman_step(params, h, x, f=softplus)


def gru_step(params, h, x, reset_after=True):
    size = h.shape[-1]
    r_cols, z_cols, n_cols = (slice(g * size, (g + 1) * size) for g in range(3))
    r = sigmoid(sum(affine(params, x, h, r_cols)))
    z = sigmoid(sum(affine(params, x, h, z_cols)))
    if reset_after:
        from_x, from_h = affine(params, x, h, n_cols)
        n = np.tanh(from_x + r * (from_h + params["b_n"]))
    else:
        n = np.tanh(sum(affine(params, x, r * h, n_cols)))
    return (1 - z) * n + z * h


def gru_reset_before_step(params, h, x):
    return gru_step(params, h, x, reset_after=False)


def lstm_step(params, carry, x):
    h, c = carry
    size = h.shape[-1]
    columns = (slice(g * size, (g + 1) * size) for g in range(4))
    a_i, a_f, a_g, a_o = (sum(affine(params, x, h, gate)) for gate in columns)
    c = sigmoid(a_f) * c + sigmoid(a_i) * np.tanh(a_g)
    return sigmoid(a_o) * np.tanh(c), c


def projected_lstm_step(params, carry, x):
    h, c = carry
    size = c.shape[-1]
    columns = (slice(g * size, (g + 1) * size) for g in range(4))
    a_i, a_f, a_g, a_o = (sum(affine(params, x, h, gate)) for gate in columns)
    c = sigmoid(a_f) * c + sigmoid(a_i) * np.tanh(a_g)
    return (sigmoid(a_o) * np.tanh(c)) @ params["w_p"], c


def peephole_lstm_step(params, carry, x):
    h, c = carry
    size = h.shape[-1]
    columns = (slice(g * size, (g + 1) * size) for g in range(4))
    a_i, a_f, a_g, a_o = (sum(affine(params, x, h, gate)) for gate in columns)
    i, f = sigmoid(a_i + params["p_i"] * c), sigmoid(a_f + params["p_f"] * c)
    c = f * c + i * np.tanh(a_g)
    return sigmoid(a_o + params["p_o"] * c) * np.tanh(c), c


def layer_norm(a, gain, bias=0.0, epsilon=1e-2):
    mean, variance = a.mean(-1, keepdims=True), a.var(-1, keepdims=True)
    return gain * (a - mean) / np.sqrt(variance + epsilon) + bias


def layer_norm_lstm_step(params, carry, x):
    h, c = carry
    from_x = layer_norm(x @ params["w_x"], params["gain_x"], params["b"])
    from_h = layer_norm(h @ params["w_h"], params["gain_h"])
    a_i, a_f, a_g, a_o = np.split(from_x + from_h, 4, axis=-1)
    c = sigmoid(a_f) * c + sigmoid(a_i) * np.tanh(a_g)
    return sigmoid(a_o) * np.tanh(layer_norm(c, params["gain_c"], params["b_c"])), c


def layer_norm_gru_step(params, h, x):
    size = h.shape[-1]
    rz, n = slice(0, 2 * size), slice(2 * size, 3 * size)

    def norm_of(v, name, columns):
        return layer_norm(v @ params[f"w_{name}"][:, columns], params[f"gain_{name}"][columns])

    a_rz = norm_of(x, "x", rz) + params["b"][rz] + norm_of(h, "h", rz)
    r, z = sigmoid(a_rz[..., :size]), sigmoid(a_rz[..., size:])
    q = norm_of(h, "h", n) + params["b_n"]
    return (1 - z) * np.tanh(norm_of(x, "x", n) + params["b"][n] + r * q) + z * h


STEPS = {
    "elman": elman_step,
    "elman_softplus": elman_softplus_step,
    "gru": gru_step,
    "gru_reset_before": gru_reset_before_step,
    "lstm": lstm_step,
    "projected_lstm": projected_lstm_step,
    "peephole_lstm": peephole_lstm_step,
    "layer_norm_lstm": layer_norm_lstm_step,
    "layer_norm_gru": layer_norm_gru_step,
}


def run(name, params, carry, xs):
    """The last carry and all outputs of a cell, in NumPy."""
    params, carry, xs = jax.tree.map(np.asarray, (params, tuple(jax.tree.leaves(carry)), xs))
    ys = []
    for x in xs:
        carry = STEPS[name](params, carry if len(carry) > 1 else carry[0], x)
        carry = carry if isinstance(carry, tuple) else (carry,)
        ys.append(carry[0])
    return carry, np.stack(ys)


def python_loop(step, params, carry, xs, cut_before=lambda t: False):
    """A Loop written as a Python loop; the gradient is stopped where `cut_before(t)` says."""
    ys = []
    for t in range(len(jax.tree.leaves(xs)[0])):
        carry = jax.tree.map(lax.stop_gradient, carry) if cut_before(t) else carry
        carry, y = step(params, carry, jax.tree.map(lambda x, t=t: x[t], xs))
        ys.append(y)
    return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)


def distance(got, wanted):
    """The largest ‖a - b‖ / ‖b‖ of all leaves, as DESIGN measures it."""

    def of_leaf(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape, (a.shape, b.shape)
        error = np.linalg.norm((a - b).ravel())
        return 0.0 if error == 0 else error / np.linalg.norm(b.ravel())

    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    # Not Python's max, which can lose a NaN.
    return float(np.max([of_leaf(a, b) for a, b in pairs], initial=0.0))
