"""A run needs nothing but its folder: no text, no options of training, no Python of a version."""

import json
import shutil

import numpy as np
import pytest

from jaxrnn.cli import corpus, run_folder
from jaxrnn.cli.main import main

TINY = ("--hidden-size", "4", "--embedding-size", "3", "--segment-length", "6", "--batch-size", "2")
TOPICS = {name: f"{name} is 4½ green\n bottles 😀 hanging. " * 20 for name in ("if", "while")}
OTHER_TOPICS = {"if": "quite another text, longer and with other letters: XYZ. " * 30}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus.topics, "topics", TOPICS)
        assert main(["train", "text", *TINY, "--steps", "2", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def trained(saved, tmp_path, monkeypatch):
    """A run of the default text, where that is another one now, as in another Python."""
    monkeypatch.setattr(corpus.topics, "topics", OTHER_TOPICS)
    return shutil.copytree(saved, tmp_path / "run")


def test_a_run_is_sampled_where_the_default_text_is_another_one(trained, capsys):
    capsys.readouterr()
    assert main(["sample", str(trained), "--prompt", "4½😀\n", "--length", "30"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("4½😀\n")
    assert len(out) == 4 + 30 + 1
    assert {*out} <= {*"".join(TOPICS.values())}


def test_a_run_is_sampled_without_a_prompt(trained, capsys):
    def sampled(*options):
        capsys.readouterr()
        assert main(["sample", str(trained), "--length", "30", *options]) == 0
        return capsys.readouterr().out

    out = sampled()
    assert len(out) == 30 + 1
    assert {*out} <= {*"".join(TOPICS.values())}
    assert sampled() == out
    assert sampled("--seed", "1") != out


def test_a_run_is_converted_where_the_default_text_is_another_one(trained, tmp_path, capsys):
    assert main(["convert", str(trained), str(tmp_path / "x.safetensors")]) == 0
    assert "stacked(embedding(3), gru(4), linear(" in capsys.readouterr().out


def test_only_the_task_and_the_vocabulary_are_read_of_the_options(trained, tmp_path, capsys):
    path = trained / "options.json"
    options = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({name: options[name] for name in ("task", "vocabulary")}))
    assert main(["sample", str(trained), "--length", "3"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(trained), "--out", str(tmp_path / "x.svg")]) == 0
    assert " 6 steps back" in capsys.readouterr().out


def test_the_example_is_of_the_text_that_was_not_trained_on(trained):
    text = "\n".join(TOPICS.values())
    parts = corpus.split(text, 2, 6)
    options = run_folder.load_options(trained, "text")
    inputs, targets = run_folder.load_example(trained, inputs=np.int32, targets=np.int32)
    assert inputs.shape == targets.shape == (6, 2)
    for row in range(2):
        told = "".join(options.vocabulary[token] for token in targets[:, row])
        before = "".join(options.vocabulary[token] for token in inputs[:, row])
        assert told in parts.validation
        assert before[1:] == told[:-1]


@pytest.mark.parametrize("missing", run_folder.FILES)
def test_what_a_command_does_not_need_may_be_missing(trained, missing, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "copy")
    (folder / missing).unlink()
    commands = {
        "sample": ([str(folder), "--length", "2"], {run_folder.PARAMS, run_folder.OPTIONS}),
        "convert": ([str(folder), str(tmp_path / "x")], {run_folder.PARAMS}),
    }
    for command, (arguments, needed) in commands.items():
        assert main([command, *arguments]) == (2 if missing in needed else 0)
        error = capsys.readouterr().err
        assert (f"{missing}' (No such file or directory" in error) == (missing in needed)


def test_inspecting_names_a_missing_example(trained, capsys):
    (trained / run_folder.EXAMPLE).unlink()
    assert main(["inspect", str(trained)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{run_folder.EXAMPLE}' (No such file or directory)" in line


def test_a_run_of_an_earlier_jaxrnn_is_refused_in_a_line(trained, capsys):
    tensors = run_folder.safetensors.numpy.load_file(trained / run_folder.PARAMS)
    (trained / run_folder.PARAMS).write_bytes(run_folder.safetensors.numpy.save(tensors))
    for command in (["sample", str(trained)], ["inspect", str(trained)]):
        capsys.readouterr()
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert (
            f"{run_folder.PARAMS}' (no network is named in it: an earlier jaxrnn wrote it" in line
        )
        assert "train again" in line
