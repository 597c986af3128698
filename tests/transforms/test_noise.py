"""Noise: its equations, its keys, and silence without a key."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_interchangeable
from reference import affine, distance, often, sigmoid

import jaxrnn
from jaxrnn import LSTMCarry, unroll
from jaxrnn.transforms import detach_adjoint, recurrent_dropout, variational_dropout, zoneout

VALUES, GRADIENTS = 1e-13, 1e-12
T, B, I, H = 6, 3, 2, 4
RATES = LSTMCarry(h=0.3, c=0.6)

NOISY = {
    "zoneout": zoneout(jaxrnn.lstm(H), RATES),
    "variational": variational_dropout(jaxrnn.gru(H), input_rate=0.4, state_rate=0.5),
    "variational_before": variational_dropout(jaxrnn.gru(H, reset_after=False), state_rate=0.5),
    "candidate_lstm": recurrent_dropout(jaxrnn.lstm(H), 0.5),
    "candidate_gru": recurrent_dropout(jaxrnn.gru(H), 0.5),
    "all": zoneout(
        recurrent_dropout(variational_dropout(jaxrnn.lstm(H), input_rate=0.3, state_rate=0.3), 0.4),
        0.2,
    ),
    "stack": jaxrnn.stacked(
        zoneout(jaxrnn.gru(H), 0.3),
        jaxrnn.dropout(0.4),
        variational_dropout(jaxrnn.lstm(H), state_rate=0.5),
    ),
}
SELDOM = [("bptt", "variational"), ("bptt", "candidate_lstm"), ("truncated:4", "all")]
every_noise = pytest.mark.parametrize("name", NOISY)


def problem(net):
    rng = np.random.default_rng(0)
    params = net.init(jax.random.key(0), I, jnp.float64)
    params = jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape), params)
    carry = jax.tree.map(
        lambda c: jnp.asarray(rng.standard_normal(c.shape)), net.initial_carry((B,))
    )
    return params, carry, jnp.asarray(rng.standard_normal((T, B, I)))


def columns(gates):
    return [slice(g * H, (g + 1) * H) for g in range(gates)]


def in_numpy(*trees):
    return jax.tree.map(np.asarray, trees)


def lstm_new(params, h, c, x, keep=1.0, read=None):
    read = h if read is None else read
    i, f, g, o = (sum(affine(params, x, read, gate)) for gate in columns(4))
    c = sigmoid(f) * c + sigmoid(i) * keep * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def drawn(cell, key, params, carry, xs):
    """(own shared, own stepwise) noise of a cell, as `unroll` draws it."""
    (shared, _), (stepwise, _) = cell.draw_noise(key, params, carry, xs)
    return jax.tree.map(np.asarray, (shared, stepwise))


def test_zoneout_holds_units():
    cell, key = NOISY["zoneout"], jax.random.key(5)
    params, carry, xs = problem(cell)
    _, hold = drawn(cell, key, params, carry, xs)
    assert hold.h.shape == hold.c.shape == (T, B, H)
    assert np.any(hold.h != hold.c)
    got = unroll(cell, params, xs, carry=carry, key=key)
    params, (h, c), xs = in_numpy(params, carry, xs)
    ys = []
    for t in range(T):
        new_h, new_c = lstm_new(params, h, c, xs[t])
        h, c = np.where(hold.h[t], h, new_h), np.where(hold.c[t], c, new_c)
        ys.append(h)
    assert distance(got, ((h, c), np.stack(ys))) < VALUES


def test_zoneout_without_a_key_takes_the_mean():
    cell = NOISY["zoneout"]
    params, (h, c), xs = problem(cell)
    got = unroll(cell, params, xs, carry=LSTMCarry(h, c))
    params, h, c, xs = in_numpy(params, h, c, xs)
    for t in range(T):
        new_h, new_c = lstm_new(params, h, c, xs[t])
        h, c = 0.3 * h + 0.7 * new_h, 0.6 * c + 0.4 * new_c
    assert distance(got[0], (h, c)) < VALUES


@pytest.mark.parametrize("reset_after", [True, False])
def test_variational_noise_is_the_same_at_all_steps(reset_after):
    cell = variational_dropout(
        jaxrnn.gru(H, reset_after=reset_after), input_rate=0.4, state_rate=0.5
    )
    key = jax.random.key(5)
    params, h, xs = problem(cell)
    (keep_x, keep_h), stepwise = drawn(cell, key, params, h, xs)
    assert stepwise is None
    assert keep_x.dtype == keep_h.dtype == bool
    assert (keep_x.shape, keep_h.shape) == ((B, I), (B, H))
    keep_x, keep_h = keep_x / 0.6, keep_h / 0.5
    got = unroll(cell, params, xs, carry=h, key=key)
    params, h, xs = in_numpy(params, h, xs)
    r_cols, z_cols, n_cols = columns(3)
    for t in range(T):
        x, read = xs[t] * keep_x, h * keep_h
        r, z = (sigmoid(sum(affine(params, x, read, gate))) for gate in (r_cols, z_cols))
        if reset_after:
            from_x, from_h = affine(params, x, read, n_cols)
            n = np.tanh(from_x + r * (from_h + params["b_n"]))
        else:
            n = np.tanh(sum(affine(params, x, r * read, n_cols)))
        h = (1 - z) * n + z * h
    assert distance(got[0], h) < VALUES


def test_recurrent_dropout_of_an_lstm_leaves_memory_alone():
    cell, key = NOISY["candidate_lstm"], jax.random.key(5)
    params, (h, c), xs = problem(cell)
    _, keep = drawn(cell, key, params, LSTMCarry(h, c), xs)
    assert keep.shape == (T, B, H)
    keep = keep / 0.5
    got = unroll(cell, params, xs, carry=LSTMCarry(h, c), key=key)
    params, h, c, xs = in_numpy(params, h, c, xs)
    for t in range(T):
        h, c = lstm_new(params, h, c, xs[t], keep[t])
    assert distance(got[0], (h, c)) < VALUES


def test_recurrent_dropout_of_a_gru():
    cell, key = NOISY["candidate_gru"], jax.random.key(5)
    params, h, xs = problem(cell)
    _, keep = drawn(cell, key, params, h, xs)
    keep = keep / 0.5
    got = unroll(cell, params, xs, carry=h, key=key)
    params, h, xs = in_numpy(params, h, xs)
    r_cols, z_cols, n_cols = columns(3)
    for t in range(T):
        r, z = (sigmoid(sum(affine(params, xs[t], h, gate))) for gate in (r_cols, z_cols))
        from_x, from_h = affine(params, xs[t], h, n_cols)
        n = keep[t] * np.tanh(from_x + r * (from_h + params["b_n"]))
        h = (1 - z) * n + z * h
    assert distance(got[0], h) < VALUES


def test_noise_over_noise_keeps_both():
    inner = variational_dropout(jaxrnn.gru(H), state_rate=0.5)
    params, h, xs = problem(inner)

    def dropped(cell, key):
        shared, _ = cell.draw_noise(key, params, h, xs)
        return np.mean(cell.prepare(jaxrnn.WithNoise(params, shared)).w_h.dropout_mask == 0)

    for outer, share in (
        (variational_dropout(inner, input_rate=0.1), 0.5),
        (variational_dropout(inner, state_rate=0.5), 0.75),
    ):
        shares = [dropped(outer, key) for key in jax.random.split(jax.random.key(0), 50)]
        assert abs(np.mean(shares) - share) < 0.06


def test_dropout_between_layers():
    layer = jaxrnn.dropout(0.25)
    net = jaxrnn.stacked(layer, layer)
    xs = jnp.ones((50, 40, 30))
    _, ys = unroll(net, ((), ()), xs, carry=((), ()), key=jax.random.key(0))
    np.testing.assert_allclose(np.unique(ys), [0, (1 / 0.75) ** 2])
    assert abs(np.mean(np.asarray(ys)) - 1) < 0.02
    assert np.array_equal(unroll(net, ((), ()), xs, carry=((), ()))[1], xs)


@pytest.mark.parametrize(
    ("loop_name", "name"),
    [
        pytest.param(loop, name, marks=pytest.mark.thorough if seldom else [])
        for loop, names in {"bptt": [*NOISY], "truncated:4": ["all", "stack"]}.items()
        for name in names  # what is run seldom is a part of "all", or of the stack
        for seldom in [(loop, name) in SELDOM]
    ],
)
def test_one_key_gives_one_result_and_gradient_under_every_loop(loop_name, name):
    net, loop = NOISY[name], dict(jaxrnn.LOOPS)[loop_name]
    judge = jaxrnn.scan if loop_name == "bptt" else jaxrnn.truncated(4, loop=jaxrnn.scan)
    args = problem(net)

    def value(args, key, loop):
        params, carry, xs = args
        last, ys = unroll(net, params, xs, carry=carry, key=key, loop=loop)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(c**3) for c in jax.tree.leaves(last)), (last, ys)

    grad = jax.jit(jax.grad(value, has_aux=True), static_argnums=2)
    key = jax.random.key(7)
    (got, outputs), (wanted, expected) = grad(args, key, loop), grad(args, key, judge)
    assert distance(outputs, expected) < VALUES
    assert distance(got, wanted) < GRADIENTS
    again, other = grad(args, key, loop)[1], grad(args, jax.random.key(8), loop)[1]
    assert distance(again, outputs) == 0
    assert distance(other, outputs) > 1e-3


@every_noise
def test_without_a_key_nothing_is_drawn(name):
    net = NOISY[name]
    params, carry, xs = problem(net)
    run = functools.partial(unroll, net)
    program = str(jax.make_jaxpr(run)(params, xs, carry=carry))
    assert "random" not in program
    assert "threefry" not in program


@pytest.mark.parametrize(
    ("noisy", "plain"),
    [
        (NOISY["variational"], jaxrnn.gru(H)),
        (NOISY["candidate_lstm"], jaxrnn.lstm(H)),
        (zoneout(jaxrnn.gru(H), 0.0), jaxrnn.gru(H)),
    ],
    ids=["variational", "candidate", "zoneout at rate 0"],
)
def test_without_a_key_it_is_the_cell(noisy, plain):
    params, carry, xs = problem(plain)
    assert (
        distance(unroll(noisy, params, xs, carry=carry), unroll(plain, params, xs, carry=carry))
        < VALUES
    )


@pytest.mark.parametrize("name", often(NOISY, ("all", "stack")))
def test_masks_and_resets_go_with_noise(name):
    net = NOISY[name]
    params, carry, xs = problem(net)
    rng = np.random.default_rng(3)
    mask, reset = (jnp.asarray(rng.random((T, B)) < chance) for chance in (0.6, 0.3))

    def value(params, xs, fill, loop):
        xs = jnp.where(mask[..., None], xs, fill)
        keywords = {"mask": mask, "reset": reset, "key": jax.random.key(1)}
        last, ys = unroll(net, params, xs, carry=carry, loop=loop, **keywords)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(c**3) for c in jax.tree.leaves(last))

    grad = jax.jit(jax.value_and_grad(value, argnums=(0, 1)), static_argnums=3)
    got, wanted = grad(params, xs, jnp.nan, jaxrnn.bptt), grad(params, xs, 0.0, jaxrnn.scan)
    assert distance(got, wanted) < GRADIENTS


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@every_noise
def test_dtypes_are_kept(name, dtype):
    net = NOISY[name]
    params, _, xs = jax.tree.map(lambda x: x.astype(dtype), problem(net))
    carry = net.initial_carry((B,), dtype)
    for key in (None, jax.random.key(0)):
        run = functools.partial(unroll, net, key=key)
        last, ys = jax.eval_shape(run, params, xs, carry=carry)
        for path, leaf in jax.tree.leaves_with_path((last, ys)):
            is_c = jax.tree_util.keystr(path[-1:]) == ".c"  # which sums up over all time
            assert leaf.dtype == ("float32" if is_c else dtype), path


RATES_OF_ARRAYS = [0.1, LSTMCarry(0.1, 0.2), LSTMCarry(0.1, 0.0)]


@pytest.mark.parametrize("make", [zoneout, detach_adjoint])
@pytest.mark.parametrize("rate", RATES_OF_ARRAYS, ids=str)
def test_equal_rates_give_equal_cells(make, rate):
    assert_interchangeable(make(jaxrnn.lstm(3), rate), make(jaxrnn.lstm(3), rate))
    assert make(jaxrnn.lstm(3), rate) != make(jaxrnn.lstm(3), 0.3)
    assert make(jaxrnn.lstm(3), rate) != make(jaxrnn.lstm(4), rate)


def test_equal_arguments_give_equal_cells():
    first, second = (variational_dropout(jaxrnn.gru(3), state_rate=0.1) for _ in range(2))
    assert_interchangeable(first, second)
    assert first != variational_dropout(jaxrnn.gru(3), input_rate=0.1)
    assert_interchangeable(*(recurrent_dropout(jaxrnn.gru(3), 0.1) for _ in range(2)))
    assert zoneout(jaxrnn.gru(3), 0.1) != detach_adjoint(jaxrnn.gru(3), 0.1)


def test_noise_keeps_the_handwritten_backward_pass():
    for name in ("zoneout", "variational", "candidate_lstm", "all"):
        assert NOISY[name].has_handwritten_backward
