"""Outputs and gradients of the cells equal PyTorch's, where PyTorch is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance

import jaxrnn

torch = pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")

T, B, I, H, P = 6, 3, 4, 5, 2
PAIRS = {
    "elman": (jaxrnn.elman(H), torch.nn.RNN(I, H)),
    "gru": (jaxrnn.gru(H), torch.nn.GRU(I, H)),
    "lstm": (jaxrnn.lstm(H), torch.nn.LSTM(I, H)),
    "projected_lstm": (jaxrnn.projected_lstm(H, P), torch.nn.LSTM(I, H, proj_size=P)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_outputs_and_gradients(name):
    cell, module = PAIRS[name]
    rng, module = np.random.default_rng(0), module.double()
    w_x, w_h, b_x, b_h, *w_p = (p.detach().numpy() for p in module.parameters())
    params = {"w_x": w_x.T, "w_h": w_h.T, "b": b_x + b_h}
    if name == "gru":  # The recurrent bias of the candidate stays apart: r multiplies it.
        params["b"] = b_x + np.concatenate([b_h[: 2 * H], np.zeros(H)])
        params["b_n"] = b_h[2 * H :]
    if w_p:
        params["w_p"] = w_p[0].T
    params = jax.tree.map(jnp.asarray, params)
    xs = rng.standard_normal((T, B, I))
    v = rng.standard_normal((T, B, P if w_p else H))

    def value(params, xs):
        ys = jaxrnn.unroll(cell, params, xs)[1]
        return jnp.vdot(jnp.asarray(v), ys), ys

    grad = jax.grad(value, argnums=(0, 1), has_aux=True)
    (d_params, d_xs), ys = grad(params, jnp.asarray(xs))

    torch_xs = torch.tensor(xs, requires_grad=True)
    torch_ys, _ = module(torch_xs)
    (torch_ys * torch.tensor(v)).sum().backward()
    d_w_x, d_w_h, d_b_x, d_b_h, *d_w_p = (p.grad.numpy() for p in module.parameters())

    assert distance(ys, torch_ys.detach().numpy()) < 1e-13
    assert distance(d_xs, torch_xs.grad.numpy()) < 1e-12
    wanted = {"w_x": d_w_x.T, "w_h": d_w_h.T, "b": d_b_x}
    if name == "gru":
        wanted["b_n"] = d_b_h[2 * H :]
    if w_p:
        wanted["w_p"] = d_w_p[0].T
    assert distance(d_params, wanted) < 1e-12
