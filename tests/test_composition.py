"""Loops under JAX's other transformations and switches, and their params under optax.

Gradients of gradients, vmap of gradients and strict promotion are laws (tests/test_laws.py), as are
masks under them (tests/test_sequence_laws.py); a donated train state is in tests/test_train.py.
This file, run as a script, has eight devices.
"""

import functools
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from reference import distance

import jaxrnn

CELLS, LOOPS = dict(jaxrnn.CELLS), dict(jaxrnn.LOOPS)
T, B, I, H = 4, 8, 2, 3
EXACT = 1e-12
# Ours, one that cuts and one that runs anew; carries real and complex, of one array and of two.
SOME_PAIRS = (("bptt", "lstm"), ("truncated:2:5", "elman"), ("checkpointed", "lru"))
some_pairs = pytest.mark.parametrize(
    ("loop_name", "cell_name"),
    [
        pytest.param(*pair, marks=[] if pair in SOME_PAIRS else pytest.mark.thorough)
        for pair in itertools.product(LOOPS, CELLS)
    ],
)


@functools.cache
def problem(cell_name, dtype=jnp.float64):
    """A cell, its params and inputs."""
    cell = CELLS[cell_name](H)
    params = jax.jit(cell.init, static_argnums=(1, 2))(jax.random.key(0), I, dtype)
    shape = (T, B, *cell.feature_shape(I))
    return cell, params, jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


def loss(cell, loop, params, xs):
    last, ys = jaxrnn.unroll(cell, params, xs, loop=loop)
    return sum(jnp.sum(jnp.real(c)) for c in jax.tree.leaves(last)) + jnp.sum(ys**2)


def gradient(cell, loop, params, xs, of=lambda f: f):
    return jax.grad(of(functools.partial(loss, cell, loop)), argnums=(0, 1))(params, xs)


compiled = jax.jit(gradient, static_argnums=(0, 1), static_argnames="of")


def is_bounded(function):
    """Only where it has something to do."""
    return lambda p, xs: lax.cond(jnp.sum(xs) < 1e9, function, lambda p, xs: 0.0, p, xs)


@some_pairs
@pytest.mark.parametrize("of", [jax.checkpoint, is_bounded], ids=["checkpoint", "cond"])
def test_the_gradient_is_the_same_inside(cell_name, loop_name, of):
    cell, params, xs = problem(cell_name)
    loop = LOOPS[loop_name]
    got = compiled(cell, loop, params, xs, of=of)
    assert distance(got, compiled(cell, loop, params, xs)) < EXACT


@some_pairs
def test_a_step_under_checkpoint_is_a_step(cell_name, loop_name):
    cell, params, xs = problem(cell_name)
    step, carry = jax.checkpoint(lambda *args: cell(*args)), cell.initial_carry((B,), jnp.float64)

    def of_step(_):
        def value(params, xs):
            last, ys = LOOPS[loop_name](step, params, carry, xs)
            return sum(jnp.sum(jnp.real(c)) for c in jax.tree.leaves(last)) + jnp.sum(ys**2)

        return value

    got = compiled(cell, LOOPS[loop_name], params, xs, of=of_step)
    assert distance(got, compiled(cell, LOOPS[loop_name], params, xs)) < EXACT


@some_pairs
def test_a_while_loop_descends_until_it_is_below(cell_name, loop_name):
    cell, params, xs = problem(cell_name)

    def body(state):
        n, params = state
        d_params, _ = gradient(cell, LOOPS[loop_name], params, xs)
        return n + 1, jax.tree.map(lambda p, d: p - 1e-3 * d, params, d_params)

    steps, got = jax.jit(lambda p: lax.while_loop(lambda state: state[0] < 2, body, (0, p)))(params)
    assert steps == 2
    for _ in range(2):
        d_params, _ = compiled(cell, LOOPS[loop_name], params, xs)
        params = jax.tree.map(lambda p, d: p - 1e-3 * d, params, d_params)
    assert distance(got, params) < EXACT


def test_a_donated_carry_is_used_and_changes_nothing():
    cell, params, xs = problem("lstm")
    run = functools.partial(jaxrnn.unroll, cell)
    carry = kept = cell.initial_carry((B,), jnp.float64)
    kept = jax.tree.map(jnp.copy, carry)
    donating = jax.jit(run, donate_argnames="carry")
    for segment in (xs[:2], xs[2:]):
        given = carry
        carry, _ = donating(params, segment, carry=carry)
        kept, _ = jax.jit(run)(params, segment, carry=kept)
        assert all(c.is_deleted() for c in given)
    assert distance(carry, kept) == 0


def test_many_networks_are_mapped_over_their_keys_and_params():
    """An ensemble: the params have the axis, the inputs have none."""
    cell, _, xs = problem("gru")
    many = jax.vmap(lambda key: cell.init(key, I, jnp.float64))(
        jax.random.split(jax.random.key(1), 3)
    )
    got = jax.jit(jax.vmap(functools.partial(gradient, cell, jaxrnn.bptt), (0, None)))(many, xs)
    for n in range(3):
        at_n, wanted = (jax.tree.map(lambda x, n=n: x[n], tree) for tree in (many, got))
        assert distance(compiled(cell, jaxrnn.bptt, at_n, xs), wanted) < EXACT


@some_pairs
@pytest.mark.parametrize("rows", [str(B), "b"], ids=["fixed", "open"])
def test_an_exported_gradient_comes_back(cell_name, loop_name, rows, own_messages):
    """Of any number of rows, too, which is no int to jaxtyping's run-time check."""
    cell, params, xs = problem(cell_name)
    (batch,) = jax.export.symbolic_shape(rows)
    forms = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    xs_form = jax.ShapeDtypeStruct((T, batch, *xs.shape[2:]), xs.dtype)
    run = jax.jit(functools.partial(gradient, cell, LOOPS[loop_name]))
    text = jax.export.export(run)(forms, xs_form).serialize()
    got = jax.export.deserialize(text).call(params, xs)
    assert distance(got, compiled(cell, LOOPS[loop_name], params, xs)) < EXACT


@some_pairs
def test_nothing_is_nan_on_the_way(cell_name, loop_name):
    """Under `jax_debug_nans` and `jax_debug_infs`, where padding is NaN too."""
    cell, params, xs = problem(cell_name)
    mask = jaxrnn.lengths_to_mask(jnp.arange(B) % (T + 1), T)
    xs = jnp.where(mask[..., None], xs, jnp.nan)

    def value(params):
        _, ys = jaxrnn.unroll(cell, params, xs, loop=LOOPS[loop_name], mask=mask)
        return jnp.sum(ys**2)

    with jax.debug_nans(True), jax.debug_infs(True):
        grads = jax.jit(jax.grad(value))(params)
    assert all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads))


@some_pairs
def test_it_is_the_same_with_jit_disabled(cell_name, loop_name):
    """But for T = 0, of which JAX has no scan then."""
    cell, params, xs = problem(cell_name)
    with jax.disable_jit():
        got = gradient(cell, LOOPS[loop_name], params, xs)
    assert distance(got, compiled(cell, LOOPS[loop_name], params, xs)) < EXACT


@some_pairs
def test_without_x64_everything_is_float32(cell_name, loop_name):
    cell, params, xs = problem(cell_name, jnp.float32)
    loop, lengths = LOOPS[loop_name], np.arange(B, dtype=np.int32) % (T + 1)
    wanted = compiled(cell, loop, params, xs)
    with jax.enable_x64(False):
        got = compiled(cell, loop, params, xs)
        _, ys = jaxrnn.unroll(cell, params, xs, loop=loop, lengths=lengths)
    assert {x.dtype for x in jax.tree.leaves((got, wanted, ys))} == {jnp.dtype("float32")}
    assert distance(got, wanted) < 1e-5


def test_a_counter_in_a_carry_is_as_wide_as_x64_says():
    """In one process both may be asked for."""

    class Counter(jaxrnn.Cell):
        def init(self, key, size, dtype):
            return jnp.ones(size, dtype)

        def initial_carry(self, batch, dtype):
            return jnp.zeros((*batch, I), dtype), jnp.zeros(batch, int)

        def project(self, params, xs):
            return xs * jnp.broadcast_to(params, xs.shape)

        def advance(self, w, carry, z):
            return (carry[0] + z, carry[1] + 1), ()

        def output(self, params, carries):
            return carries[0]

    cell = Counter()
    for enabled, wanted in ((True, jnp.int64), (False, jnp.int32), (True, jnp.int64)):
        with jax.enable_x64(enabled):
            params, carry = jnp.ones(I, jnp.float32), cell.initial_carry((B,), jnp.float32)
            (_, count), _ = jaxrnn.unroll(
                cell, params, jnp.ones((T, B, I), jnp.float32), carry=carry
            )
        assert count.dtype == wanted


NET = jaxrnn.stacked(jaxrnn.gru(H), jaxrnn.dropout(0.1), jaxrnn.linear(2))
OPTIMIZERS = {
    "multi_transform": optax.multi_transform(
        {"fast": optax.adam(0.1), "slow": optax.sgd(1e-3)}, ("fast", "slow", "slow")
    ),
    "masked": optax.chain(  # kernels alone
        optax.adamw(0.1),
        optax.masked(optax.set_to_zero(), lambda p: jax.tree.map(lambda x: x.ndim == 1, p)),
    ),
    "multi-steps": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "lookahead": optax.lookahead(optax.adam(0.1), sync_period=2, slow_step_size=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optax_takes_the_params_of_a_network(name):
    """A tuple of dicts, of which one part has nothing; each optimizer learns with it."""
    _, _, xs = problem("gru")
    params, optimizer = NET.init(jax.random.key(0), I, jnp.float64), OPTIMIZERS[name]
    slow = name == "lookahead"
    params = optax.LookaheadParams.init_synced(params) if slow else params

    @jax.jit
    def update(state):
        params, opt_state = state

        def value(params):
            _, ys = jaxrnn.unroll(NET, params, xs)
            return jnp.mean((ys - 1) ** 2)

        value, grads = jax.value_and_grad(value)(params.fast if slow else params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    with jax.numpy_dtype_promotion("standard"):  # optax counts in int32
        state, losses = (params, optimizer.init(params)), []
        for _ in range(20):
            state, value = update(state)
            losses.append(float(value))
    assert jax.tree.structure(state[0]) == jax.tree.structure(params)
    assert losses[-1] < 0.8 * losses[0]


# One of each kind: by JAX, hand-written, that truncates, and that runs anew.
ALIKE = ("scan", "bptt", "truncated:2:5", "checkpointed:3")
# A kernel runs on each device by itself, so it needs a `shard_map`.
KERNELS = {"fused": jaxrnn.fused(interpret=True)}


@pytest.fixture(scope="module")
def over_devices():
    run = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, check=True, timeout=600
    )
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("way", ["rows", "features", "explicit", "shard_map"])
def test_over_eight_devices_the_gradient_is_the_same(over_devices, way):
    errors = over_devices[way]
    loops = {"features": ("bptt",), "shard_map": (*ALIKE, *KERNELS)}
    assert errors.keys() >= {*loops.get(way, ALIKE)}
    assert max(errors.values()) < EXACT


def test_inputs_on_another_device_are_refused(over_devices):
    message = r"xs: got one on \['\w+.1'\], expected \['\w+.0'\], the devices of params\['b'\]"
    said = over_devices["elsewhere"]
    assert said.keys() == {*ALIKE}
    assert all(re.fullmatch(message, text) for text in said.values()), said


def test_a_kernel_is_not_divided_by_itself(over_devices):
    said = over_devices["kernels"]
    assert said.startswith("loop: got fused() of arrays split by P('d', None), expected jaxrnn.")


def over_rows(loop, inner, params, xs, mask):
    """The loss of a network and of a plain step, of rows some of which are padded or begin anew."""
    net, own = params

    def plain(w, h, x):
        return jnp.tanh(x @ w["x"] + h @ w["h"]), h

    reset = jnp.roll(mask, 1, axis=0)
    _, ys = jaxrnn.unroll(inner, net, xs, loop=loop, mask=mask, reset=reset)
    start = 0 * xs[0]
    _, hs = loop(plain, own, start, ys)
    return jnp.sum(hs**2)


def main():
    """The error of the gradient over eight devices in the ways that JAX has for it."""
    types = jax.sharding.AxisType
    automatic = jax.make_mesh((8,), ("d",), axis_types=(types.Auto,))
    explicit = jax.make_mesh((8,), ("d",), axis_types=(types.Explicit,))
    rows, shared = jax.P(None, "d"), jax.P()
    errors = {}

    def put(mesh, tree, spec):
        return jax.tree.map(lambda x: jax.device_put(x, jax.NamedSharding(mesh, spec)), tree)

    def compare(way, name, got, wanted):
        errors.setdefault(way, {})[name] = distance(jax.device_get(got), wanted)

    cell, (_, _, xs) = CELLS["gru"](8), problem("gru")
    params = cell.init(jax.random.key(0), I, jnp.float64)
    for name in ("bptt", "truncated:2:5"):  # each device has some of the features
        widths = {key: jax.P(*(None,) * (p.ndim - 1), "d") for key, p in params.items()}
        split = {key: put(automatic, p, widths[key]) for key, p in params.items()}
        got = compiled(cell, LOOPS[name], split, put(automatic, xs, shared))
        compare("features", name, got, compiled(cell, LOOPS[name], params, xs))

    draws = np.random.default_rng(0)
    mask = jnp.asarray(draws.random((T, B)) < 0.7)
    inner = jaxrnn.stacked(jaxrnn.bidirectional(CELLS["gru"](I)), CELLS["lstm"](I))
    net = inner.init(jax.random.key(0), I, jnp.float64)
    params = net, {name: jnp.asarray(draws.standard_normal((I, I))) for name in ("x", "h")}
    for name in (*ALIKE, *KERNELS):
        loop = (LOOPS | KERNELS)[name]
        gradients = jax.jit(jax.grad(functools.partial(over_rows, loop, inner), argnums=(0, 1)))
        wanted = jax.device_get(gradients(params, xs, mask))
        ways = () if name in KERNELS else (("rows", automatic), ("explicit", explicit))
        for way, mesh in ways:
            args = put(mesh, params, shared), put(mesh, xs, rows), put(mesh, mask, rows)
            with jax.set_mesh(mesh):
                compare(way, name, gradients(*args), wanted)

        def part(*args, loop=loop):
            return lax.psum(over_rows(loop, inner, *args), "d")

        sharded = jax.shard_map(
            part, mesh=automatic, in_specs=(shared, rows, rows), out_specs=shared
        )
        got = jax.jit(jax.grad(sharded, argnums=(0, 1)))(params, xs, mask)
        compare("shard_map", name, got, wanted)

    noisy = jaxrnn.transforms.zoneout(CELLS["gru"](I), 0.3)

    def with_noise(params, xs):
        return jnp.sum(jaxrnn.unroll(noisy, params[0][0].forward, xs, key=jax.random.key(0))[1])

    gradients = jax.jit(jax.grad(with_noise, argnums=(0, 1)))
    wanted = jax.device_get(gradients(params, xs))
    with jax.set_mesh(explicit):
        got = gradients(put(explicit, params, shared), put(explicit, xs, rows))
    compare("explicit", "zoneout", got, wanted)
    with jax.set_mesh(explicit):
        cell, params, xs = problem("gru")
        args = put(explicit, params, shared), put(explicit, xs, rows)
        errors["kernels"] = refusal(cell, *args, KERNELS["fused"])
    errors["elsewhere"] = {name: elsewhere(LOOPS[name]) for name in ALIKE}
    print(json.dumps(errors))


def elsewhere(loop):
    """What is said of inputs on another device than the parameters."""
    cell, params, xs = problem("gru")
    first, second, *_ = jax.devices()
    params, xs = jax.device_put(params, first), jax.device_put(xs, second)
    return refusal(cell, params, xs, loop)


def refusal(cell, params, xs, loop):
    """The message of a ValueError."""
    try:
        return str(jaxrnn.unroll(cell, params, xs, loop=loop))
    except ValueError as error:
        return str(error)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    main()
