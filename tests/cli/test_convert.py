"""`jaxrnn convert` from outside."""

import importlib.util
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

import jaxrnn
from jaxrnn.cli.main import main
from jaxrnn.interop import safetensors as interop

# What is said of a file that is no model, or of none where ONNX is absent.
ABSENT = importlib.util.find_spec("onnx") is None
NO_MODEL = "No module named 'onnx'" if ABSENT else "path: got 'text.onnx'.*expected a model of ONNX"


@pytest.fixture
def saved(tmp_path):
    cell = jaxrnn.gru(4)
    params = cell.init(jax.random.key(0), 3)
    interop.save(tmp_path / "ours.safetensors", cell, params)
    return tmp_path, params


@pytest.mark.parametrize("library", ["torch", "flax", "equinox", "haiku"])
def test_a_file_goes_to_a_library_and_comes_back(saved, library, capsys):
    folder, params = saved
    cell = jaxrnn.gru(4)
    if library == "haiku":  # which has the other GRU
        cell = jaxrnn.gru(4, reset_after=False)
        params = {name: x for name, x in params.items() if name != "b_n"}
        interop.save(folder / "ours.safetensors", cell, params)
    ours, theirs, back = (str(folder / f"{name}.safetensors") for name in ("ours", library, "back"))
    assert main(["convert", ours, theirs, "--to", library]) == 0
    assert main(["convert", theirs, back, "--of", library]) == 0
    count = sum(x.size for x in params.values())
    option = ", reset_after=False" if library == "haiku" else ""
    assert f"gru(4{option}), {count} param" in capsys.readouterr().out
    assert interop.load(back)[0] == cell
    loaded = interop.load(back)[1]
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_the_names_are_those_of_pytorch(saved):
    folder, params = saved
    target = folder / "torch.safetensors"
    assert main(["convert", str(folder / "ours.safetensors"), str(target), "--to", "torch"]) == 0
    tensors = safetensors.numpy.load_file(target)
    np.testing.assert_array_equal(tensors["weight_ih_l0"], params["w_x"].T)
    assert tensors.keys() == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}


def test_a_file_becomes_a_model_of_onnx_and_comes_back(saved):
    pytest.importorskip("onnx", reason="ONNX is a peer, not a dependency")
    folder, params = saved
    ours, model, back = (str(folder / x) for x in ("ours.safetensors", "m.onnx", "b.safetensors"))
    assert main(["convert", ours, model]) == 0
    assert main(["convert", model, back]) == 0
    jax.tree.map(np.testing.assert_array_equal, interop.load(back)[1], params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.safetensors", "x"], r"SOURCE: got 'none.safetensors' \(No such file"),
        (["ours.safetensors", "x", "--of", "torch"], r"b: got float32\[12\], expected names"),
        (["ours.safetensors", "x", "--to", "haiku"], r"cell: got gru\(4\), exp"),
        (["ours.safetensors", "x", "--to", "mxnet"], r"--to: invalid choice: 'mxnet'"),
        (
            ["ours.safetensors", "none/x"],
            r"TARGET: got 'none/x' \(No such file or directory\), exp",
        ),
        (["text.safetensors", "x"], r"path: got 'text.safetensors'.*expected safetensors"),
        (["text.onnx", "x"], NO_MODEL),
    ],
)
def test_what_goes_wrong_is_one_line(saved, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(saved[0])
    for name in ("text.safetensors", "text.onnx"):
        (saved[0] / name).write_text("hello")
    assert main(["convert", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxrnn: error: ")
    assert re.search(message, line), line
    assert not (saved[0] / "x").exists()


@pytest.fixture(scope="module")
def saved_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tiny = ["--hidden-size", "3", "--batch-size", "2", "--steps", "1", "--layers", "2"]
    (folder / "text").write_text("".join(f"{n} green bottles. " for n in range(60)))
    text = ["--text", str(folder / "text"), "--embedding-size", "2", "--segment-length", "6"]
    assert main(["train", "text", *text, *tiny, "--out", str(folder / "text-run")]) == 0
    digits = ["--dropout", "0.1", "--out", str(folder / "digits-run")]
    assert main(["train", "digits", *tiny, *digits]) == 0
    return folder


@pytest.fixture
def runs(saved_runs, monkeypatch):
    monkeypatch.chdir(saved_runs)
    return saved_runs


def test_a_run_becomes_a_file_of_its_network(runs, capsys):
    for source in ("text-run", "text-run/params.safetensors"):
        assert main(["convert", source, "copy"]) == 0
        network, params = interop.load("copy")
        assert capsys.readouterr().out.endswith(f"{network!r}, 249 parameters, saved in copy\n")
        parts = jaxrnn.embedding(2), jaxrnn.gru(3), jaxrnn.gru(3), jaxrnn.linear(21)
        assert network == jaxrnn.stacked(*parts)
        jax.tree.map(
            np.testing.assert_array_equal,
            params,
            interop.load(runs / "text-run" / "params.safetensors")[1],
        )
        (runs / "copy").unlink()


def test_a_run_without_an_embedding_becomes_a_model(runs):
    pytest.importorskip("onnx", reason="ONNX is a peer, not a dependency")
    assert main(["convert", "digits-run", "digits.onnx"]) == 0


@pytest.mark.parametrize("library", ["torch", "flax", "equinox", "haiku"])
def test_a_whole_model_has_no_form_in_a_library_of_layers(runs, library, capsys):
    for source in ("text-run", "digits-run"):
        capsys.readouterr()
        assert main(["convert", source, "x", "--to", library]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        index = 1 if source == "text-run" else 0
        call = f"jaxrnn.interop.{library}.write(network.parts[{index}], params[{index}])"
        assert line.startswith(f"jaxrnn: error: --to: got '{library}' for stacked(")
        assert line.endswith(f"; to write a cell by itself, call {call}")
        network, params = interop.load(f"{source}/params.safetensors")
        if library in ("torch", "flax"):
            exec(call, {"jaxrnn": jaxrnn, "network": network, "params": params})
    assert not (runs / "x").exists()


def test_what_a_model_fixes_beside_its_params_is_not_lost_in_silence(saved, capsys):
    onnx = pytest.importorskip("onnx", reason="ONNX is a peer, not a dependency")
    folder, params = saved
    model = jaxrnn.interop.onnx.write(jaxrnn.gru(4), params, reverse=True)
    onnx.save(model, folder / "m.onnx")
    assert main(["convert", str(folder / "m.onnx"), str(folder / "x")]) == 2
    assert "SOURCE: got ['reverse'] fixed in the model" in capsys.readouterr().err
