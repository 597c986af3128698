"""`locate_nonfinite`: what is planted is found where it was planted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.diagnostics import locate_nonfinite

T, B, I, H = 6, 3, 2, 3
NET = jaxrnn.stacked(jaxrnn.elman(H), jaxrnn.lstm(H), jaxrnn.linear(2))


def problem():
    rng = np.random.default_rng(0)
    params = NET.init(jax.random.key(0), I, jnp.float64)
    return params, jnp.asarray(rng.standard_normal((T, B, I))), jnp.zeros((T, B, 2))


def loss(params, xs, targets, lengths=None, loop=jaxrnn.bptt):
    _, ys = jaxrnn.unroll(NET, params, xs, lengths=lengths, loop=loop)
    return jnp.sum((ys - targets) ** 2)


def changed(params, part, name, at, value):
    """The params with one number of one part replaced."""
    new = [dict(p) for p in params]
    new[part][name] = new[part][name].at[at].set(value)
    return tuple(new)


def where(found):
    return found.phase, found.layer, found.quantity, found.step, found.position


def test_nothing_is_found_where_all_is_finite_and_padding_does_not_count():
    params, xs, targets = problem()
    lengths = np.array([6, 2, 0])
    padded = xs.at[4, 1].set(jnp.nan)
    assert locate_nonfinite(loss, params, padded, targets, lengths) is None


def test_a_parameter():
    params, xs, targets = problem()
    found = locate_nonfinite(loss, changed(params, 1, "w_h", (1, 2), jnp.nan), xs, targets)
    assert where(found) == ("forward", None, "params.1.w_h", None, (1, 2))
    assert str(found) == "forward: nan arose first in params.1.w_h, index (1, 2)"


def test_an_input_under_a_jit_and_a_loop_of_its_own():
    params, xs, targets = problem()
    jitted = jax.jit(loss, static_argnames="loop")
    found = locate_nonfinite(jitted, params, xs.at[4, 1, 0].set(jnp.inf), targets, loop=jaxrnn.scan)
    assert where(found) == ("forward", 0, "inputs", 4, (1,))
    assert found.value == np.inf
    assert str(found).endswith("inputs of recurrent layer 0 at step 4, index (1,)")


def test_a_target_is_an_argument():
    params, xs, targets = problem()
    found = locate_nonfinite(loss, params, xs, targets.at[2, 0, 1].set(jnp.nan))
    assert where(found) == ("forward", None, "args.1", None, (2, 0, 1))


def test_an_overflow_in_one_gate_at_one_step():
    cell = jaxrnn.gru(H)
    params = cell.init(jax.random.key(0), I, jnp.float32)
    # Row 1 is driven to h = (1, 1, ..) at step 3, and only there the candidate's product overflows.
    params["w_x"] = jnp.zeros((I, 3 * H), jnp.float32).at[0, 2 * H :].set(50)
    params["w_h"] = jnp.zeros((H, 3 * H), jnp.float32).at[:, 2 * H].set(3e38)
    xs = jnp.zeros((T, B, I), jnp.float32).at[2, 1, 0].set(1)

    def of_cell(params, xs, loop):
        return jnp.sum(jaxrnn.unroll(cell, params, xs, loop=loop)[0])

    found = locate_nonfinite(of_cell, params, xs)
    assert where(found) == ("forward", 0, "saved.q", 3, (1,))


def root(params, carry, x):
    """A plain step whose slope is infinite where its carry is 0."""
    return {"h": jnp.sqrt(carry["h"]) * params + x}, carry["h"]


def test_the_backward_pass_alone():
    start = {"h": jnp.ones((B, 1))}
    xs = jnp.ones((T, B, 1)).at[3, 2].set(-1)  # so that c_3 is 0 in row 2 and step 4 has no slope

    def last(params, xs, loop):
        return jnp.sum(loop(root, params, start, xs)[0]["h"])

    params = jnp.asarray(1.0)
    assert np.isfinite(last(params, xs.at[0].set(0), jaxrnn.scan))
    xs = xs.at[:3].set(0)  # c_0 = c_1 = c_2 = 1, c_3 = 1 - 1
    found = locate_nonfinite(last, params, xs)
    assert where(found) == ("backward", 0, "d_carries.h", 3, (2,))
    found = locate_nonfinite(last, params, xs, loop=jaxrnn.scan)
    assert where(found) == ("backward", 0, "d_carries.h", 3, (2,))


def test_the_loss_and_its_own_gradient():
    params, xs, targets = problem()

    def infinite(params, xs, loop):
        return jnp.log(loss(params, xs, targets, loop=loop) * 0)

    found = locate_nonfinite(infinite, params, xs)
    assert where(found) == ("forward", None, "loss", None, ())

    def steep(params, xs, loop):
        _, ys = jaxrnn.unroll(NET, params, xs, loop=loop)
        return jnp.sum(jnp.sqrt(jnp.abs(ys - ys.at[1, 2].set(0) * 0).at[1, 2].multiply(0)))

    found = locate_nonfinite(steep, params, xs)
    assert where(found)[:2] == ("backward", 1)
    assert where(found)[2:] == ("d_outputs", 1, (2,))


@pytest.mark.usefixtures("own_messages")
def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match=r"loss: got None .* expected a function"):
        locate_nonfinite(None, {})
