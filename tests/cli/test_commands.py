"""The command line from outside: what it writes, prints and answers."""

import csv
import importlib
import json
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxrnn
from jaxrnn import Certificate, Comparison
from jaxrnn.cli import corpus, run_folder, text, training
from jaxrnn.cli.main import main
from jaxrnn.interop import safetensors

TEXT = "".join(f"{n} green bottles hanging on the wall, and ½ of one. " for n in range(60))
STREAMS, LENGTH = 2, 8
TINY = ("--hidden-size", "6", "--steps", "5", "--batch-size", str(STREAMS))
TINY_TEXT = (*TINY, "--embedding-size", "4", "--segment-length", str(LENGTH))


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "bottles.txt"
    path.write_text(TEXT, "utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, text_file):
    """The folder of a tiny character model whose parameters training leaves as they started.

    A step so small changes no float32, so that every row of the history can be told from the
    parameters that were saved.
    """
    folder = tmp_path_factory.mktemp("runs") / "text"
    still = ("--learning-rate", "1e-30")
    assert _train_text(text_file, folder, *still) == 0
    return folder


@pytest.fixture
def model():
    return text.character_model("gru", 6, 4, len(set(TEXT)))


def _train_text(text_file, folder, *options):
    return main(
        ["train", "text", "--text", str(text_file), "--out", str(folder), *TINY_TEXT, *options]
    )


def _history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_a_run_is_saved_whole(trained):
    assert {path.name for path in trained.iterdir()} == set(run_folder.FILES)
    options = json.loads((trained / "options.json").read_text("utf-8"))
    assert options["vocabulary"] == "".join(sorted(set(TEXT)))
    assert options["task"] == "text"
    assert options["segment_length"] == LENGTH
    assert [row["step"] for row in _history(trained)] == [1, 2, 3, 4, 5]


def test_the_carry_goes_from_segment_to_segment(trained, model):
    cut = len(TEXT) - len(TEXT) // 20
    tokens = corpus.encode("text", TEXT[:cut], "".join(sorted(set(TEXT))))
    size = (cut - 1) // STREAMS
    streams = np.stack([tokens[s * size :][: 5 * LENGTH + 1] for s in range(STREAMS)], axis=1)
    params = run_folder.load_network(trained)[1]
    _, logits = jaxrnn.unroll(model, params, streams[:-1], loop=jaxrnn.scan)
    p = np.take_along_axis(jax.nn.softmax(logits), streams[1:, :, None], axis=-1)
    wanted = -np.log2(p).reshape(5, -1).mean(axis=1)
    got = [row["bits_per_character"] for row in _history(trained)]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    _, begun_anew = jaxrnn.unroll(model, params, streams[LENGTH : 2 * LENGTH])
    assert np.abs(begun_anew - logits[LENGTH : 2 * LENGTH]).max() > 1e-2


def test_training_reports_what_it_is_worth(text_file, tmp_path, capsys, model):
    assert _train_text(text_file, tmp_path / "run", "--steps", "60") == 0
    out = capsys.readouterr().out
    parts = corpus.split(TEXT, STREAMS, LENGTH)
    scored = corpus.encode("text", parts.validation[-1] + parts.test, parts.vocabulary)
    bits = text.bits_per_character(model, run_folder.load_network(tmp_path / "run")[1], scored)
    assert f"over {len(parts.test)} characters that training has not seen" in out
    for value in (bits, corpus.unigram_bits(parts), corpus.xz_bits(parts)):
        assert f"  {value:.3f}  " in out
    assert parts.test[:40] in out
    assert f"saved in {tmp_path / 'run'}" in out
    losses = [row["loss"] for row in _history(tmp_path / "run")]
    assert losses[-1] < losses[0]


def test_cell_and_loop_can_be_chosen(text_file, tmp_path):
    def losses(loop):
        folder = tmp_path / loop
        assert _train_text(text_file, folder, "--cell", "lstm", "--loop", loop) == 0
        assert main(["sample", str(folder), "--prompt", "1", "--length", "3"]) == 0
        return np.array([row["loss"] for row in _history(folder)])

    exact, cut = losses("bptt"), losses("truncated:3")
    assert exact[0] == pytest.approx(cut[0], rel=1e-5)  # the same values
    assert np.abs(exact - cut)[1:].min() > 1e-5  # of another gradient


def _sample(capsys, folder, *options):
    capsys.readouterr()
    assert main(["sample", str(folder), *options]) == 0
    return capsys.readouterr().out


def test_a_sample_continues_the_prompt_and_depends_on_the_seed(trained, capsys):
    ask = ("--prompt", "½ green", "--length", "50")
    out = _sample(capsys, trained, *ask, "--seed", "1")
    assert re.fullmatch(r"½ green.{50}\n", out)
    assert _sample(capsys, trained, *ask, "--seed", "1") == out
    assert _sample(capsys, trained, *ask, "--seed", "2") != out
    assert _sample(capsys, trained, *ask, "--seed", "1", "--temperature", "0.01") != out


@pytest.fixture
def _sigint():
    """Python's own answer to Ctrl-C, which is off where pytest runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint")
def test_ctrl_c_saves_what_there_is_and_says_where(text_file, tmp_path, capsys, monkeypatch):
    segments = corpus.segments

    def with_ctrl_c(*args):
        for count, segment in enumerate(segments(*args)):
            if count == 3:
                signal.raise_signal(signal.SIGINT)
            yield segment

    monkeypatch.setattr(text.corpus, "segments", with_ctrl_c)
    assert _train_text(text_file, tmp_path) == 130
    error = capsys.readouterr().err
    assert error.endswith(f"jaxrnn: interrupted after 3 of 5 steps, saved in {tmp_path}\n")
    assert len(_history(tmp_path)) == 3
    assert {path.name for path in tmp_path.iterdir()} == set(run_folder.FILES)
    assert _sample(capsys, tmp_path, "--prompt", "1", "--length", "5")


def test_ctrl_c_elsewhere_is_said_in_a_line(capsys, monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(jaxrnn, "certify_all", interrupted)
    assert main(["certify"]) == 130
    assert capsys.readouterr().err == "jaxrnn: interrupted\n"


def test_too_large_a_model_is_refused_in_a_line(capsys, monkeypatch):
    def train(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\n-")

    monkeypatch.setattr(text, "train", train)
    _refused(capsys, ["train", "text"], "RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes")


@pytest.mark.parametrize(("error", "code"), [(1e-13, 0), (1e-11, 1), (float("nan"), 1)])
def test_certify_answers_by_its_exit_code(error, code, capsys, monkeypatch):
    certificate = Certificate(
        (Comparison("gru", "bptt", "handwritten", "autodiff", "xs", error, 1e-12),)
    )
    monkeypatch.setattr(jaxrnn, "certify_all", lambda **_: certificate)
    assert main(["certify"]) == code
    assert str(certificate) in capsys.readouterr().out


def test_certify_takes_names_of_cells_and_loops(capsys, monkeypatch):
    def certify_all(cells, loops, **_):
        asked.append((cells, loops))
        return Certificate((Comparison("gru", "bptt", "derived", "autodiff", "xs", 0.0, 1.0),))

    asked = []
    monkeypatch.setattr(jaxrnn, "certify_all", certify_all)
    assert main(["certify"]) == 0
    assert main(["certify", "--cell", "gru", "--cell", "stack", "--loop", "truncated:4"]) == 0
    assert asked == [(None, None), (["gru", "stack"], ["truncated:4"])]
    for option, names in (("--cell", "elman, .*, stack"), ("--loop", "scan, bptt, ")):
        _refused(capsys, ["certify", option, "x"], f"{option}: got 'x', expected one of {names}")
    _refused(capsys, ["certify", "--cell"], "--cell: expected one argument")


BAD_OPTIONS = [
    (["--cell", "gruu"], "--cell: got 'gruu', expected one of elman, "),
    (
        ["--loop", "bptts"],
        "--loop: got 'bptts', expected one of scan, bptt, checkpointed, truncated:K",
    ),
    (["--loop", "truncated:0"], "--loop: got 'truncated:0', expected "),
    (["--loop", "truncated:x"], "--loop: got 'truncated:x', expected "),
    (["--hidden-size", "0"], "--hidden-size: got '0', expected a whole number from 1"),
    (["--steps", "0"], "--steps: got '0', expected "),
    (["--steps", "1.5"], "--steps: got '1.5', expected "),
    (["--batch-size", "-1"], "--batch-size: got '-1', expected "),
    (["--learning-rate", "0"], "--learning-rate: got '0', expected a finite number above 0"),
    (["--learning-rate", "nan"], "--learning-rate: got 'nan', expected "),
    (["--learning-rate", "inf"], "--learning-rate: got 'inf', expected "),
    (["--learning-rate", "fast"], "--learning-rate: got 'fast', expected "),
    (["--clip", "0"], "--clip: got '0', expected "),
    (["--layers", "0"], "--layers: got '0', expected a whole number from 1"),
    (["--dropout", "1"], "--dropout: got '1', expected a number from 0 to below 1"),
    (["--dropout", "-0.1"], "--dropout: got '-0.1', expected a number from 0 to below 1"),
    (["--dropout", "nan"], "--dropout: got 'nan', expected a number from 0 to below 1"),
    (["--checkpoint-every", "0"], "--checkpoint-every: got '0', expected a whole number from 1"),
    (["--evaluate-every", "0"], "--evaluate-every: got '0', expected a whole number from 1"),
    (["--overwrite", "yes"], "unrecognized arguments: yes"),
    (["--devices", "0"], "--devices: got '0', expected a whole number from 1"),
    (["--seed", "-1"], "--seed: got '-1', expected "),
    (["--colour", "red"], "unrecognized arguments: --colour red"),
    (["--step", "3"], "unrecognized arguments: --step 3"),
]
BAD_TEXT_OPTIONS = [
    (["--embedding-size", "0"], "--embedding-size: got '0', expected "),
    (["--segment-length", "0"], "--segment-length: got '0', expected "),
    (["--segment-length", "200"], "--text: got .* characters .* 401 .* and 200 "),
    (["--batch-size", "999"], "--text: got .* characters .* 7993 .* and 8 "),
]


def _refused(capsys, arguments, message):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(f"jaxrnn: error: {message}.*\n", error), error


@pytest.mark.parametrize("task", ["text", "digits"])
@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_a_bad_option_is_refused_in_a_line(task, options, message, tmp_path, capsys):
    _refused(capsys, ["train", task, "--out", tmp_path / "run", *options], message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("options", "message"), BAD_TEXT_OPTIONS)
def test_a_bad_option_of_text_is_refused_in_a_line(options, message, text_file, tmp_path, capsys):
    start = ["train", "text", "--text", text_file, "--out", tmp_path / "run", *TINY_TEXT]
    _refused(capsys, [*start, *options], message)
    assert not (tmp_path / "run").exists()


def test_a_batch_of_more_digits_than_there_are_is_refused_in_a_line(tmp_path, capsys):
    start = ["train", "digits", "--out", tmp_path / "run"]
    _refused(
        capsys, [*start, "--batch-size", 1294], "--batch-size: got 1294, expected at most 1293"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got 0 characters to train on and 0 held out, expected at least 17 .* and 8 "),
        (b"too short", "got 9 characters to train on and 0 held out, expected "),
        (b"in Latin-1: \xe9t\xe9", r"got '.*text' \(byte 0xe9 at 12\), expected .* UTF-8 text"),
        (None, r"got '.*text' \(No such file or directory\), expected a readable file"),
    ],
)
def test_a_bad_text_is_refused_in_a_line(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    start = ["train", "text", "--out", tmp_path / "run", *TINY_TEXT]
    _refused(capsys, [*start, "--text", tmp_path / "text"], f"--text: {message}")
    assert not (tmp_path / "run").exists()


def test_a_folder_as_text_is_refused_in_a_line(tmp_path, capsys):
    message = r"--text: got '.*' \(Is a directory\), expected "
    _refused(capsys, ["train", "text", "--text", tmp_path, "--out", tmp_path / "run"], message)


@pytest.mark.parametrize("task", ["text", "digits"])
def test_a_folder_that_cannot_be_written_is_refused_before_training(task, tmp_path, capsys):
    (tmp_path / "file").touch()
    message = r"--out: got '.*file' \(File exists\), expected a folder that can be written"
    _refused(capsys, ["train", task, "--out", tmp_path / "file"], message)


def test_a_rate_that_leads_nowhere_is_refused_in_a_line(text_file, tmp_path, capsys):
    assert _train_text(text_file, tmp_path, "--learning-rate", "1e38") == 2
    assert "jaxrnn: error: --learning-rate: got 1e+38, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "--prompt: got '', expected at least one character"),
        (["--prompt", "1 red §"], "--prompt: got '§', expected only characters that the model"),
        (["--prompt", "1", "--temperature", "0"], "--temperature: got '0', expected "),
        (["--prompt", "1", "--temperature", "-1"], "--temperature: got '-1', expected "),
        (["--prompt", "1", "--length", "0"], "--length: got '0', expected "),
    ],
)
def test_a_bad_question_is_refused_in_a_line(options, message, trained, capsys):
    _refused(capsys, ["sample", trained, *options], message)


def _with_option(name, value):
    def change(folder):
        options = json.loads((folder / "options.json").read_text("utf-8"))
        options.pop(name) if value is None else options.update({name: value})
        (folder / "options.json").write_text(json.dumps(options), "utf-8")

    return change


def _with_network(network, input_size):
    def change(folder):
        params = network.init(jax.random.key(0), input_size)
        safetensors.save(folder / "params.safetensors", network, params)

    return change


def _cut_params(folder):
    data = (folder / "params.safetensors").read_bytes()
    (folder / "params.safetensors").write_bytes(data[:-10])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "options.json"),
        (lambda folder: (folder / "options.json").unlink(), "options.json"),
        (lambda folder: (folder / "params.safetensors").unlink(), "params.safetensors"),
        (lambda folder: (folder / "options.json").write_text("{"), "options.json"),
        (_cut_params, "params.safetensors"),
        (_with_option("task", "digits"), "'digits', expected the task 'text'"),
        (_with_network(jaxrnn.gru(3), 4), r"params.safetensors' \(.*expected "),
        (
            _with_network(jaxrnn.stacked(jaxrnn.embedding(2), jaxrnn.gru(3)), 4),
            "params.safetensors",
        ),
        (_with_option("vocabulary", None), "options.json.*vocabulary"),
        (
            _with_option("vocabulary", ["a"]),
            "options.json.*vocabulary: got list, expected a string",
        ),
        (_with_option("vocabulary", "abc"), "options.json' .*got 3 characters, expected 29"),
        (_with_option("vocabulary", "ba"), "options.json.*order"),
        (_with_option("vocabulary", 5), "options.json"),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_a_damaged_run_is_refused_in_a_line(change, message, trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "copy")
    change(folder)
    _refused(capsys, ["sample", folder, "--prompt", "1"], f"FOLDER: got .*{message}")


@pytest.mark.parametrize("task", ["text", pytest.param("digits", marks=pytest.mark.thorough)])
def test_devices_share_a_batch(task, text_file, tmp_path, capsys):
    options = ["--text", str(text_file), *TINY_TEXT] if task == "text" else TINY
    command = ["train", task, *options, "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    ask = [sys.executable, "-m", "jaxrnn", *command, str(tmp_path / "two"), "--devices", "2"]
    done = subprocess.run(ask, capture_output=True, text=True, check=True)
    assert "devices:" not in capsys.readouterr().out + done.stdout
    one, two = (_history(tmp_path / name) for name in ("one", "two"))
    for name in one[0].keys() - {"seconds"}:
        wanted = [row[name] for row in one]
        np.testing.assert_allclose([row[name] for row in two], wanted, rtol=1e-5)
    saved = json.loads((tmp_path / "two" / "options.json").read_text("utf-8"))
    assert saved["devices"] == 2


def test_devices_that_cannot_share_a_batch_are_not_used(text_file, tmp_path, capsys, monkeypatch):
    used = []

    def data_parallel(loss, devices, **_):
        used.append(devices)
        return loss

    monkeypatch.setattr(jaxrnn.training, "data_parallel", data_parallel)
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices() * 4)  # of a batch of 2
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    monkeypatch.setattr(training, "_shardings", lambda devices: first)
    assert _train_text(text_file, tmp_path, "--devices", "4") == 0
    said = capsys.readouterr().out
    assert "on 2 of 4 devices: --batch-size is no multiple of these\n" in said
    assert _train_text(text_file, tmp_path, "--devices", "2", "--overwrite") == 0
    assert "devices:" not in capsys.readouterr().out
    assert [len(devices) for devices in used] == [2, 2]


def test_the_module_is_the_command(tmp_path):
    ask = ["train", "text", "--text", str(tmp_path / "none")]
    done = subprocess.run([sys.executable, "-m", "jaxrnn", *ask], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"jaxrnn: error: --text: got .*\n", done.stderr)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.delitem(sys.modules, "jaxrnn.cli.main")
    with pytest.raises(
        SystemExit, match=r"tqdm: got no such package, .*pip install 'jaxrnn\[app\]'"
    ):
        importlib.import_module("jaxrnn.cli.main")


def test_version_and_help(capsys):
    for ask, answer in [("--version", jaxrnn.__version__), ("--help", "certify")]:
        with pytest.raises(SystemExit, match="0"):
            main([ask])
        assert answer in capsys.readouterr().out
