"""The folder of a run: what is in it, who may write it, and what is said when it is damaged."""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

import jaxrnn
from jaxrnn.cli import run_folder
from jaxrnn.cli.learning_curve import curve
from jaxrnn.cli.options import UserError
from jaxrnn.interop import safetensors as interop

NETWORK = jaxrnn.stacked(jaxrnn.gru(2), jaxrnn.linear(4))
PARAMS = NETWORK.init(jax.random.key(0), 3, jax.numpy.float32)
EXAMPLE = {"inputs": np.arange(6, dtype=np.int32).reshape(2, 3), "more": np.ones(2, np.float32)}
HISTORY = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1 / 3}]
VALIDATION = [{"step": 2, "loss": 0.5}]


def made(params=PARAMS, history=HISTORY, **options):
    options = argparse.Namespace(**{"task": "text", "vocabulary": "ab½\n😀", **options})
    picture = curve("loss", [2.5, 1 / 3], "toy", {"chance": 1.0})
    return run_folder.Run(NETWORK, params, options, EXAMPLE, history, VALIDATION, picture)


def save(folder, overwrite=False, **parts):
    with run_folder.reserve(folder, overwrite) as earlier:
        return run_folder.save(folder, made(**parts), earlier)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_saved_is_read_again(tmp_path):
    assert save(tmp_path) == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == set(run_folder.FILES)
    options = run_folder.load_options(tmp_path, "text")
    assert vars(options) == {"task": "text", "vocabulary": "ab½\n😀"}
    network, params = run_folder.load_network(tmp_path)
    assert network == NETWORK
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    (inputs,) = run_folder.load_example(tmp_path, inputs=np.int32)
    np.testing.assert_array_equal(inputs, EXAMPLE["inputs"])
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines == ["step,loss", "1,2.5", f"2,{1 / 3}"]
    assert (tmp_path / "validation.csv").read_text() == "step,loss\n2,0.5\n"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_file_of_parameters_is_one_of_interop(tmp_path):
    save(tmp_path)
    network, params = interop.load(tmp_path / "params.safetensors")
    assert network == NETWORK
    np.testing.assert_array_equal(params[0]["w_h"], PARAMS[0]["w_h"])
    names = safetensors.numpy.load_file(tmp_path / "params.safetensors").keys()
    assert {"0.w_x", "0.w_h", "1.w_o", "1.b_o"} <= names


def test_every_file_has_the_rights_that_a_new_file_has(tmp_path):
    (tmp_path / "new").touch()
    save(tmp_path / "run")
    modes = {path.stat().st_mode for path in (tmp_path / "run").iterdir()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_arrays_that_are_not_contiguous_are_saved_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setitem(EXAMPLE, "inputs", np.arange(6, dtype=np.int32).reshape(2, 3).T)
    save(tmp_path)
    (inputs,) = run_folder.load_example(tmp_path, inputs=np.int32)
    np.testing.assert_array_equal(inputs, [[0, 3], [1, 4], [2, 5]])


def test_a_run_without_steps_can_be_saved(tmp_path):
    save(tmp_path, history=[])
    assert {path.name for path in tmp_path.iterdir()} == set(run_folder.FILES)
    assert curve("loss", [], "nothing", {}).axes[0].get_legend() is None


def test_a_run_is_replaced_only_if_that_is_asked_for(tmp_path):
    save(tmp_path)
    (tmp_path / "notes").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"--out: got '.*', which holds a run, .* --overwrite$"):
        save(tmp_path, seed=2)
    assert contents(tmp_path) == before
    assert save(tmp_path, overwrite=True, seed=2) == tmp_path
    assert run_folder.load_options(tmp_path, "text").seed == 2
    assert (tmp_path / "notes").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {*run_folder.FILES, "notes"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", run_folder.FILES)
def test_a_file_of_somebody_else_is_never_replaced(tmp_path, name, overwrite):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"--out: got '.*' with {name} in it, which is no whole"):
        save(tmp_path, overwrite)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_folder_of_other_files_is_fine(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes").write_text("mine")
    save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*run_folder.FILES, "notes", "sub"}


@pytest.mark.parametrize("at", range(len(run_folder.FILES)))
@pytest.mark.parametrize("earlier", [True, False])
def test_a_folder_stays_as_it_was_if_a_file_cannot_take_its_place(
    tmp_path, monkeypatch, at, earlier
):
    if earlier:
        save(tmp_path)
    before, replace, calls = contents(tmp_path), type(tmp_path).replace, []

    def failing(path, target):
        calls.append(target)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, overwrite=True, params=jax.tree.map(lambda p: p + 1, PARAMS), seed=2)
    assert contents(tmp_path) == before


def test_a_folder_stays_as_it_was_if_writing_fails(tmp_path, monkeypatch):
    save(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(run_folder.figures, "save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path, overwrite=True, seed=2)
    assert contents(tmp_path) == before


def test_two_trainings_cannot_have_one_folder(tmp_path):
    with run_folder.reserve(tmp_path):
        with pytest.raises(UserError, match=r"--out: got '.*', where another training is about"):
            save(tmp_path)
        code = "from pathlib import Path; from jaxrnn.cli import run_folder\n"
        code += f"with run_folder.reserve(Path({str(tmp_path)!r})): pass"
        other = [sys.executable, "-c", code]
        done = subprocess.run(other, capture_output=True, text=True, timeout=120)
        assert "where another training is about to save its run" in done.stderr
    save(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_came_meanwhile_is_left_alone(tmp_path, overwrite):
    folder = tmp_path / "run"
    if overwrite:
        save(folder, seed=1)
    save(tmp_path / "other", seed=2)
    (tmp_path / "run-2").mkdir()  # taken
    with run_folder.reserve(folder, overwrite) as earlier:
        for path in (tmp_path / "other").iterdir():
            shutil.copy(path, folder)
        assert run_folder.save(folder, made(seed=3), earlier) == tmp_path / "run-3"
    assert contents(folder) == contents(tmp_path / "other")
    assert run_folder.load_options(tmp_path / "run-3", "text").seed == 3
    assert {path.name for path in (tmp_path / "run-3").iterdir()} == set(run_folder.FILES)
    assert not [*(tmp_path / "run-2").iterdir()]


def test_a_folder_that_is_gone_is_made_again(tmp_path):
    save(tmp_path / "run")
    with run_folder.reserve(tmp_path / "run", overwrite=True) as earlier:
        shutil.rmtree(tmp_path / "run")
        assert run_folder.save(tmp_path / "run", made(), earlier) == tmp_path / "run"
    assert {path.name for path in (tmp_path / "run").iterdir()} == set(run_folder.FILES)


def test_a_relative_folder_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(run_folder.Path("."))
    with run_folder.reserve(run_folder.Path("."), overwrite=True):
        taken = run_folder.save(run_folder.Path("."), made(), {})
    assert taken == tmp_path.with_name(f"{tmp_path.name}-2")
    shutil.rmtree(taken)


def load_network(folder):
    return run_folder.load_network(folder)


def load_example(folder):
    return run_folder.load_example(folder, inputs=np.int32)


@pytest.mark.parametrize("damage", [lambda x: x[:-1], lambda x: x[:20], lambda x: b"", None])
@pytest.mark.parametrize(
    ("name", "load"), [("params.safetensors", load_network), ("example.safetensors", load_example)]
)
def test_a_damaged_file_is_named(tmp_path, name, load, damage):
    save(tmp_path)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    match = f"FOLDER: got '.*{name}' .*, expected a file of `jaxrnn train`$"
    with pytest.raises(UserError, match=match) as caught:
        load(tmp_path)
    assert "None" not in str(caught.value)


def test_parameters_that_do_not_name_their_network_are_refused(tmp_path):
    save(tmp_path)
    arrays = {name: np.asarray(x) for name, x in jaxrnn.tree.leaves_by_name(PARAMS).items()}
    safetensors.numpy.save_file(arrays, tmp_path / "params.safetensors")
    match = r"FOLDER: got '.*params.safetensors' \(no network is named in it: .*; train again\)"
    with pytest.raises(UserError, match=match):
        run_folder.load_network(tmp_path)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"other": EXAMPLE["inputs"]}, "inputs: got none, expected an array of int32"),
        ({"inputs": EXAMPLE["more"]}, r"inputs: got float32\[2\], expected an array of int32"),
    ],
)
def test_another_example_is_refused(tmp_path, example, message):
    save(tmp_path)
    safetensors.numpy.save_file(example, tmp_path / "example.safetensors")
    with pytest.raises(UserError, match=rf"FOLDER: got .*example.safetensors' \({message}"):
        load_example(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"task": ', "\udcff"])
def test_damaged_options_are_refused(tmp_path, text):
    (tmp_path / "options.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"FOLDER: got .*options.json"):
        run_folder.load_options(tmp_path, "text")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"--out: got .*, expected a folder that can be wr"):
            save(folder)
    # Whoever runs the tests may be allowed everything.
    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", _denied)
    with pytest.raises(UserError, match=r"--out: got .* \(Permission denied\), expected a folder"):
        save(tmp_path / "folder")


def _denied(**_):
    raise PermissionError(13, "Permission denied")


def test_a_folder_is_let_go_whatever_happens(tmp_path):
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError), run_folder.reserve(tmp_path):
            raise ZeroDivisionError
    open_before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    with run_folder.reserve(tmp_path):
        pass
    if open_before:
        assert len(os.listdir("/proc/self/fd")) == open_before


def test_options_that_are_no_json_become_text(tmp_path):
    save(tmp_path, out=run_folder.Path("x"))
    assert json.loads((tmp_path / "options.json").read_text())["out"] == "x"


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


def test_the_picture_shows_the_validation_and_marks_the_best():
    axes = curve("loss", [3.0, 2.0, 1.0, 2.0], "", {"u": 4.0}, {2: 2.5, 4: 3.0}, best=2).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["training", "validation", "saved: update 2", "u"]
    np.testing.assert_array_equal(axes.lines[1].get_data(), [[2, 4], [2.5, 3.0]])
    np.testing.assert_array_equal(axes.lines[2].get_data(), [[2], [2.5]])
