"""Diagnostics of sequences without steps and of batches without rows."""

import jax
import jax.numpy as jnp
import pytest

import jaxrnn

CELL = jaxrnn.gru(3)
I, H = 2, 3


def loss(params, xs, loop=jaxrnn.bptt):
    return jnp.sum(jaxrnn.unroll(CELL, params, xs, loop=loop)[1])


@pytest.mark.parametrize(("steps", "rows"), [(4, 0), (0, 2)])
def test_of_nothing_there_is_nothing_to_see(steps, rows):
    params, xs = CELL.init(jax.random.key(0), I, jnp.float64), jnp.zeros((steps, rows, I))
    flow = jaxrnn.diagnostics.gradient_flow(loss, params, xs)
    assert [norms.shape for norms in flow.norms] == [(steps, rows)]
    (each,) = jaxrnn.diagnostics.per_step_gradients(loss, params, xs)
    assert {name: x.shape for name, x in each.items()} == {
        name: (steps, *p.shape) for name, p in params.items()
    }
    assert not any(map(jnp.any, jax.tree.leaves((flow.grads, each))))
    gates = jaxrnn.diagnostics.saturation(jaxrnn.history(CELL, params, xs)[0])
    assert {shares.shape for shares in gates.values()} == {(steps, 2)}
    assert jaxrnn.diagnostics.locate_nonfinite(loss, params, xs) is None
    lengths = [row.k for row in jaxrnn.diagnostics.truncation_bias(loss, params, xs)]
    assert lengths == [k for k in (1, 2) if k < steps]
    assert jaxrnn.diagnostics.adaptive_truncation(loss, params, xs).bias == 0
    found = jaxrnn.diagnostics.jacobian_spectrum(
        CELL, params, CELL.initial_carry((rows,), jnp.float64), xs
    )
    assert (found.exponents.shape, found.products.shape) == ((rows, H), (steps + 1, rows, H))
    if rows:
        assert jaxrnn.diagnostics.diagnose(
            jaxrnn.diagnostics.memory_horizon(found), spectrum=found, gates=gates
        ).findings.keys() == {"fine"}
