import argparse
import itertools
import math
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.cli import run_folder, training
from jaxrnn.cli.options import UserError


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
        layers=1,
        loop="bptt",
        evaluate_every=100,
        inspect_every=100,
        overwrite=False,
        batch_size=2,
        devices=1,
        checkpoint_every=None,
        resume=None,
    )


def w(params):
    return float(params["w_o"][0, 0])


def toy(batches, scores=()):
    """(w - 3)² to be made small; the carry is the sum of all batches so far.

    Validation losses are the scores, one after another, then 0.
    """
    network, scores = jaxrnn.linear(1), iter(scores)

    def add(params, carry, x):
        return carry + x, ()

    def loss(params, carry, batch, key, loop):
        carry, _ = loop(add, (), carry, batch[None])
        distance = (params["w_o"][0, 0] - 3) ** 2
        seen = jnp.sum(carry)
        return distance + 0 * seen, (carry, {"seen": seen})

    return training.Task(
        network=network,
        init=lambda key: network.init(key, 1),
        carry=jnp.zeros(1),
        loss=loss,
        evaluate=lambda params: {"loss": float(next(scores, 0)), "seen": w(params)},
        example={"inputs": np.zeros((1, 1), np.float32)},
        batches=lambda start: (jnp.reshape(batch, 1) for batch in batches),
        data="",
        rows=0,
        items=2,
        unit="thing",
        measure="seen",
        levels={},
    )


def history(options):
    rows = np.genfromtxt(options.out / run_folder.HISTORY, delimiter=",", names=True)
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
    assert losses[0] == pytest.approx((w(start(options)) - 3) ** 2)
    assert w(run_folder.load_network(options.out)[1]) == w(params)


def start(options):
    """The parameters that a run starts with, by way of one that is interrupted at once."""
    options = argparse.Namespace(**{**vars(options), "out": options.out / "start"})
    with pytest.raises(KeyboardInterrupt):
        training.train(toy(interrupted(after=0)), options)
    return run_folder.load_network(options.out)[1]


def test_a_seed_makes_a_run(options):
    def trained(seed):
        options.seed, options.overwrite = seed, True
        return w(training.train(toy(np.ones(6, np.float32)), options))

    assert trained(1) == trained(1)
    assert trained(1) != trained(2)


def test_an_interrupt_saves_what_there_is_and_says_where(options):
    with pytest.raises(KeyboardInterrupt, match=r"after 4 of 6 steps, saved in .*run"):
        training.train(toy(interrupted(after=4)), options)
    np.testing.assert_array_equal(history(options)["seen"], [1, 2, 3, 4])
    assert {path.name for path in options.out.iterdir()} == set(run_folder.FILES)
    saved = w(run_folder.load_network(options.out)[1])
    options.overwrite = True
    rest = w(training.train(toy(np.ones(6, np.float32)), options))
    assert w(start(options)) < saved < rest < 3  # on its way


def test_a_loss_that_is_no_number_ends_the_run(options):
    with pytest.raises(
        UserError, match=r"--learning-rate: got 0.1, .* nan after 2 of 6 steps, saved in"
    ):
        training.train(toy(np.float32([1, math.nan, 1])), options)
    assert list(np.isnan(history(options)["loss"])) == [False, True]
    assert {path.name for path in options.out.iterdir()} == set(run_folder.FILES)


def validation(options):
    rows = np.genfromtxt(options.out / run_folder.VALIDATION, delimiter=",", names=True)
    return np.atleast_1d(rows)


@pytest.mark.parametrize(
    ("scores", "best"), [([3, 2, 1], 6), ([3, 1, 2], 4), ([1, 1, 1], 2), ([math.nan, 2, 1], 6)]
)
def test_the_parameters_with_the_least_validation_loss_are_saved(options, scores, best):
    options.evaluate_every = 2
    params = training.train(toy(np.ones(6, np.float32), scores), options)
    rows = validation(options)
    np.testing.assert_array_equal(rows["step"], [2, 4, 6])
    np.testing.assert_array_equal(rows["loss"], scores)
    (at_best,) = rows["seen"][rows["step"] == best]
    assert w(params) == w(run_folder.load_network(options.out)[1]) == pytest.approx(at_best)
    assert len({*rows["seen"]}) == 3


def test_the_last_update_is_always_evaluated(options):
    options.evaluate_every = 4
    training.train(toy(np.ones(6, np.float32)), options)
    np.testing.assert_array_equal(validation(options)["step"], [4, 6])


def test_an_interrupt_saves_the_best_so_far(options):
    options.evaluate_every = 2
    with pytest.raises(KeyboardInterrupt):
        training.train(toy(interrupted(after=5), [1, 2]), options)
    rows = validation(options)
    assert w(run_folder.load_network(options.out)[1]) == pytest.approx(rows["seen"][0])
    assert len(history(options)) == 5


def test_a_diverged_run_saves_the_last_parameters(options):
    options.evaluate_every, options.steps = 1, 4
    with pytest.raises(UserError, match="--learning-rate"):
        training.train(toy(np.float32([1, math.nan, 1, 1])), options)
    assert list(validation(options)["step"]) == [1]
    # Not those of the only evaluation, so that `inspect` can say what is wrong with them.
    assert w(run_folder.load_network(options.out)[1]) > validation(options)["seen"][0]


def test_a_folder_with_a_run_is_refused_before_training(options):
    training.train(toy(np.ones(6, np.float32)), options)
    batches = itertools.count(1.0)
    with pytest.raises(UserError, match=r"--out: got '.*run', which holds a run, .*--overwrite"):
        training.train(toy(np.float32(batch) for batch in batches), options)
    assert next(batches) == 1


def test_an_interrupted_run_counts_as_a_run(options):
    with pytest.raises(KeyboardInterrupt):
        training.train(toy(interrupted(after=1)), options)
    with pytest.raises(UserError, match="which holds a run"):
        training.train(toy(np.ones(6, np.float32)), options)


@pytest.mark.parametrize("end", ["whole", "interrupted", "diverged"])
def test_a_run_that_came_while_training_stays_as_it_is(options, end):
    other = argparse.Namespace(**{**vars(options), "out": options.out / "other", "seed": 9})
    training.train(toy(np.ones(6, np.float32)), other)

    def batches():
        yield np.float32(1)
        for path in other.out.iterdir():
            shutil.copy(path, options.out)
        yield np.float32(math.nan if end == "diverged" else 1)
        if end == "interrupted":
            raise KeyboardInterrupt
        yield from np.ones(4, np.float32)

    expected = KeyboardInterrupt if end == "interrupted" else UserError
    with pytest.raises(expected, match=r"saved in .*run-2"):
        training.train(toy(batches()), options)
    assert run_folder.load_options(options.out, "toy").seed == 9
    assert run_folder.load_options(options.out.with_name("run-2"), "toy").seed == 3


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
