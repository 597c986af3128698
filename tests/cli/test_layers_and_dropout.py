"""`--layers`, `--dropout` and `--evaluate-every`: deep models, noise in training only, the best."""

import csv
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import often

import jaxrnn
from jaxrnn.cli import corpus, run_folder, text
from jaxrnn.cli.main import main

TEXT = "".join(f"{n} green bottles hanging on the wall, and ½ of one. " for n in range(60))
TINY = ("--hidden-size", "6", "--steps", "4", "--batch-size", "2", "--embedding-size", "4")
TINY += ("--segment-length", "8")
DEEP = ("--layers", "2", "--dropout", "0.5")
STILL = ("--learning-rate", "1e-30")  # a step so small changes no float32


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "bottles.txt"
    path.write_text(TEXT, "utf-8")
    return path


def command(text_file, folder, *options):
    return ["train", "text", "--text", str(text_file), "--out", str(folder), *TINY, *options]


def trained(text_file, folder, *options):
    assert main(command(text_file, folder, *options)) == 0
    return folder


def column(folder, name, file="history.csv"):
    with (folder / file).open(newline="") as lines:
        return [float(row[name]) for row in csv.DictReader(lines)]


def test_layers_and_dropout_are_in_the_network(text_file, tmp_path):
    network, _ = run_folder.load_network(
        trained(text_file, tmp_path, "--layers", "3", "--cell", "mgu")
    )
    cell = jaxrnn.mgu(6)
    assert network == jaxrnn.stacked(jaxrnn.embedding(4), *[cell] * 3, jaxrnn.linear(29))


@pytest.mark.parametrize(
    "loop", often(("bptt", "scan", "truncated:3:6", "checkpointed:2"), ("truncated:3:6",))
)
def test_noise_is_the_same_under_every_loop_and_gone_when_scoring(text_file, tmp_path, loop):
    folder = trained(text_file, tmp_path / "run", *DEEP, *STILL, "--loop", loop)
    network, params = run_folder.load_network(folder)
    parts = corpus.split(TEXT, 2, 8)
    tokens = corpus.encode("text", parts.training[-1] + parts.validation, parts.vocabulary)
    (score,) = column(folder, "bits_per_character", "validation.csv")
    assert score == pytest.approx(text.bits_per_character(network, params, tokens, 2), rel=1e-5)
    # The first update, as the trainer draws its key.
    key = jax.random.split(jax.random.split(jax.random.key(0))[1])[1]
    segment = first_segment(parts)
    carry = network.initial_carry((2,))
    noisy = float(text.segment_loss(network, params, carry, segment, key=key)[0])
    assert column(folder, "loss")[0] == pytest.approx(noisy, rel=1e-5)
    assert noisy != pytest.approx(
        float(text.segment_loss(network, params, carry, segment)[0]), rel=1e-3
    )


def first_segment(parts):
    tokens = corpus.encode("text", parts.training, parts.vocabulary)
    return next(corpus.segments(tokens, 2, 8))


def test_a_seed_makes_the_noise(text_file, tmp_path):
    one, again = (
        column(trained(text_file, tmp_path / name, *DEEP, "--seed", "1"), "loss")
        for name in ("one", "again")
    )
    assert one == again


def test_each_device_draws_noise_of_its_own(text_file, tmp_path):
    ask = command(text_file, tmp_path / "run", *DEEP, *STILL, "--devices", "2")
    subprocess.run([sys.executable, "-m", "jaxrnn", *ask], check=True, timeout=300)
    network, params = run_folder.load_network(tmp_path / "run")
    segment, carry = first_segment(corpus.split(TEXT, 2, 8)), network.initial_carry((1,))
    key = jax.random.split(jax.random.split(jax.random.key(0))[1])[1]

    def loss(row, key):
        part = corpus.Segment(segment.inputs[:, [row]], segment.targets[:, [row]], segment.first)
        return float(text.segment_loss(network, params, carry, part, key=key)[0])

    apart = np.mean([loss(row, jax.random.fold_in(key, row)) for row in range(2)])
    alike = np.mean([loss(row, key) for row in range(2)])
    got = column(tmp_path / "run", "loss")[0]
    assert got == pytest.approx(apart, rel=1e-5)
    assert got != pytest.approx(alike, rel=1e-3)


def test_the_score_while_training_is_shown_and_the_best_is_saved(text_file, tmp_path, capsys):
    # So large a rate that a later update may well be worse than an earlier one.
    options = ("--steps", "12", "--evaluate-every", "3", "--learning-rate", "20")
    folder = trained(text_file, tmp_path, *options)
    out, err = capsys.readouterr()
    steps, bits = (column(folder, x, "validation.csv") for x in ("step", "bits_per_character"))
    assert steps == [*range(3, 13, 3)]
    best = int(steps[np.argmin(bits)])
    assert f"the parameters are those after update {best}, the best on" in out
    assert f"validation={bits[-1]:.3f}" in err
    network, params = run_folder.load_network(folder)
    parts = corpus.split(TEXT, 2, 8)
    tokens = corpus.encode("text", parts.training[-1] + parts.validation, parts.vocabulary)
    assert text.bits_per_character(network, params, tokens, 2) == pytest.approx(min(bits), rel=1e-5)
    tested = corpus.encode("text", parts.validation[-1] + parts.test, parts.vocabulary)
    wanted = text.bits_per_character(network, params, tested)
    assert f"  {wanted:.3f}  test, by this model" in out


def test_digits_have_layers_noise_and_a_validation_part(tmp_path, capsys):
    tiny = ("--hidden-size", "4", "--steps", "2", "--batch-size", "4", "--evaluate-every", "1")
    assert main(["train", "digits", *tiny, *DEEP, "--out", str(tmp_path)]) == 0
    assert "validation=" in capsys.readouterr().err
    assert column(tmp_path, "step", "validation.csv") == [1, 2]
    network, params = run_folder.load_network(tmp_path)
    cell, noise = jaxrnn.gru(4), jaxrnn.dropout(0.5)
    assert network == jaxrnn.stacked(cell, noise, cell, noise, jaxrnn.linear(10))
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(params))
