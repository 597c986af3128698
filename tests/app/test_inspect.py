"""`jaxrnn inspect`, `jaxrnn story` and the gradient flow that training draws."""

import jax
import numpy as np
import pytest

from jaxrnn.app import inspect, run, text, training
from jaxrnn.app.main import main

TEXT = "".join(f"{n} green bottles hanging on the wall. " for n in range(40))
TINY = ("--hidden-size", "4", "--embedding-size", "3", "--segment-length", "6", "--batch-size", "2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "text"
    (folder.parent / "text.txt").write_text(TEXT, "utf-8")
    source = ("--text", str(folder.parent / "text.txt"), "--out", str(folder))
    steps = ("--steps", "3", "--inspect-every", "2", "--cell", "elman")
    assert main(["train", "text", *source, *TINY, *steps]) == 0
    return folder


def test_a_run_is_inspected(trained, tmp_path, capsys):
    capsys.readouterr()
    assert main(["inspect", str(trained), "--out", str(tmp_path / "seen.svg")]) == 0
    out = capsys.readouterr().out
    assert " 6 steps back, " in out
    assert f"drawn in {tmp_path / 'seen.svg'}" in out
    assert (tmp_path / "seen.svg").read_text("utf-8").startswith("<?xml")


def test_a_parameter_that_is_no_number_is_named(trained, tmp_path, capsys):
    options = run.load_options(trained, "text")
    task = text.task(options)
    params = run.load_params(trained, like=jax.eval_shape(task.init, jax.random.key(0)))
    params.cell["w_h"] = params.cell["w_h"].at[1, 2].set(np.nan)
    with_bad = tmp_path / "bad"
    with_bad.mkdir()
    run.save(with_bad, params, options, [], inspect.Figure())
    assert main(["inspect", str(with_bad), "--out", str(tmp_path / "seen.png")]) == 2
    said = capsys.readouterr().err
    assert "forward: nan arose first in params.cell.w_h, index (1, 2)" in said
    assert not (tmp_path / "seen.png").exists()


def test_a_cell_is_inspected_as_it_starts(tmp_path, capsys):
    options = ("--hidden-size", "3", "--steps", "7", "--out", str(tmp_path / "seen.png"))
    assert main(["inspect", "elman", *options]) == 0
    assert "of 7 steps back" in capsys.readouterr().out.replace("all 7", "7 of 7")
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_neither_is_an_error_of_the_user(capsys):
    assert main(["inspect", "rnn"]) == 2
    assert "got 'rnn', expected one of elman" in capsys.readouterr().err


def test_the_story_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect, "STEPS", 10)
    assert main(["story", "--out", str(tmp_path / "story.svg")]) == 0
    said = (tmp_path / "story.svg").read_text("utf-8")
    assert said.startswith("<?xml")


def test_training_draws_the_gradient_flow(trained, monkeypatch):
    options, drawn = run.load_options(trained, "text"), []
    monkeypatch.setattr(
        run, "save", lambda folder, params, options, history, curve: drawn.append(curve)
    )
    options.out = trained
    training.train(text.task(options), options)
    learning, flow, _ = drawn[0].axes
    assert learning.get_xlabel() == "updates"
    assert flow.get_ylabel() == "updates / 2"
    assert flow.images[0].get_array().shape == (2, 6)  # updates 0 and 2, steps of a segment
