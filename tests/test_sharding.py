"""A batch over devices is the batch on one: this file, run as a script, has eight of them."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn

T, B, I, H = 5, 16, 3, 4
CELL = jaxrnn.gru(H)


def arguments():
    rng = np.random.default_rng(0)
    params = CELL.init(jax.random.key(0), I, float)
    xs, targets = rng.normal(size=(T, B, I)), rng.normal(size=(T, B, H))
    carry = rng.normal(size=(B, H))
    lengths = np.arange(B) % (T + 1)  # so that parts have unequal numbers of valid steps
    return params, carry, xs, targets, jnp.asarray(jaxrnn.lengths_to_mask(lengths, T))


def loss(params, carry, xs, targets, mask):
    last, ys = jaxrnn.unroll(CELL, params, xs, carry=carry, mask=mask)
    value = jaxrnn.masked_mean(optax.l2_loss, ys, targets, mask=mask)
    return value, (last, {"mean": jnp.sum(ys) / jnp.sum(mask)})


AXES = {"in_axes": (None, 0, 1, 1, 1), "out_axes": (None, (0, None))}


def number_of_valid(params, carry, xs, targets, mask):
    return jnp.sum(mask)


def noise(key, xs):
    return xs + jax.random.normal(key, xs.shape)


def results(devices):
    """What has to be the same on any number of devices, and what must not be."""
    args = arguments()

    def gradient(weight):
        split = jaxrnn.training.data_parallel(loss, **AXES, weight=weight, devices=devices)
        return jax.jit(jax.value_and_grad(split, argnums=(0, 1, 2), has_aux=True))(*args)

    def slope(params, weight=number_of_valid):
        split = jaxrnn.training.data_parallel(loss, **AXES, weight=weight, devices=devices)
        grads = jax.grad(lambda p: split(p, *args[1:])[0])(params)
        return sum(jnp.sum(jnp.sin(g)) for g in jax.tree.leaves(grads))

    trainer = jaxrnn.training.trainer(
        jaxrnn.training.data_parallel(
            lambda params, carry, batch, key: loss(params, carry, *batch),
            in_axes=(None, 0, 1, None),
            out_axes=(None, (0, None)),
            weight=lambda params, carry, batch, key: jnp.sum(batch[-1]),
            devices=devices,
        ),
        optax.adam(0.1),
    )
    state = trainer.init(args[0], jax.random.key(0), carry=args[1])
    for _ in range(2):
        state, metrics = jax.jit(trainer.update)(state, args[2:])
    draw = jaxrnn.training.data_parallel(noise, in_axes=(None, 1), out_axes=1, devices=devices)
    found = {
        "gradient": gradient(number_of_valid),
        "second": jax.jit(jax.grad(slope))(args[0]),
        "trained": (state.params, state.carry, metrics),
        "unweighted": gradient(None)[0][0],
        "noise": draw(jax.random.key(0), jnp.zeros((2, B, 1))),
    }
    return {name: [np.asarray(x).tolist() for x in jax.tree.leaves(v)] for name, v in found.items()}


@pytest.fixture(scope="module")
def by_devices():
    run = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, check=True, timeout=600
    )
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("devices", ["2", "8"])
def test_everything_is_as_on_one_device(by_devices, devices):
    for what in ("gradient", "second", "trained"):
        pairs = zip(by_devices[devices][what], by_devices["1"][what], strict=True)
        for got, wanted in pairs:
            np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-14)


def test_a_mean_over_valid_steps_needs_its_weights(by_devices):
    (one,), (eight,) = (by_devices[devices]["unweighted"] for devices in "18")
    assert abs(one - eight) > 1e-3


def test_each_part_draws_noise_of_its_own(by_devices):
    (drawn,) = by_devices["8"]["noise"]
    assert len(np.unique(np.round(drawn, 9))) == 2 * B


def test_rows_that_cannot_be_split_are_refused(by_devices):
    assert by_devices["uneven"] == (
        "in_axes: got 15 rows on axis 1 of an argument of shape (5, 15, 3), expected a multiple of "
        "8, the number of devices"
    )


def test_one_device_runs_the_function_as_it_is():
    split = jaxrnn.training.data_parallel(lambda x: x + 1, in_axes=(0,), out_axes=0)
    assert "shard_map" not in str(jax.make_jaxpr(split)(jnp.ones(3)))
    with pytest.raises(ValueError, match="in_axes: got 1 axes for 2 arguments"):
        split(jnp.ones(3), 1)
    no_axis = jaxrnn.training.data_parallel(jnp.sum, in_axes=(1,))
    with pytest.raises(ValueError, match=r"in_axes: got axis 1 of an argument of shape \(3,\)"):
        no_axis(jnp.ones(3))
    with pytest.raises(TypeError, match="function"):
        jaxrnn.training.data_parallel(3, in_axes=(0,))


def per_row(x):
    return jnp.sum(x, axis=1)


def over_rows(x):
    return jnp.sum(x, axis=0)


def refusal(devices):
    """The message about an output with rows whose axis is None; the shape of one without rows."""
    split = {
        function: jaxrnn.training.data_parallel(function, in_axes=(0,), devices=devices)
        for function in (per_row, over_rows)
    }
    x = jnp.ones((B, 2))
    try:
        split[per_row](x)
    except ValueError as error:
        return [str(error), split[over_rows](x).shape]
    return ["no error", None]


@pytest.mark.parametrize(("devices", "rows"), [("1", 16), ("2", 8), ("8", 2)])
def test_an_output_without_an_axis_has_no_rows(by_devices, devices, rows):
    """On any number of devices, so that the shapes of outputs do not depend on it."""
    message, shape = by_devices["refusals"][devices]
    assert message.startswith(f"out_axes: got None for an output of shape ({rows},), expected ")
    assert shape == [2]


def main():
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    found = {n: results(jax.devices()[:n]) for n in (1, 2, 8)}
    found["refusals"] = {n: refusal(jax.devices()[:n]) for n in (1, 2, 8)}
    try:
        jaxrnn.training.data_parallel(noise, in_axes=(None, 1))(
            jax.random.key(0), jnp.ones((T, 15, I))
        )
    except ValueError as error:
        found["uneven"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
