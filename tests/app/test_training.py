import argparse
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.app import run, training
from jaxrnn.app.options import UserError


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        out=tmp_path / "run",
        steps=6,
        seed=3,
        learning_rate=0.1,
        clip=1.0,
        task="toy",
        cell="gru",
        hidden_size=1,
        loop="bptt",
        inspect_every=100,
        batch_size=2,
        devices=1,
    )


def toy(batches):
    """(w - 3)² to be made small; the carry is the sum of all batches so far."""

    def loss(params, carry, batch, key, loop):
        carry = carry + batch
        return (params["w"] - 3) ** 2 + 0 * carry, (carry, {"seen": carry})

    return training.Task(
        init=lambda key: {"w": jax.random.normal(key)},
        carry=jnp.zeros(()),
        loss=loss,
        batches=iter(batches),
        rows=0,
        items=2,
        unit="thing",
        measure="seen",
        levels={},
    )


def history(options):
    rows = np.genfromtxt(options.out / run.HISTORY, delimiter=",", names=True)
    return np.atleast_1d(rows)


def interrupted(after):
    yield from np.ones(after, np.float32)
    raise KeyboardInterrupt


def test_the_carry_is_handed_from_batch_to_batch(options):
    training.train(toy(np.float32([1, 2, 3, 4, 5, 6, 7])), options)
    np.testing.assert_array_equal(history(options)["seen"], [1, 3, 6, 10, 15, 21])
    np.testing.assert_array_equal(history(options)["step"], np.arange(1, 7))


def test_the_loss_falls_and_what_is_saved_is_what_is_returned(options):
    params = training.train(toy(np.ones(6, np.float32)), options)
    losses = history(options)["loss"]
    assert losses[-1] < losses[0]
    assert losses[0] == pytest.approx((float(start(options)["w"]) - 3) ** 2)
    np.testing.assert_array_equal(run.load_params(options.out, like=params)["w"], params["w"])


def start(options):
    """The parameters that a run starts with, by way of one that is interrupted at once."""
    options = argparse.Namespace(**{**vars(options), "out": options.out / "start"})
    with pytest.raises(KeyboardInterrupt):
        training.train(toy(interrupted(after=0)), options)
    return run.load_params(options.out, like={"w": jnp.zeros(())})


def test_a_seed_makes_a_run(options):
    def trained(seed):
        options.seed = seed
        return float(training.train(toy(np.ones(6, np.float32)), options)["w"])

    assert trained(1) == trained(1)
    assert trained(1) != trained(2)


def test_an_interrupt_saves_what_there_is_and_says_where(options):
    with pytest.raises(KeyboardInterrupt, match=r"after 4 of 6 steps, saved in .*run"):
        training.train(toy(interrupted(after=4)), options)
    np.testing.assert_array_equal(history(options)["seen"], [1, 2, 3, 4])
    assert {path.name for path in options.out.iterdir()} == set(run.FILES)
    saved = run.load_params(options.out, like={"w": jnp.zeros(())})["w"]
    rest = training.train(toy(np.ones(6, np.float32)), options)["w"]
    assert float(start(options)["w"]) < float(saved) < float(rest) < 3  # on its way


def test_a_loss_that_is_no_number_ends_the_run(options):
    with pytest.raises(
        UserError, match=r"--learning-rate: got 0.1, .* nan after 2 of 6 steps, saved in"
    ):
        training.train(toy(np.float32([1, math.nan, 1])), options)
    assert list(np.isnan(history(options)["loss"])) == [False, True]


@pytest.mark.parametrize("steps", [1, 19, 20, 1000])
def test_the_rate_rises_and_decays(options, steps):
    options.steps = steps
    optimizer = training.optimizer(options)
    params = {"w": jnp.ones(())}
    state, sizes = optimizer.init(params), []
    for _ in range(steps):
        updates, state = optimizer.update({"w": jnp.ones(())}, state, params)
        sizes.append(-float(updates["w"]))
    assert max(sizes) == pytest.approx(0.1, rel=0.01)
    assert sizes.index(max(sizes)) == pytest.approx(steps // 20, abs=1)
    assert sizes[-1] <= 0.1 * max(sizes) or steps < 1000


def test_gradients_are_clipped(options):
    options.clip = 1e-12  # far below the epsilon of Adam, so that it shows
    optimizer = training.optimizer(options)
    params = {"w": jnp.zeros(())}
    updates, _ = optimizer.update({"w": jnp.ones(())}, optimizer.init(params), params)
    assert abs(float(updates["w"])) < 1e-4


def test_batches_are_not_drawn_beyond_the_last_step(options):
    batches = itertools.count(1.0)
    training.train(toy(np.float32(batch) for batch in batches), options)
    assert next(batches) == 7
