"""What is asked of the command line in a wrong way: one line on stderr, exit code 2, no traceback.

The options of training stand in `tests/app/test_commands.py`; here is all else.
"""

import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy

from jaxrnn.cli.main import main

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
    (["train"], "the following arguments are required: TASK, or --resume FOLDER"),
    (["train", "--resume"], "--resume: expected one argument"),
    (["train", "--resume", "none"], "--resume: got 'none' without checkpoints of an unfinished"),
    (["train", "--resume", "run"], "--resume: got 'run' without checkpoints of an unfinished run"),
    (["train", "--resume", "text"], "--resume: got 'text' without checkpoints of an unfinished r"),
    (["train", "--resume", "run", "text"], "train: got --resume run and the task 'text', expected"),
    (["train", "text", "--resume", "run"], "unrecognized arguments: --resume"),
    (["train", "text", "--log", "xml"], "--log: invalid choice: 'xml'"),
    (["tune"], "COMMAND: invalid choice: 'tune'"),
    (["train", "speech"], "TASK: invalid choice: 'speech'"),
    (["inspect"], "the following arguments are required: FOLDER_OR_CELL"),
    (["inspect", "gruu"], "FOLDER_OR_CELL: got 'gruu', expected a folder of .* or one of elman"),
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
    (["convert", "old.safetensors", "x"], "path: got version None of 'old.*, expected '2', in a f"),
    (["convert", "run/params.safetensors", "x", "--of", "keras"], "--of: invalid choice: 'keras'"),
    (["convert", "run", "x", "--of", "torch"], "--of: got 'torch' for the folder 'run', expected"),
    (["convert", ".", "x"], r"SOURCE: got 'params.safetensors' \(No such file.*expected a file of"),
    (["convert", "none", "x"], r"SOURCE: got 'none' \(No such file"),
    (["convert", "run", "run"], r"TARGET: got 'run' \(Is a directory\), expected a file that can"),
    (["convert", "run", "no/x"], r"TARGET: got 'no/x' \(No such file or directory\), expected a f"),
    (
        ["convert", "run", "x", "--to", "torch"],
        r"--to: got 'torch' for stacked\(embedding\(3\), gru\(4.*linear\(.*\)\), expected a "
        r"network without embedding.*write\(network.parts\[1\], params\[1\]\)",
    ),
    (
        ["convert", "run", "x.onnx"],
        r"TARGET: got 'x.onnx' for stacked\(embedding.*, expected a network without embedding",
    ),
    (["export"], "the following arguments are required: FOLDER_OR_FILE"),
    (["export", "none"], r"FOLDER_OR_FILE: got 'none' \(No such file"),
    (
        ["export", "text"],
        r"FOLDER_OR_FILE: got 'text' \(path: got 'text' \(.*, expected a run or a",
    ),
    (["export", "run", "--format", "x"], "--format: invalid choice: 'x'"),
    (["export", "run", "--steps", "0"], "--steps: got '0', expected a whole number from 1"),
    (["export", "run", "--out", "text"], r"--out: got 'text' \(File exists\), expected a folder"),
    (["story", "--out", "no/x.png"], r"--out: got 'no/x.png' \(No such file or dir"),
    (["inspect", "run", "--out", "no/x.png"], r"--out: got 'no/x.png' \(No such file or dir"),
    (["train", "text", "--out", "run"], "--out: got 'run', which holds a run, .*--overwrite"),
    (["train", "digits", "--out", "run", "--steps", "1"], "--out: got 'run', which holds a run"),
    (["train", "text", "--out", "text", "--steps", "1"], r"--out: got 'text' \(File exists\), exp"),
    (["convert", "empty", "x"], r"path: got 'empty' \(.*\), expected safetensors"),
    (["convert", "text", "x", "--of", "torch"], r"path: got 'text' \(.*\), expected safetensors"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMANDS)
def test_a_bad_command_is_refused_in_a_line(trained, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(trained.parent)
    (trained.parent / "empty").touch()
    safetensors.numpy.save_file({"b": np.ones(3, np.float32)}, "old.safetensors")
    before = sorted(trained.parent.iterdir())
    refused(capsys, arguments, message)
    assert sorted(trained.parent.iterdir()) == before


BYTES = [b"\xff\xfe", b"[" * 100_000, b"[]", b""]
OPTIONS = [{"task": None}, {"task": ["text"]}, {"vocabulary": 3}, {"vocabulary": "abc"}]


@pytest.mark.parametrize("command", ["sample", "inspect"])
@pytest.mark.parametrize("damage", [*BYTES, *OPTIONS], ids=lambda d: str(d)[:30])
@pytest.mark.usefixtures("own_messages")
def test_damaged_options_are_refused_in_a_line(trained, command, damage, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    path = folder / "options.json"
    if isinstance(damage, dict):
        damage = json.dumps({**json.loads(path.read_text("utf-8")), **damage}).encode()
    path.write_bytes(damage)
    more = ["--prompt", "1"] if command == "sample" else ["--out", tmp_path / "x.png"]
    refused(capsys, [command, folder, *more], "FOLDER: got '")
    assert not (tmp_path / "x.png").exists()


TOKENS = np.zeros((6, 2), np.int32)
EXAMPLES = [
    ({"inputs": TOKENS}, "targets: got none, expected an array of int32"),
    (
        {"inputs": TOKENS, "targets": TOKENS[:5]},
        r"targets: got int32\[5,2\], expected int32\[6,2\]",
    ),
    ({"inputs": TOKENS[0], "targets": TOKENS[0]}, r"inputs: got int32\[2\], expected \(T, B\)"),
    ({"inputs": TOKENS[:0], "targets": TOKENS[:0]}, r"inputs: got int32\[0,2\], expected \(T, B\)"),
    (
        {"inputs": TOKENS, "targets": TOKENS + 99},
        "example: got tokens from 0 to 99, expected those",
    ),
    ({"inputs": TOKENS - 1, "targets": TOKENS}, "example: got tokens from -1 to 0, expected those"),
    ({"inputs": TOKENS + 0.5, "targets": TOKENS}, "inputs: got float64.6,2., expected an array of"),
]


@pytest.mark.parametrize(("example", "message"), EXAMPLES)
@pytest.mark.usefixtures("own_messages")
def test_a_damaged_example_is_refused_in_a_line(trained, example, message, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    safetensors.numpy.save_file(example, folder / "example.safetensors")
    message = rf"FOLDER: got '.*example.safetensors' \({message}"
    refused(capsys, ["inspect", folder, "--out", tmp_path / "x.png"], message)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("damage", [b"", b"\x80\x04 a pickle", b"\xff" * 8 + b"{}"])
def test_damaged_parameters_are_refused_in_a_line(trained, damage, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "params.safetensors").write_bytes(damage)
    refused(capsys, ["sample", folder, "--prompt", "1"], r"FOLDER: got '.*params\.safetensors'")
    message = r"SOURCE: got '.*params\.safetensors'"
    refused(capsys, ["convert", folder, tmp_path / "x"], message)
    assert not (tmp_path / "x").exists()
