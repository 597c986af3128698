"""The equations once more, in plain NumPy and plain Python: judges that know nothing of jaxrnn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


def layer_norm(a, gain, bias=0.0, epsilon=1e-5):
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


def mgu_step(params, h, x):
    size = h.shape[-1]
    f = sigmoid(sum(affine(params, x, h, slice(0, size))))
    n = np.tanh(sum(affine(params, x, f * h, slice(size, 2 * size))))
    return (1 - f) * h + f * n


def indrnn_step(params, h, x, f=lambda a: np.maximum(a, 0)):
    return f(x @ params["w_x"] + params["u"] * h + params["b"])


def indrnn_tanh_step(params, h, x):
    return indrnn_step(params, h, x, f=np.tanh)


def min_gru_step(params, h, x):
    a_z, n = np.split(x @ params["w_x"] + params["b"], 2, axis=-1)
    z = sigmoid(a_z)
    return (1 - z) * h + z * n


def min_lstm_step(params, h, x):
    a_f, a_i, n = np.split(x @ params["w_x"] + params["b"], 3, axis=-1)
    f, i = sigmoid(a_f), sigmoid(a_i)
    return f / (f + i) * h + i / (f + i) * n


def lru_step(params, state, x):
    decay = np.exp(-np.exp(params["nu_log"]) + 1j * np.exp(params["theta_log"]))
    driven = x @ (params["b_re"] + 1j * params["b_im"])
    return decay * state + np.exp(params["gamma_log"]) * driven


def lru_output(params, state):
    return (state @ (params["c_re"] + 1j * params["c_im"])).real


def rg_lru_step(params, h, x):
    u = x @ params["w_x"]
    r = sigmoid(block_product(u, params["w_r"]) + params["b_r"])
    i = sigmoid(block_product(u, params["w_i"]) + params["b_i"])
    log_a = -8 * softplus(params["a_param"]) * r
    return np.exp(log_a) * h + np.sqrt(-np.expm1(2 * log_a)) * i * u


def block_product(u, blocks):
    parts = zip(np.split(u, len(blocks), axis=-1), blocks, strict=True)
    return np.concatenate([part @ block for part, block in parts], axis=-1)


def s5_step(params, state, x):
    eigenvalues = params["lambda_re"] + 1j * params["lambda_im"]
    decay = np.exp(eigenvalues * np.exp(params["log_step"]))
    return decay * state + x @ (params["b_re"] + 1j * params["b_im"]) * (decay - 1) / eigenvalues


def s5_output(params, state):
    return 2 * (state @ (params["c_re"] + 1j * params["c_im"])).real


def selective_ssm_step(params, carry, x):
    h, _, _ = carry
    u = x @ params["w_x"]
    dt = softplus(u @ params["w_dt_down"] @ params["w_dt_up"] + params["b_dt"])
    decay = np.exp(np.einsum("...d,dn->...dn", dt, -np.exp(params["a_log"])))
    driven = np.einsum("...d,...n->...dn", dt * u, u @ params["w_b"])
    return decay * h + driven, u @ params["w_c"], u


def selective_ssm_output(params, h, c, u):
    return np.einsum("...dn,...n->...d", h, c) + params["d"] * u


def log_sigmoid(a):
    return -np.log1p(np.exp(-a))


def slstm_step(params, carry, x):
    """As the paper has it: the greater exponent as stabiliser m, and the normaliser n beside c."""
    h, c, m = carry
    heads, size, _ = params["w_h"].shape
    blocks = [h[..., n * size : (n + 1) * size] @ params["w_h"][n] for n in range(heads)]
    by_gate = zip(*(np.split(block, 4, axis=-1) for block in blocks), strict=True)
    from_h = np.concatenate([p for gate in by_gate for p in gate], axis=-1)
    a_i, a_f, a_g, a_o = np.split(x @ params["w_x"] + params["b"] + from_h, 4, axis=-1)
    stabilizer = np.maximum(log_sigmoid(a_f) + m, a_i)
    i, f = np.exp(a_i - stabilizer), np.exp(log_sigmoid(a_f) + m - stabilizer)
    c, n = f * c + i * np.tanh(a_g), f + i
    return sigmoid(a_o) * c / n, c / n, stabilizer + np.log(n)


def mlstm_step(params, carry, x):
    """As the paper has it: the greater exponent as stabiliser m; then the states for ours."""
    _, c, n, m = carry
    heads, keys, values = c.shape[-3:]
    sizes = [heads * keys, heads * keys, heads * values, heads, heads, heads * values]
    parts = np.split(x @ params["w_x"] + params["b"], np.cumsum(sizes)[:-1], axis=-1)
    q, k, v, o = (parts[g].reshape(*x.shape[:-1], heads, -1) for g in (0, 1, 2, 5))
    a_i, a_f = parts[3], parts[4]
    stabilizer = np.maximum(log_sigmoid(a_f) + m, a_i)
    i, f = np.exp(a_i - stabilizer), np.exp(log_sigmoid(a_f) + m - stabilizer)
    k = k / np.sqrt(keys)
    c = f[..., None, None] * c + i[..., None, None] * k[..., None] * v[..., None, :]
    n = f[..., None] * n + i[..., None] * k
    size = np.maximum(np.abs((q * n).sum(-1)), np.exp(-stabilizer))
    h = sigmoid(o) * (q[..., None] * c).sum(-2) / size[..., None]
    scale = i + f
    c, n = c / scale[..., None, None], n / scale[..., None]
    return h.reshape(*x.shape[:-1], -1), c, n, stabilizer + np.log(scale)


def delta_rule_step(params, carry, x):
    """S as the paper writes it, `(V, K)`."""
    _, memory = carry
    heads, keys, values = memory.shape[-3:]
    sizes = [heads * keys, heads * keys, heads * values, heads, heads]
    parts = np.split(x @ params["w_x"] + params["b"], np.cumsum(sizes)[:-1], axis=-1)
    q, k, v = (part.reshape(*x.shape[:-1], heads, -1) for part in parts[:3])
    q, k = (u / np.sqrt((u**2).sum(-1, keepdims=True) + 1e-6) for u in (q, k))
    alpha = np.exp(-np.exp(params["a_log"]) * softplus(parts[3]))[..., None, None]
    beta = sigmoid(parts[4])[..., None, None]
    turned = np.eye(keys) - beta * k[..., :, None] * k[..., None, :]
    s = alpha * np.swapaxes(memory, -1, -2) @ turned + beta * v[..., :, None] * k[..., None, :]
    h = (s @ q[..., None])[..., 0]
    return h.reshape(*x.shape[:-1], -1), np.swapaxes(s, -1, -2)


def convolve_line(images, kernel):
    """Over one axis, with as many zeros on the left as on the right, or one fewer."""
    size = len(kernel)
    padded = np.pad(images, [(0, 0)] * (images.ndim - 2) + [((size - 1) // 2, size // 2), (0, 0)])
    length = images.shape[-2]
    return sum(padded[..., n : n + length, :] @ kernel[n] for n in range(size))


def conv_lstm_step(params, carry, x):
    """Of one spatial axis."""
    h, c = carry
    a = convolve_line(x, params["w_x"]) + params["b"] + convolve_line(h, params["w_h"])
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=-1)
    c = sigmoid(a_f) * c + sigmoid(a_i) * np.tanh(a_g)
    return sigmoid(a_o) * np.tanh(c), c


def cornn_step(params, carry, x, dt=0.3, gamma=1.2, epsilon=0.7):
    y, v = carry
    from_states = np.concatenate([y, v], axis=-1) @ params["w_h"]
    force = np.tanh(x @ params["w_x"] + params["b"] + from_states)
    v = v + dt * (force - gamma * y - epsilon * v)
    return y + dt * v, v


def echo_state_step(params, h, x, leak=0.7):
    return (1 - leak) * h + leak * elman_step(params, h, x)


def cfc_step(params, h, x, dt=1.0):
    s = 1.7159 * np.tanh(0.666 * (x @ params["w_x"] + params["b"] + h @ params["w_h"]))
    f, g, a, c = np.split(s @ params["w_o"] + params["b_o"], 4, axis=-1)
    tau = sigmoid(a * dt + c)
    return np.tanh(f) * (1 - tau) + tau * np.tanh(g)


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
    "mgu": mgu_step,
    "indrnn": indrnn_step,
    "indrnn_tanh": indrnn_tanh_step,
    "min_gru": min_gru_step,
    "min_lstm": min_lstm_step,
    "lru": lru_step,
    "rg_lru": rg_lru_step,
    "s5": s5_step,
    "selective_ssm": selective_ssm_step,
    "slstm": slstm_step,
    "mlstm": mlstm_step,
    "delta_rule": delta_rule_step,
    "conv_lstm": conv_lstm_step,
    "cornn": cornn_step,
    "echo_state": echo_state_step,
    "cfc": cfc_step,
}
# What a cell shows of its carry, where that is more than its first array.
OUTPUTS = {"lru": lru_output, "s5": s5_output, "selective_ssm": selective_ssm_output}


def run(name, params, carry, xs):
    """The last carry and all outputs of a cell, in NumPy."""
    params, carry, xs = jax.tree.map(np.asarray, (params, tuple(jax.tree.leaves(carry)), xs))
    ys = []
    for x in xs:
        alone = len(carry) == 1
        carry = STEPS[name](params, carry[0] if alone else carry, x)
        carry = (carry,) if alone else carry
        ys.append(OUTPUTS[name](params, *carry) if name in OUTPUTS else carry[0])
    return carry, np.stack(ys)


def windowed_scan(step, params, carry, xs, reach=lambda t: 0):
    """`lax.scan`; where the output of step t shall see no gradient before `reach(t)`, in windows.

    Each window is run apart, from a constant carry, and is asked for no more than its own outputs.
    """

    def run(carry, begin, end):
        xs_here = jax.tree.map(lambda x: x[begin:end], xs)
        return lax.scan(functools.partial(step, params), carry, xs_here)

    steps = len(jax.tree.leaves(xs)[0])
    begins, parts, last = [reach(t) for t in range(steps)], [], carry
    for end, begin in enumerate(begins, start=1):
        if end == steps or begins[end] != begin:
            start = jax.tree.map(lax.stop_gradient, run(carry, 0, begin)[0]) if begin else carry
            last, ys = run(start, begin, end)
            own = slice(-begins.count(begin), None)
            parts.append(jax.tree.map(lambda y, own=own: y[own], ys))
    return last, jax.tree.map(lambda *ys: jnp.concatenate(ys), *parts)


def noise(rng, like):
    """Standard normal numbers for every array of a tree, in double precision."""

    def normal(x):
        numbers = rng.standard_normal(x.shape)
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            numbers = numbers + 1j * rng.standard_normal(x.shape)
        return jnp.asarray(numbers)

    return jax.tree.map(normal, like)


def inner(v, outputs):
    """⟨v, outputs⟩ = Re Σ v · outputs, the pairing in which JAX's gradients are slopes."""
    pairs = zip(jax.tree.leaves(v), jax.tree.leaves(outputs), strict=True)
    return sum(jnp.vdot(jnp.conj(a), b).real.astype(float) for a, b in pairs)


def distance(got, wanted):
    """The largest ‖a - b‖ / ‖b‖ of all leaves, as DESIGN measures it."""

    def of_leaf(a, b):
        dtype = np.complex128 if np.iscomplexobj(b) else np.float64
        a, b = np.asarray(a, dtype), np.asarray(b, dtype)
        assert a.shape == b.shape, (a.shape, b.shape)
        error = np.linalg.norm((a - b).ravel())
        return 0.0 if error == 0 else error / np.linalg.norm(b.ravel())

    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    # Not Python's max, which can lose a NaN.
    return float(np.max([of_leaf(a, b) for a, b in pairs], initial=0.0))


def often(names, chosen):
    """All as parameters of a test, those that are not chosen left to `pytest -m thorough`."""
    thorough = pytest.mark.thorough
    return [pytest.param(name, marks=[] if name in chosen else thorough) for name in names]


# Ours, one that cuts windows which overlap, one that runs anew: the others are made of these.
SOME_LOOPS = ("bptt", "truncated:2:5", "checkpointed")


# Cells whose starts and files are made as those of the others: there one dtype stands for all.
MODERN = ("slstm", "mlstm", "delta_rule", "conv_lstm", "cornn", "echo_state", "cfc")


def cells_and_dtypes(cells, dtypes, first):
    """All pairs, of a modern cell all dtypes but the first left to `pytest -m thorough`."""
    return [
        pytest.param(
            *(cell, dtype),
            marks=[] if cell not in MODERN or dtype == first else pytest.mark.thorough,
        )
        for cell in cells
        for dtype in dtypes
    ]


def subjaxprs(jaxpr):
    """The jaxpr and all jaxprs inside it."""
    yield jaxpr
    for eqn in jaxpr.eqns:
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from subjaxprs(inner)


def scans(jaxpr):
    """All loops in a jaxpr, however deep."""
    return [eqn for sub in subjaxprs(jaxpr) for eqn in sub.eqns if eqn.primitive.name == "scan"]
