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


STEPS = {
    "elman": elman_step,
    "elman_softplus": elman_softplus_step,
    "gru": gru_step,
    "gru_reset_before": gru_reset_before_step,
    "lstm": lstm_step,
}


def run(name, params, carry, xs):
    """The last carry and all outputs of a cell, in NumPy."""
    params, carry, xs = jax.tree.map(np.asarray, (params, tuple(jax.tree.leaves(carry)), xs))
    ys = []
    for x in xs:
        carry = STEPS[name](params, carry if name == "lstm" else carry[0], x)
        carry = carry if name == "lstm" else (carry,)
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
