import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.cli import digits, text
from jaxrnn.cli.corpus import Segment
from jaxrnn.cli.main import main

V = 11
TOKENS = np.random.default_rng(0).integers(0, V, 50).astype(np.int32)


@pytest.fixture(params=["gru", "lstm"])
def model(request):
    return text.character_model(request.param, 7, 5, V)


@pytest.fixture
def params(model):
    # Loud enough that what came before matters.
    return jax.tree.map(lambda p: 2 * p, model.init(jax.random.key(0), V))


def in_one_go(model, params, tokens):
    """Bits of each token but the first, by the definition."""
    _, logits = jaxrnn.unroll(
        model, params, tokens[:-1], carry=model.initial_carry(), loop=jaxrnn.scan
    )
    p = jax.nn.softmax(logits)[np.arange(len(tokens) - 1), tokens[1:]]
    return -np.log2(p)


def test_one_step_at_a_time_gives_the_same_logits(model, params):
    last, logits = jaxrnn.unroll(model, params, TOKENS, carry=model.initial_carry())
    assert logits.shape == (50, V)
    carry = model.initial_carry()
    step = jax.jit(model)
    for token, wanted in zip(TOKENS, logits, strict=True):
        carry, got = step(params, carry, token)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), carry, last)


def test_a_segment_continues_the_one_before_unless_streams_begin(model, params):
    bits = in_one_go(model, params, TOKENS)[20:30].mean()
    inputs, targets = TOKENS[:-1, None], TOKENS[1:, None]
    parts = slice(0, 20), slice(20, 30)
    carry = model.initial_carry((1,))

    segment_loss = jax.jit(functools.partial(text.segment_loss, model))

    def loss(at, carry, first):
        return segment_loss(params, carry, Segment(inputs[at], targets[at], np.bool_(first)))

    _, (carry, _) = loss(parts[0], carry, first=True)
    continued, _ = loss(parts[1], carry, first=False)
    begun, _ = loss(parts[1], carry, first=True)
    assert continued / np.log(2) == pytest.approx(bits, rel=1e-5)
    alone = in_one_go(model, params, TOKENS[20:31]).mean()
    assert begun / np.log(2) == pytest.approx(alone, rel=1e-5)
    assert abs(alone - bits) > 1e-3


@pytest.mark.parametrize("size", [7, 49, 4096])
def test_a_text_is_scored_as_in_one_go(model, params, size, monkeypatch):
    monkeypatch.setattr(text, "SCORING_CHUNK", size)
    got = text.bits_per_character(model, params, TOKENS)
    assert got == pytest.approx(in_one_go(model, params, TOKENS).mean(), rel=1e-5)


@pytest.mark.parametrize("size", [7, 49, 4096])
def test_streams_are_scored_side_by_side(model, params, size, monkeypatch):
    monkeypatch.setattr(text, "SCORING_CHUNK", size)
    tokens = TOKENS[:45]  # 44 targets; the last two do not fill three streams
    bits = [in_one_go(model, params, tokens[14 * s :][:15]).mean() for s in range(3)]
    got = text.bits_per_character(model, params, tokens, streams=3)
    assert got == pytest.approx(np.mean(bits), rel=1e-5)


def test_a_model_of_one_cell_without_dropout_is_the_plain_stack():
    parts = jaxrnn.embedding(5), jaxrnn.lstm(7), jaxrnn.linear(V)
    assert text.character_model("lstm", 7, 5, V) == jaxrnn.stacked(*parts)


def test_dropout_is_behind_the_embedding_and_behind_each_cell():
    noise, cell = jaxrnn.dropout(0.5), jaxrnn.gru(7)
    parts = jaxrnn.embedding(5), noise, cell, noise, cell, noise, jaxrnn.linear(V)
    assert text.character_model("gru", 7, 5, V, 2, 0.5) == jaxrnn.stacked(*parts)
    assert digits.digit_model("gru", 7, 2, 0.5) == jaxrnn.stacked(*parts[2:-1], jaxrnn.linear(10))


def test_noise_is_drawn_by_the_key_and_by_nothing_else():
    model = text.character_model("gru", 7, 5, V, 2, 0.5)
    params = model.init(jax.random.key(0), V)
    segment = Segment(TOKENS[:-1, None], TOKENS[1:, None], np.bool_(True))

    def loss(key=None):
        key = None if key is None else jax.random.key(key)
        return float(
            text.segment_loss(model, params, model.initial_carry((1,)), segment, key=key)[0]
        )

    assert loss() == loss() != loss(0) == loss(0) != loss(1)
    plain = text.character_model("gru", 7, 5, V, 2)
    without = [part for part in params if part != ()]
    carry = plain.initial_carry((1,))
    assert loss() == pytest.approx(
        float(text.segment_loss(plain, tuple(without), carry, segment)[0])
    )


def drawn(model, params, prompt, temperature=1.0, seed=0, length=30):
    tokens = text.generate(model, params, prompt, temperature, jax.random.key(seed))
    return list(itertools.islice(tokens, length))


def test_draws_depend_on_the_key_and_nothing_else(model, params):
    assert drawn(model, params, TOKENS) == drawn(model, params, TOKENS)
    assert drawn(model, params, TOKENS) != drawn(model, params, TOKENS, seed=1)


def test_without_a_prompt_the_first_token_is_what_the_zero_state_expects(model, params):
    params[2]["b_o"] = params[2]["b_o"].at[7].set(0.1)  # as training does
    logits = model.output(params, model.initial_carry())
    tokens = drawn(model, params, TOKENS[:0], temperature=1e-6, length=5)
    assert tokens[0] == np.argmax(logits)
    assert tokens[1:] == drawn(model, params, np.int32(tokens[:1]), temperature=1e-6, length=4)
    firsts = [drawn(model, params, TOKENS[:0], seed=s, length=1)[0] for s in range(8)]
    assert len({*firsts}) > 1


def test_at_temperature_zero_the_likeliest_follows_the_whole_prompt(model, params):
    tokens = drawn(model, params, TOKENS, temperature=1e-6, length=10)
    everything = np.int32([*TOKENS, *tokens])
    _, logits = jaxrnn.unroll(model, params, everything)
    assert tokens == list(np.argmax(logits, axis=-1)[len(TOKENS) - 1 : -1])


def test_draws_have_the_probabilities_of_the_model_at_that_temperature():
    model = text.character_model("elman", 2, 2, 3)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), 3))
    params[2]["b_o"] = jnp.log(jnp.array([0.5, 0.3, 0.2]))  # whatever came before
    for temperature in (1.0, 0.5):
        tokens = drawn(model, params, TOKENS[:1] * 0, temperature, length=4000)
        p = np.array([0.5, 0.3, 0.2]) ** (1 / temperature)
        frequencies = np.bincount(tokens, minlength=3) / 4000
        np.testing.assert_allclose(frequencies, p / p.sum(), atol=0.03)


@pytest.mark.parametrize("loop", [jaxrnn.scan, jaxrnn.truncated(4)])
def test_the_loop_makes_the_gradient(loop):
    model = text.character_model("gru", 7, 5, V)
    params = model.init(jax.random.key(0), V)
    segment = Segment(TOKENS[:-1, None], TOKENS[1:, None], np.bool_(True))

    def gradient(loop):
        @jax.jit
        @jax.grad
        def gradient(params):
            return text.segment_loss(model, params, model.initial_carry((1,)), segment, loop)[0]

        return float(jnp.linalg.norm(gradient(params)[1]["w_h"]))

    exact = gradient(jaxrnn.bptt)
    if loop is jaxrnn.scan:
        assert gradient(loop) == pytest.approx(exact, rel=1e-4)
    else:
        assert abs(gradient(loop) - exact) > 1e-3 * exact


@pytest.mark.parametrize("learner", ["snap:1", "rtrl", "uoro"])
def test_a_text_is_learned_online(tmp_path, capsys, learner):
    """The trainer is the learner's, and the run is one like any other."""
    path = tmp_path / "text.txt"
    path.write_text("abcabd" * 200)
    options = "--embedding-size 3 --hidden-size 4 --batch-size 2 --segment-length 8 --steps 4"
    command = f"train text --text {path} --learner {learner} {options} --out {tmp_path / 'run'}"
    assert main(command.split()) == 0
    assert "saved in" in capsys.readouterr().out
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert len(history) == 5
    assert main(["sample", str(tmp_path / "run"), "--length", "3"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--learner snap:0", "--learner: got 'snap:0', expected one of rtrl, snap, snap:ORDER"),
        ("--learner nosuch", "--learner: got 'nosuch'"),
        ("--learner uoro --dropout 0.1", "--learner: got uoro and --dropout 0.1"),
        ("--learner uoro --loop scan", "--learner: got uoro and --loop scan"),
    ],
)
def test_a_learner_that_does_not_fit(tmp_path, capsys, more, message):
    path = tmp_path / "text.txt"
    path.write_text("abcabd" * 200)
    options = "--hidden-size 4 --batch-size 2 --segment-length 8 --steps 4"
    command = f"train text --text {path} {options} {more} --out {tmp_path / 'run'}"
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err
