import itertools
import re

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

import jaxrnn
from jaxrnn.cli import digits
from jaxrnn.cli.main import main


def test_the_parts_are_all_digits_and_none_is_in_both():
    parts = digits.load()
    sizes = [part.pixels.shape for part in parts]
    assert sizes == [(64, 1293, 1), (64, 144, 1), (64, 360, 1)]
    images = np.concatenate([part.pixels for part in parts], axis=1)[..., 0].T * 16
    labels = np.concatenate([part.labels for part in parts])
    wanted = load_digits()

    def in_order(images, labels):
        rows = np.column_stack([images.reshape(len(images), 64), labels])
        return rows[np.lexsort(rows.T)]

    np.testing.assert_array_equal(in_order(images, labels), in_order(wanted.images, wanted.target))
    assert [np.bincount(part.labels).min() for part in parts] == [125, 14, 35]


def test_lengths_reach_to_the_last_ink():
    for part in digits.load():
        for row, length in enumerate(part.lengths):
            assert part.pixels[length - 1, row, 0] > 0
            assert not np.any(part.pixels[length:, row])
        assert len(np.unique(part.lengths)) > 3


def test_the_parts_are_always_the_same():
    for one, again in zip(digits.load(), digits.load(), strict=True):
        np.testing.assert_array_equal(one.pixels, again.pixels)


def test_a_pass_takes_every_digit_once_in_a_new_order():
    part = digits.Digits(np.arange(20.0).reshape(2, 10, 1), np.arange(10), np.arange(10))
    batches = digits.batches(part, batch_size=5, seed=0)
    passes = [np.concatenate([next(batches).labels for _ in range(2)]) for _ in range(2)]
    for order in passes:
        assert sorted(order) == list(range(10))
    assert list(passes[0]) != list(passes[1])
    batch = next(batches)
    np.testing.assert_array_equal(batch.pixels[0, :, 0], batch.labels)
    np.testing.assert_array_equal(batch.lengths, batch.labels)


@pytest.mark.parametrize("first", [0, 1, 2, 3, 7, 11])
def test_batches_go_on_from_any_number(first):
    part = digits.Digits(np.arange(20.0).reshape(2, 10, 1), np.arange(10), np.arange(10))
    every = [batch.labels for batch in itertools.islice(digits.batches(part, 3, 5), 15)]
    rest = [batch.labels for batch in itertools.islice(digits.batches(part, 3, 5, first), 4)]
    np.testing.assert_array_equal(rest, every[first : first + 4])


@pytest.fixture
def model():
    return digits.digit_model("lstm", 6)


@pytest.fixture
def params(model):
    return model.init(jax.random.key(0), 1)


PIXELS = np.random.default_rng(0).random((9, 4, 1), np.float32)
LENGTHS = np.array([9, 1, 5, 8])


def wanted_logits(params):
    """Of the last output of each row, by its length."""
    _, ys = jaxrnn.unroll(jaxrnn.lstm(6), params[0], PIXELS)
    return jaxrnn.linear(10).apply(params[1], ys[LENGTHS - 1, np.arange(4)])


def test_the_model_reads_the_last_output_of_each_row(model, params):
    carry, _ = jaxrnn.unroll(model, params, PIXELS, lengths=LENGTHS)
    wanted = wanted_logits(params)
    np.testing.assert_allclose(model.output(params, carry), wanted, rtol=1e-5, atol=1e-6)
    assert np.std(wanted) > 0.01


def test_a_score_is_the_cross_entropy_and_the_share_of_right_answers(model, params):
    logits = wanted_logits(params)
    labels = np.array(np.argmax(logits, axis=-1), np.int32)
    labels[1] = (labels[1] + 1) % 10
    part = digits.Digits(PIXELS, LENGTHS, labels)
    nats, (_, metrics) = digits.score(model, params, None, part)
    p = np.asarray(jax.nn.softmax(logits))[np.arange(4), labels]
    assert float(nats) == pytest.approx(-np.log(p).mean(), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(3 / 4)


def test_noise_reaches_the_readout_at_the_last_ink_of_each_row():
    model = digits.digit_model("gru", 6, 2, 0.5)
    params = model.init(jax.random.key(0), 1)
    part = digits.Digits(PIXELS, LENGTHS.astype(np.int32), np.int32([1, 2, 3, 4]))
    nats, _ = digits.score(model, params, None, part, key=jax.random.key(3))
    _, ys = jaxrnn.unroll(model, params, PIXELS, key=jax.random.key(3))
    p = jax.nn.softmax(ys[LENGTHS - 1, np.arange(4)])[np.arange(4), part.labels]
    assert float(nats) == pytest.approx(-np.log(p).mean(), rel=1e-5)
    assert float(nats) != float(digits.score(model, params, None, part)[0])


def test_a_few_steps_beat_guessing(tmp_path, capsys):
    small = ["--hidden-size", "32", "--steps", "80", "--learning-rate", "0.01"]
    assert main(["train", "digits", "--out", str(tmp_path / "digits"), *small]) == 0
    (accuracy,) = re.findall(r"accuracy on the 360 digits that .*: (.*)%", capsys.readouterr().out)
    assert float(accuracy) > 30
