"""What is special about the CfC: the time between inputs is an input."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import cfc_step, distance, inner, noise

import jaxrnn
from jaxrnn import TimedInputs

T, B, I, H, U = 6, 3, 2, 4, 5
CELL = jaxrnn.cfc(H, backbone_size=U)


def problem():
    rng = np.random.default_rng(0)
    params = CELL.init(jax.random.key(0), I, jnp.float64)
    params = jax.tree.map(lambda p, n: p + n / 5, params, noise(rng, params))
    carry, xs = (jnp.asarray(rng.standard_normal(shape)) for shape in ((B, H), (T, B, I)))
    return params, carry, TimedInputs(xs, jnp.asarray(rng.exponential(size=(T, B))))


def test_outputs_at_irregular_times_equal_numpy():
    params, carry, (xs, dt) = problem()
    _, ys = jaxrnn.unroll(CELL, params, TimedInputs(xs, dt), carry=carry)
    params, h = jax.tree.map(np.asarray, (params, carry))
    for t in range(T):
        h = cfc_step(params, h, np.asarray(xs[t]), np.asarray(dt)[t][:, None])
        assert distance(ys[t], h) < 1e-13


def test_the_certificate_of_irregular_times():
    certificate = jaxrnn.certify(CELL, *problem())
    assert certificate.ok, str(certificate)
    assert "xs.dt" in {row.array for row in certificate.rows}


def test_without_times_each_step_takes_1():
    params, carry, (xs, dt) = problem()
    alone = jaxrnn.unroll(CELL, params, xs, carry=carry)
    timed = jaxrnn.unroll(CELL, params, TimedInputs(xs, jnp.ones_like(dt)), carry=carry)
    assert distance(alone, timed) == 0
    other = jaxrnn.unroll(CELL, params, TimedInputs(xs, dt), carry=carry)
    assert distance(alone, other) > 1e-2


def test_padding_of_nan_has_no_effect_not_even_as_a_time():
    params, carry, (xs, dt) = problem()
    lengths = jnp.asarray([T, 2, 0])
    mask = jaxrnn.lengths_to_mask(lengths, T)
    xs, dt = jnp.where(mask[..., None], xs, jnp.nan), jnp.where(mask, dt, jnp.nan)

    def value(params, dt):
        last, ys = jaxrnn.unroll(CELL, params, TimedInputs(xs, dt), carry=carry, lengths=lengths)
        return jnp.sum(ys) + jnp.sum(last), last

    (d_params, d_dt), last = jax.grad(value, argnums=(0, 1), has_aux=True)(params, dt)
    assert all(np.isfinite(d).all() for d in jax.tree.leaves((d_params, d_dt)))
    assert ((d_dt != 0) == mask).all()
    assert distance(last[2], carry[2]) == 0


def test_it_equals_ncps():
    torch = pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peers = pytest.importorskip("ncps.torch", reason="ncps is a peer, not a dependency")
    params, carry, (xs, dt) = problem()
    module = peers.CfCCell(I, H, backbone_units=U).double()
    w = {name: torch.tensor(np.array(p)) for name, p in params.items()}
    with torch.no_grad():
        module.backbone[0].weight[:] = torch.cat([w["w_x"], w["w_h"]]).T
        module.backbone[0].bias[:] = w["b"]
        heads = module.ff1, module.ff2, module.time_a, module.time_b
        for n, head in enumerate(heads):
            head.weight[:] = w["w_o"][:, n * H : (n + 1) * H].T
            head.bias[:] = w["b_o"][n * H : (n + 1) * H]
    v = noise(np.random.default_rng(1), jnp.zeros((T, B, H)))

    def value(xs, dt, carry):
        ys = jaxrnn.bptt(CELL, params, carry, TimedInputs(xs, dt))[1]
        return inner(v, ys), ys

    grads, ys = jax.grad(value, argnums=(0, 1, 2), has_aux=True)(xs, dt, carry)
    inputs = [torch.tensor(np.array(x), requires_grad=True) for x in (xs, dt, carry)]
    h, outputs = inputs[2], []
    for x, time in zip(inputs[0], inputs[1], strict=True):
        h, _ = module(x, h, time[:, None])
        outputs.append(h)
    (torch.stack(outputs) * torch.tensor(np.array(v))).sum().backward()
    assert distance(ys, torch.stack(outputs).detach().numpy()) < 1e-13
    assert distance(grads, tuple(x.grad.numpy() for x in inputs)) < 1e-12
