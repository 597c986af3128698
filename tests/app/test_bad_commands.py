"""What is asked of the command line in a wrong way: one line on stderr, exit code 2, no traceback.

The options of training stand in `tests/app/test_commands.py`; here is all else.
"""

import json
import re
import shutil

import pytest

from jaxrnn.app.main import main

TEXT = "".join(f"{n} green bottles. " for n in range(60))
TINY = ("--hidden-size", "4", "--batch-size", "2", "--embedding-size", "3", "--steps", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text").write_text(TEXT, "utf-8")
    ask = ["train", "text", "--text", str(folder / "text"), "--out", str(folder / "run"), *TINY]
    assert main([*ask, "--segment-length", "6"]) == 0
    return folder / "run"


def refused(capsys, arguments, message):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(f"jaxrnn: error: {message}.*\n", error), error


SMALL = ("inspect", "gru", "--hidden-size", "2", "--steps", "2")
COMMANDS = [
    ([], "the following arguments are required: COMMAND"),
    (["train"], "the following arguments are required: TASK"),
    (["tune"], "COMMAND: invalid choice: 'tune'"),
    (["train", "speech"], "TASK: invalid choice: 'speech'"),
    (["inspect"], "the following arguments are required: FOLDER_OR_CELL"),
    (["inspect", "gruu"], "got 'gruu', expected one of elman"),
    (["inspect", "gru", "--hidden-size", "0"], "--hidden-size: got '0', expected a whole number"),
    (["inspect", "gru", "--steps", "x"], "--steps: got 'x', expected a whole number"),
    ([*SMALL, "--out", "x.bogus"], r"--out: got 'x\.bogus', expected a name that ends in one of"),
    ([*SMALL, "--out", "x"], "--out: got 'x', expected a name that ends in one of .*png"),
    (["story", "--out", "x.txt"], r"--out: got 'x\.txt', expected a name that ends in one of"),
    (["story", "--out", "."], r"--out: got '\.', expected a name that ends in one of"),
    (["sample", "none", "--prompt", "1"], r"FOLDER: got 'none.options\.json' \(No such file"),
    (["sample", "text", "--prompt", "1"], r"FOLDER: got 'text.options\.json' \(Not a dir"),
    (["sample", "run", "--prompt", "\udcff"], r"--prompt: got '\\udcff', expected only char"),
    (["sample", "run", "--prompt", "1", "--seed", "9" * 20], "--seed: got '9+', expected a whole"),
    (["train", "text", "--text", ""], r"--text: got '\.' \(Is a directory\), expected"),
    (["train", "text", "--loop", "truncated:" + "9" * 5000], "--loop: got 'truncated:9+', exp"),
    (["train", "text", "--loop", ":::"], "--loop: got ':::', expected one of"),
    (["train", "text", "--cell", ""], "--cell: got '', expected one of"),
    (["convert"], "the following arguments are required: SOURCE, TARGET"),
    (["convert", "run/params.safetensors", "x"], "path: got version None of 'run.*, expected '1'"),
    (["convert", "run/params.safetensors", "x", "--of", "keras"], "--of: invalid choice: 'keras'"),
    (["convert", "run", "x"], "(No such device|.*[Dd]irectory)"),
    (["convert", "empty", "x"], r"path: got 'empty' \(.*\), expected safetensors"),
    (["convert", "text", "x", "--of", "torch"], r"path: got 'text' \(.*\), expected safetensors"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMANDS)
def test_a_bad_command_is_refused_in_a_line(trained, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(trained.parent)
    (trained.parent / "empty").touch()
    before = sorted(trained.parent.iterdir())
    refused(capsys, arguments, message)
    assert sorted(trained.parent.iterdir()) == before


BYTES = [b"\xff\xfe", b"[" * 100_000, b"[]", b""]
OPTIONS = [{"hidden_size": n} for n in (10**30, -1, True, "4")]
OPTIONS += [{"task": None}, {"task": ["text"]}, {"cell": 3}, {"embedding_size": None}]
OF_BATCHES = [{"seed": "x"}, {"batch_size": 0}, {"batch_size": "2"}, {"segment_length": 0}]
OF_BATCHES += [{"text": "/none"}, {"text": 3}]  # which sampling has no use for


@pytest.mark.parametrize("command", ["sample", "inspect"])
@pytest.mark.parametrize("damage", [*BYTES, *OPTIONS, *OF_BATCHES], ids=lambda d: str(d)[:30])
@pytest.mark.usefixtures("own_messages")
def test_damaged_options_are_refused_in_a_line(trained, command, damage, tmp_path, capsys):
    if command == "sample" and damage in OF_BATCHES:
        pytest.skip("sampling reads none of these")
    folder = shutil.copytree(trained, tmp_path / "run")
    path = folder / "options.json"
    if isinstance(damage, dict):
        damage = json.dumps({**json.loads(path.read_text("utf-8")), **damage}).encode()
    path.write_bytes(damage)
    more = ["--prompt", "1"] if command == "sample" else ["--out", tmp_path / "x.png"]
    refused(capsys, [command, folder, *more], "FOLDER: got '")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("damage", [b"", b"\x80\x04 a pickle", b"\xff" * 8 + b"{}"])
def test_damaged_parameters_are_refused_in_a_line(trained, damage, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "params.safetensors").write_bytes(damage)
    refused(capsys, ["sample", folder, "--prompt", "1"], r"FOLDER: got '.*params\.safetensors'")
