"""`history`: every state and every gate, where `unroll` gives the last carry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance, sigmoid

import jaxrnn
from jaxrnn import history, unroll

T, B, I, H = 5, 3, 2, 4


def problem(net):
    rng = np.random.default_rng(0)
    params = net.init(jax.random.key(0), I, jnp.float64)
    return params, jnp.asarray(rng.standard_normal((T, B, I)))


def marks(chance, seed):
    return np.random.default_rng(seed).random((T, B)) < chance


def test_every_gate_of_an_lstm():
    cell = jaxrnn.lstm(H)
    params, xs = problem(cell)
    states, ys = history(cell, params, xs)
    assert distance(ys, unroll(cell, params, xs)[1]) == 0
    assert distance(states.carries.h, ys) == 0
    params, xs = jax.tree.map(np.asarray, (params, xs))
    h, c = np.zeros((B, H)), np.zeros((B, H))
    for t in range(T):
        a = np.split(xs[t] @ params["w_x"] + h @ params["w_h"] + params["b"], 4, axis=-1)
        i, f, g, o = sigmoid(a[0]), sigmoid(a[1]), np.tanh(a[2]), sigmoid(a[3])
        c = f * c + i * g
        h = o * np.tanh(c)
        wanted = (h, c), (i, f, g, o)
        assert distance(jax.tree.map(lambda x, t=t: x[t], tuple(states)), wanted) < 1e-13


@pytest.mark.parametrize("reverse", [False, True])
def test_with_masks_and_resets_states_stand_where_their_inputs_do(reverse):
    net = jaxrnn.stacked(jaxrnn.gru(H), jaxrnn.bidirectional(jaxrnn.lstm(3)))
    params, xs = problem(net)
    keywords = {"mask": marks(0.6, 0), "reset": marks(0.3, 1), "reverse": reverse}
    (first, both), ys = history(net, params, xs, **keywords)
    last, expected = unroll(net, params, xs, **keywords)
    assert distance(ys, expected) == 0
    end = 0 if reverse else T - 1
    assert distance(first.carries[end], last[0]) == 0
    assert distance(both.forward.carries.c[end], last[1].forward.c) == 0
    assert distance(both.backward.carries.c[T - 1 - end], last[1].backward.c) == 0
    valid = keywords["mask"]
    assert distance(both.forward.carries.h[valid], ys[..., :3][valid]) == 0
    assert not np.any(np.asarray(first.saved.r)[~valid])
    assert np.all(np.asarray(first.saved.r)[valid])


@pytest.mark.parametrize("loop", [jaxrnn.bptt, jaxrnn.truncated(2)], ids=["bptt", "truncated"])
def test_the_gradient_of_gates_is_that_of_autodiff(loop):
    cell = jaxrnn.lstm(H)
    params, xs = problem(cell)
    judge = jaxrnn.scan if loop is jaxrnn.bptt else jaxrnn.truncated(2, loop=jaxrnn.scan)

    def value(params, xs, loop):
        states, ys = history(cell, params, xs, loop=loop, reset=marks(0.3, 1))
        return jnp.sum(states.saved.f**2) + jnp.sum(jnp.sin(states.carries.c)) + jnp.sum(ys)

    grad = jax.grad(value, argnums=(0, 1))
    assert distance(grad(params, xs, loop), grad(params, xs, judge)) < 1e-12


def test_a_plain_step_has_carries_only():
    def step(params, carry, x):
        carry = {"total": carry["total"] + x, "count": carry["count"] + 1}
        return carry, x * params

    xs = jnp.arange(5.0)
    carry = {"total": jnp.zeros(()), "count": jnp.asarray(0)}
    states, ys = history(step, jnp.asarray(2.0), xs, carry=carry)
    assert states.carries["count"].tolist() == [1, 2, 3, 4, 5]
    assert states.carries["total"].tolist() == [0, 1, 3, 6, 10]
    assert states.saved == ()
    assert ys.tolist() == [0, 2, 4, 6, 8]


def test_no_steps():
    cell = jaxrnn.lstm(H)
    params, xs = problem(cell)
    states, ys = history(cell, params, xs[:0])
    assert ys.shape == states.carries.c.shape == states.saved.i.shape == (0, B, H)


def test_a_second_call_outside_jit_compiles_nothing():
    cell = jaxrnn.gru(H)
    params, xs = problem(cell)
    history(cell, params, xs)
    other, compiled = xs + 1, []
    jax.monitoring.register_event_duration_secs_listener(
        listener := lambda event, duration, **_: compiled.append(event)
    )
    history(cell, params, other)
    jax.monitoring.unregister_event_duration_listener(listener)
    assert not [event for event in compiled if "backend_compile" in event]
