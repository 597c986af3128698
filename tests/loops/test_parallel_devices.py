"""A sequence over devices is the sequence on one: this file, run as a script, has eight of them."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import parallel

T, B, I, H = 16, 3, 2, 4
CELLS = {"lru": jaxrnn.lru(H), "min_gru": jaxrnn.min_gru(H)}
OVER_TIME = parallel(axis_name="time")
CASES = ("2 lru False", "8 lru False", "8 lru True", "2 min_gru True")  # devices, cell, reverse


def arguments(cell):
    rng = np.random.default_rng(0)
    params = cell.init(jax.random.key(0), I, float)
    carry = cell.initial_carry((B,), float)
    carry = jax.tree.map(lambda c: c + rng.standard_normal(c.shape), carry)
    xs = jnp.asarray(rng.standard_normal((T, B, I)))
    return params, carry, xs, jnp.asarray(rng.random((T, B)) < 0.7), rng.random((T, B)) < 0.2


def run(cell, loop, reverse, params, carry, xs, mask, reset):
    """The last carry, the outputs, and the values that a history saves."""
    options = {"carry": carry, "loop": loop, "mask": mask, "reset": reset, "reverse": reverse}
    last, ys = jaxrnn.unroll(cell, params, xs, **options)
    history, _ = jaxrnn.history(cell, params, xs, **options)
    return last, (ys, history.carries)


def results(devices, cell, reverse):
    params, carry, xs, mask, reset = arguments(cell)

    def loss(args):
        function = functools.partial(run, cell, jaxrnn.scan, reverse)
        if devices is not None:
            time = jax.P("time")
            mesh = jax.sharding.Mesh(devices, ("time",))
            function = jax.shard_map(
                functools.partial(run, cell, OVER_TIME, reverse),
                mesh=mesh,
                in_specs=(jax.P(), jax.P(), time, time, time),
                out_specs=(jax.P(), time),
            )
        outputs = function(*args, mask, reset)
        weighted = [
            jnp.sum(jnp.cos(jnp.arange(x.size)).reshape(x.shape) * jnp.real(x * x))
            for x in jax.tree.leaves(outputs)
        ]
        return sum(weighted), outputs

    found = jax.jit(jax.value_and_grad(loss, has_aux=True))((params, carry, xs))
    return [[np.real(x).tolist(), np.imag(x).tolist()] for x in jax.tree.leaves(found)]


def rows_over_devices(devices):
    """Newton's method on each device for its own rows, and on one device for all of them."""
    cell = jaxrnn.gru(H)
    params, carry = cell.init(jax.random.key(0), I, float), cell.initial_carry((8,), float)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((T, 8, I)))

    def run(params, carry, xs):
        return parallel(jacobian="dense")(cell, params, carry, xs)[1]

    rows = jax.P(None, "rows")
    mesh = jax.sharding.Mesh(devices, ("rows",))
    specs = {"in_specs": (jax.P(), jax.P("rows"), rows), "out_specs": rows}
    divided = jax.shard_map(run, mesh=mesh, **specs)
    found = [
        jax.jit(jax.grad(lambda params, f=f: jnp.sum(f(params, carry, xs) ** 2)))(params)
        for f in (divided, run)
    ]
    return [[np.asarray(x).tolist() for x in jax.tree.leaves(grads)] for grads in found]


def message(function):
    try:
        function()
    except (TypeError, ValueError) as error:
        return str(error)
    return "no error"


def refused(devices):
    """Messages for what cannot be solved on several devices."""
    mesh = jax.sharding.Mesh(devices, ("time",))

    time = jax.P("time")

    def call(cell, in_spec=time, steps=T, **options):
        params, carry, xs, _, _ = arguments(cell)
        jax.shard_map(
            lambda params, carry, xs: OVER_TIME(cell, params, carry, xs)[1],
            mesh=mesh,
            in_specs=(jax.P(), jax.P(), in_spec),
            out_specs=time,
            **options,
        )(params, carry, xs[:steps])

    def alternating(params, carry, x):
        state, h = carry
        return ((state + 1) % 3, h + state.astype(x.dtype) * x), h

    def run_discrete(xs):
        return OVER_TIME(alternating, (), (jnp.int32(0), jnp.zeros(I)), xs)[1]

    def discrete():
        divided = jax.shard_map(run_discrete, mesh=mesh, in_specs=time, out_specs=time)
        jax.jit(divided)(jnp.ones((T, I)))

    lru = CELLS["lru"]
    return {
        "discrete": message(discrete),
        "nonlinear": message(lambda: call(jaxrnn.indrnn(H))),
        "undivided": message(lambda: call(lru, jax.P())),
        "unchecked": message(lambda: call(lru, check_vma=False)),
        "uneven": message(lambda: call(lru, steps=T - 1)),
    }


@pytest.fixture(scope="module")
def by_devices():
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, check=True, timeout=600
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_everything_is_as_on_one_device(by_devices, case):
    _, name, reverse = case.split()
    pairs = zip(by_devices[case], by_devices[f"1 {name} {reverse}"], strict=True)
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-13)


def test_rows_may_be_divided_for_newtons_method(by_devices):
    for got, wanted in zip(*by_devices["rows"], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-13)


def test_what_cannot_be_divided_is_refused(by_devices):
    refusals = by_devices["refused"]
    assert refusals["nonlinear"].startswith(
        "axis_name: got 'time' for indrnn(4), which is not linear in its carry, expected None"
    )
    assert "alternating, which is not linear in its carry" in refusals["discrete"]
    for case in ("undivided", "unchecked"):
        assert refusals[case].startswith(
            "axis_name: got 'time', and inputs that are divided over [], expected the axis"
        )
    assert "divisible" in refusals["uneven"]


def main():
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    devices = np.asarray(jax.devices())
    found = {"refused": refused(devices), "rows": rows_over_devices(devices)}
    for name, count, reverse in [
        ("lru", 2, False),
        ("lru", 8, False),
        ("lru", 8, True),
        ("min_gru", 2, True),
    ]:
        found[f"{count} {name} {reverse}"] = results(devices[:count], CELLS[name], reverse)
        if f"1 {name} {reverse}" not in found:
            found[f"1 {name} {reverse}"] = results(None, CELLS[name], reverse)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
