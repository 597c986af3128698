import argparse
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.app import run
from jaxrnn.app.options import UserError
from jaxrnn.app.training import curve

PARAMS = {
    "cell": {"w_h": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([1, 2])},
    "readout": {"w_o": np.ones((1, 4), np.float16)},
}
HISTORY = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1 / 3}]


def save(folder, params=PARAMS, history=HISTORY, **options):
    options = argparse.Namespace(**{"task": "text", "vocabulary": "ab½", **options})
    run.prepare(folder)
    run.save(folder, params, options, history, curve("loss", [2.5, 1 / 3], "toy", {"chance": 1.0}))


def test_what_is_saved_is_read_again(tmp_path):
    save(tmp_path)
    options = run.load_options(tmp_path, "text")
    assert vars(options) == {"task": "text", "vocabulary": "ab½"}
    params = run.load_params(tmp_path, like=PARAMS)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines == ["step,loss", "1,2.5", f"2,{1 / 3}"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_names_are_paths(tmp_path):
    save(tmp_path)
    head = (tmp_path / "params.safetensors").read_bytes()
    size = int.from_bytes(head[:8], "little")
    assert json.loads(head[8 : 8 + size]).keys() == {"cell.w_h", "cell.b", "readout.w_o"}


def test_a_run_without_steps_can_be_saved(tmp_path):
    save(tmp_path, history=[])
    assert {path.name for path in tmp_path.iterdir()} == set(run.FILES)
    assert curve("loss", [], "nothing", {}).axes[0].get_legend() is None


def test_an_earlier_file_stays_whole_if_writing_fails(tmp_path, monkeypatch):
    save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", failing)
    monkeypatch.setattr(type(tmp_path), "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, params=jax.tree.map(lambda p: p + 1, PARAMS))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "params.safetensors"),
        (lambda data: data[:20], "params.safetensors"),
        (lambda data: b"", "params.safetensors"),
        (lambda data: b"\xff" * 100, "params.safetensors"),
    ],
)
def test_damaged_parameters_are_refused(tmp_path, damage, message):
    save(tmp_path)
    path = tmp_path / "params.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"FOLDER: got .*{message}.*, expected a file of"):
        run.load_params(tmp_path, like=PARAMS)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            {"cell": PARAMS["cell"]},
            r"readout.w_o: got float16\[1,4\], expected none for options.json",
        ),
        ({**PARAMS, "more": np.ones(1)}, r"more: got none, expected float64\[1\]"),
        (
            {**PARAMS, "readout": {"w_o": np.ones((1, 5), np.float16)}},
            r"readout.w_o: .*float16\[1,4\]",
        ),
        (
            {**PARAMS, "readout": {"w_o": jnp.ones((1, 4))}},
            r"readout.w_o: .*expected float32\[1,4\]",
        ),
    ],
)
def test_parameters_of_another_form_are_refused(tmp_path, like, message):
    save(tmp_path)
    with pytest.raises(UserError, match=f"FOLDER: got .*{message}"):
        run.load_params(tmp_path, like=like)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"task": ', "\udcff"])
def test_damaged_options_are_refused(tmp_path, text):
    (tmp_path / "options.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"FOLDER: got .*options.json"):
        run.load_options(tmp_path, "text")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            UserError, match=r"--out: got .*, expected a folder that can be written"
        ):
            run.prepare(folder)


def test_the_picture_says_what_it_shows():
    axes = curve(
        "bits_per_character", list(np.arange(1000.0)), "a title", {"xz": 1.0, "u": 4.0}
    ).axes[0]
    assert axes.get_xlabel() == "updates"
    assert axes.get_ylabel() == "bits per character"
    assert axes.get_title() == "a title"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "xz", "u"]
    steps, values = axes.lines[0].get_data()
    # A running mean of ten steps ends at the last step and lags by half of ten.
    assert (steps[0], steps[-1]) == (10, 1000)
    np.testing.assert_allclose(values, np.arange(4.5, 995))
