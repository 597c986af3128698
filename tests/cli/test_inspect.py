"""`jaxrnn inspect`, `jaxrnn story` and the gradient flow that training draws."""

import re
import shutil

import jax
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from reference import often

from jaxrnn.cli import digits, figures, inspect, run_folder, text, training
from jaxrnn.cli.main import main
from jaxrnn.interop import safetensors

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
    out, err = capsys.readouterr()
    assert " 6 steps back, " in out
    stages = [*dict.fromkeys(re.findall(r"\r([A-Za-z -]+): ", err))]
    assert stages == [
        *(
            "finite numbers",
            "Jacobian spectrum",
            "gradient flow",
            "per-step gradients",
            "truncation",
            "picture",
        )
    ]
    assert f"{len(stages)}/{len(stages)}" in err
    assert len(out.splitlines()) <= 5  # the bar is not among them
    assert f"drawn in {tmp_path / 'seen.svg'}" in out
    assert (tmp_path / "seen.svg").read_text("utf-8").startswith("<?xml")


def test_a_parameter_that_is_no_number_is_named(trained, tmp_path, capsys):
    with_bad = shutil.copytree(trained, tmp_path / "bad")
    network, params = run_folder.load_network(trained)
    params[1]["w_h"] = params[1]["w_h"].at[1, 2].set(np.nan)
    safetensors.save(with_bad / "params.safetensors", network, params)
    assert main(["inspect", str(with_bad), "--out", str(tmp_path / "seen.png")]) == 2
    said = capsys.readouterr().err
    assert "forward: nan arose first in params.1.w_h, index (1, 2)" in said
    assert not (tmp_path / "seen.png").exists()


def test_a_cell_is_inspected_as_it_starts(tmp_path, capsys):
    options = ("--hidden-size", "3", "--steps", "7", "--out", str(tmp_path / "seen.png"))
    assert main(["inspect", "elman", *options]) == 0
    assert "of 7 steps back" in capsys.readouterr().out.replace("all 7", "7 of 7")
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_neither_is_an_error_of_the_user(capsys):
    assert main(["inspect", "rnn"]) == 2
    error = capsys.readouterr().err
    assert "FOLDER_OR_CELL: got 'rnn', expected a folder of `jaxrnn train`, or one of elm" in error


def test_the_story_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect, "STORY_STEPS", 10)
    assert main(["story", "--out", str(tmp_path / "story.svg")]) == 0
    said = (tmp_path / "story.svg").read_text("utf-8")
    assert said.startswith("<?xml")


def test_training_draws_the_gradient_flow(trained, monkeypatch):
    options, drawn = run_folder.load_options(trained, "text"), []

    def save(folder, made, earlier):
        drawn.append(made.curve)
        return folder

    monkeypatch.setattr(run_folder, "save", save)
    options.out, options.text, options.overwrite = trained, run_folder.Path(options.text), True
    options.resume = None
    training.train(text.task(options), options)
    learning, flow, _ = drawn[0].axes
    assert learning.get_xlabel() == "updates"
    assert flow.get_ylabel() == "updates / 2"
    assert flow.images[0].get_array().shape == (2, 6)  # updates 0 and 2, steps of a segment


@pytest.fixture(scope="module")
def deep(tmp_path_factory, trained):
    folder = trained.parent / "deep"
    source = ("--text", str(trained.parent / "text.txt"), "--out", str(folder))
    deep = ("--layers", "2", "--dropout", "0.5", "--loop", "truncated:3", "--steps", "1")
    assert main(["train", "text", *source, *TINY, *deep, "--cell", "elman"]) == 0
    return folder


def test_each_recurrent_layer_is_inspected(deep, tmp_path, capsys, monkeypatch):
    pictures, save = [], figures.save
    monkeypatch.setattr(figures, "save", lambda f, *a, **k: pictures.append(f) or save(f, *a, **k))
    capsys.readouterr()
    assert main(["inspect", str(deep), "--out", str(tmp_path / "seen.png")]) == 0
    out = capsys.readouterr().out
    assert re.findall("recurrent layer .*", out) == [f"recurrent layer {i}:" for i in range(2)]
    (figure,) = pictures
    titles = [axes.get_title() for axes in figure.axes]
    assert sum(title.startswith("layer 1: ") for title in titles) == 3
    assert figure.axes[0].images[0].get_array().shape == (2, 6)
    legend = figure.axes[1].get_legend().get_texts()
    assert [text.get_text().split(":")[0] for text in legend] == ["layer 0", "layer 1"]


def test_inspecting_draws_no_noise(deep):
    loss, params = text.example_loss(deep)
    plain = text.character_model("elman", 4, 3, len(params[0]["w_e"]), 2)
    arrays = run_folder.load_example(deep, inputs=np.int32, targets=np.int32)
    segment = text.corpus.Segment(*arrays, np.bool_(True))
    without = tuple(part for part in params if part != ())
    wanted, _ = text.segment_loss(plain, without, plain.initial_carry((2,)), segment)
    assert float(loss(params, text.jaxrnn.bptt)) == pytest.approx(float(wanted), rel=1e-5)


def no_title_is_cut_off(figure):
    figure.draw_without_rendering()
    for axes in figure.axes:
        extent, panel = axes.title.get_window_extent(), axes.get_window_extent()
        assert extent.x0 >= panel.x0 - 2, axes.get_title()
        assert extent.x1 <= panel.x1 + 2, axes.get_title()


@pytest.mark.parametrize("command", often(["inspect", "story", "train"], ["train"]))
def test_no_title_is_cut_off(command, tmp_path, monkeypatch, trained):
    pictures, save = [], figures.save
    monkeypatch.setattr(figures, "save", lambda f, *a, **k: pictures.append(f) or save(f, *a, **k))
    monkeypatch.setattr(inspect, "STORY_STEPS", 5)
    arguments = {
        "inspect": ["lstm", "--hidden-size", "2", "--steps", "3", "--out", str(tmp_path / "x.png")],
        "story": ["--out", str(tmp_path / "x.png")],
        "train": ["text", "--text", str(trained.parent / "text.txt"), *TINY, "--steps", "1"],
    }[command]
    arguments += ["--out", str(tmp_path / "run")] if command == "train" else []
    assert main([command, *arguments]) == 0
    no_title_is_cut_off(pictures[0])


def test_a_long_title_gets_a_smaller_font_and_a_short_one_does_not(tmp_path):
    figure = Figure(figsize=(6, 3), layout="constrained")
    for axes, title in zip(
        figure.subplots(1, 2), ["A title of many words " * 4, "short"], strict=True
    ):
        axes.set_title(title)
    figures.save(figure, tmp_path / "x.png", dpi=50)
    no_title_is_cut_off(figure)
    assert figure.axes[0].title.get_fontsize() < figure.axes[1].title.get_fontsize() == 12
    assert matplotlib.image.imread(tmp_path / "x.png").shape[:2] == (150, 300)


@pytest.fixture(scope="module")
def trained_digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    tiny = ("--hidden-size", "3", "--batch-size", "4", "--steps", "1")
    assert main(["train", "digits", "--out", str(folder), *tiny]) == 0
    return folder


def test_a_run_of_digits_is_inspected_on_digits_that_were_not_trained_on(trained_digits):
    loss, params = digits.example_loss(trained_digits)
    network, _ = run_folder.load_network(trained_digits)
    part = digits.select_rows(digits.load()[1], np.arange(4))
    wanted, _ = digits.score(network, params, None, part)
    assert float(loss(params, text.jaxrnn.bptt)) == pytest.approx(float(wanted), rel=1e-6)


EXAMPLE = digits.Digits(np.zeros((5, 2, 1), np.float32), np.int32([1, 5]), np.int32([0, 9]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pixels": np.zeros((5, 2), np.float32)},
            r"pixels: got float32.5,2., expected \(T, B, 1\)",
        ),
        ({"pixels": np.zeros((5, 0, 1), np.float32)}, r"pixels: got float32.5,0,1., expected"),
        ({"lengths": np.int32([1])}, r"lengths: got int32.1., expected int32.2."),
        ({"lengths": np.int32([1, 6])}, "lengths: got numbers from 1 to 6, expected .* 0 to 5"),
        ({"labels": np.int32([1, 10])}, "labels: got numbers from 1 to 10, expected .* 0 to 9"),
        ({"labels": np.int64([1, 1])}, "labels: got int64.2., expected an array of int32"),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_a_damaged_example_of_digits_is_refused(trained_digits, changes, message, tmp_path, capsys):
    folder = shutil.copytree(trained_digits, tmp_path / "run")
    arrays = {**EXAMPLE._asdict(), **changes}
    (folder / "example.safetensors").write_bytes(run_folder.safetensors.numpy.save(arrays))
    assert main(["inspect", str(folder), "--out", str(tmp_path / "x.png")]) == 2
    line = capsys.readouterr().err
    assert re.fullmatch(rf"jaxrnn: error: FOLDER: got '.*example.*' \({message}.*\n", line), line


def test_a_run_of_another_network_is_refused(trained_digits, tmp_path, capsys):
    folder = shutil.copytree(trained_digits, tmp_path / "run")
    network = text.jaxrnn.stacked(text.jaxrnn.gru(3), text.jaxrnn.linear(9))
    params = network.init(jax.random.key(0), 1)
    safetensors.save(folder / "params.safetensors", network, params)
    assert main(["inspect", str(folder), "--out", str(tmp_path / "x.png")]) == 2
    assert "params.safetensors' (stacked(gru(3), linear(9)): got float32[4,9]" in (
        capsys.readouterr().err
    )
