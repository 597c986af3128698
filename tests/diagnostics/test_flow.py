"""`gradient_flow`, `per_step_gradients` and `saturation` against direct, slow computations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance

import jaxrnn
from jaxrnn.diagnostics import gradient_flow, per_step_gradients, saturation

T, B, I, H = 5, 2, 2, 3


@functools.cache
def problem(net):
    rng = np.random.default_rng(0)
    params = net.init(jax.random.key(0), I, jnp.float64)
    return params, jnp.asarray(rng.standard_normal((T, B, I)))


def value(ys):
    return jnp.sum(jnp.sin(ys) * jnp.arange(1.0, len(ys) + 1)[:, None, None])


def loss_of(net, **keywords):
    def loss(params, xs, loop=jaxrnn.bptt):
        return value(jaxrnn.unroll(net, params, xs, loop=loop, **keywords)[1])

    return loss


def direct(cell, params, xs):
    """‖∂L/∂c_t‖ as the gradient for zeros added to every carry, in a Python loop."""

    def perturbed(zeros):
        c, ys = cell.initial_carry((B,), jnp.float64), []
        for x, zero in zip(xs, zeros, strict=True):
            c = jax.tree.map(jnp.add, cell(params, c, x)[0], zero)
            ys.append(cell.output(params, c))
        return value(jnp.stack(ys))

    zeros = [jax.tree.map(jnp.zeros_like, cell.initial_carry((B,), jnp.float64)) for _ in xs]
    of_each = jax.jit(jax.grad(perturbed))(zeros)
    return jnp.stack(
        [jnp.sqrt(sum(jnp.sum(abs(d) ** 2, -1) for d in jax.tree.leaves(g))) for g in of_each]
    )


@pytest.mark.parametrize("cell_name", ["lstm", "lru"])
def test_flow_equals_the_gradient_for_additive_zeros(cell_name):
    cell = dict(jaxrnn.CELLS)[cell_name](H)
    params, xs = problem(cell)
    found = jax.jit(functools.partial(gradient_flow, loss_of(cell)))(params, xs)
    assert distance(found.norms, (direct(cell, params, xs),)) < 1e-12
    wanted = jax.jit(jax.value_and_grad(loss_of(cell)))(params, xs)
    assert distance((found.value, found.grads), wanted) < 1e-14


def test_flow_of_a_plain_step_under_scan_equals_that_of_the_cell():
    cell = jaxrnn.lstm(H)
    params, xs = problem(cell)

    def loss(params, loop):
        start = cell.initial_carry((B,), jnp.float64)
        return value(loop(lambda p, c, x: cell(p, c, x), params, start, xs)[1])

    found = jax.jit(functools.partial(gradient_flow, loss, loop=jaxrnn.scan))(params)
    assert distance(found.norms, (direct(cell, params, xs),)) < 1e-12


def test_every_layer_of_a_network_has_its_flow_with_masks_resets_and_noise():
    net = jaxrnn.stacked(
        jaxrnn.bidirectional(jaxrnn.elman(H)),
        jaxrnn.dropout(0.5),
        jaxrnn.elman(4),
        jaxrnn.linear(2),
    )
    params, xs = problem(net)
    reset = jnp.zeros((T, B), bool).at[3].set(True)
    loss = loss_of(net, lengths=np.array([T, 2]), reset=reset, key=jax.random.key(1))
    found = jax.jit(functools.partial(gradient_flow, loss))(params, xs)
    assert [norm.shape for norm in found.norms] == [(T, B)] * 3
    assert distance(found.grads, jax.jit(jax.grad(loss))(params, xs)) < 1e-13
    forward, backward, last = found.norms
    assert (last[:2] > 0).all()
    assert not last[2:, 1].any()  # beyond the end of its row
    assert (last[2:, 0] > 0).all()
    assert (forward[:2, 1] > 0).all()
    assert (backward[2:, 1] > 0).all()  # in the order in which it runs: from the last step on


def test_a_loop_that_draws_draws_for_each_part_as_it_does_without_probes():
    net = jaxrnn.stacked(jaxrnn.bidirectional(jaxrnn.gru(3)), jaxrnn.gru(4))
    params = net.init(jax.random.key(0), 2)
    xs = jax.random.normal(jax.random.key(1), (9, 5, 2))
    loop = jaxrnn.randomized(jax.random.key(2), 0.5)

    def loss(params, loop=jaxrnn.bptt):
        return jnp.mean(jaxrnn.unroll(net, params, xs, loop=loop)[1] ** 2)

    assert (
        distance(gradient_flow(loss, params, loop=loop).grads, jax.grad(loss)(params, loop)) < 1e-12
    )


def test_truncation_shows():
    cell = jaxrnn.elman(H)
    params, xs = problem(cell)

    def last(params, loop):
        return jnp.sum(jaxrnn.unroll(cell, params, xs, loop=loop)[0])

    found = gradient_flow(last, params, loop=jaxrnn.truncated(2)).norms[0]
    assert (np.asarray(found) > 0).all(axis=1).tolist() == [False, False, False, False, True]


def test_per_step_gradients_are_those_of_single_steps_and_sum_to_the_gradient():
    cell = jaxrnn.lstm(H)
    params, xs = problem(cell)
    loss = loss_of(cell, reset=jnp.zeros((T, B), bool).at[2, 0].set(True))
    (terms,) = jax.jit(functools.partial(per_step_gradients, loss))(params, xs)
    grads = jax.jit(jax.grad(loss))(params, xs)
    assert distance(jax.tree.map(lambda g: g.sum(0), terms.params), grads) < 1e-12

    def at_each(each):
        c, ys = cell.initial_carry((B,), jnp.float64), []
        for t, x in enumerate(xs):
            c = jax.tree.map(lambda c, t=t: c.at[0].multiply(0.0 if t == 2 else 1.0), c)
            c, y = cell(jax.tree.map(lambda p, t=t: p[t], each), c, x)
            ys.append(y)
        return value(jnp.stack(ys))

    each = jax.tree.map(lambda p: jnp.broadcast_to(p, (T, *p.shape)), params)
    assert distance(terms.params, jax.jit(jax.grad(at_each))(each)) < 1e-12


@pytest.mark.parametrize("steps", [0, 1])
def test_short_sequences(steps):
    cell = jaxrnn.elman(H)
    params, xs = problem(cell)
    found = gradient_flow(loss_of(cell), params, xs[:steps])
    assert found.norms[0].shape == (steps, B)
    (terms,) = per_step_gradients(loss_of(cell), params, xs[:steps])
    assert distance(jax.tree.map(lambda g: g.sum(0), terms), found.grads) < 1e-12


def test_saturation_counts_what_the_mask_leaves():
    rng = np.random.default_rng(0)
    gate, candidate = rng.random((T, B, H)), rng.uniform(-1, 1, (T, B, H))
    free = jnp.asarray(rng.standard_normal((T, B, H)) * 3)
    mask = rng.random((T, B)) < 0.6
    mask[0], mask[1] = False, True
    gate[~mask] = 7  # counts for nothing, not even for the range
    states = jaxrnn.History(free, {"f": jnp.asarray(gate), "g": jnp.asarray(candidate)})
    found = jax.jit(functools.partial(saturation, tail=0.1))(states, mask=mask)
    assert list(found) == ["carries", "saved.f", "saved.g"]
    assert jnp.isnan(found["carries"]).all()
    for name, values, low, high in (("f", gate, 0.1, 0.9), ("g", candidate, -0.8, 0.8)):
        assert found[f"saved.{name}"][0].tolist() == [0, 0]
        for t in range(1, T):
            chosen = values[t][mask[t]]
            if chosen.size:
                wanted = [(chosen < low).mean(), (chosen > high).mean()]
                np.testing.assert_allclose(found[f"saved.{name}"][t], wanted)


@pytest.mark.usefixtures("own_messages")
def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match=r"loss: got 3 .* expected a function"):
        gradient_flow(3, {})
    with pytest.raises(TypeError, match=r"loop: got 'bptt' .* expected a function"):
        gradient_flow(loss_of(jaxrnn.elman(H)), {}, loop="bptt")
    with pytest.raises(ValueError, match=r"tail: got 0.5, expected a number in \(0, 1/2\)"):
        saturation(jaxrnn.History(jnp.zeros((1, 1)), ()), tail=0.5)
