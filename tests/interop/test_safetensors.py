import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import with_functions
from judge import bits
from reference import cells_and_dtypes

import jaxrnn
from jaxrnn.interop import expressions
from jaxrnn.interop import safetensors as interop

CELLS = {name: make(4) for name, make in jaxrnn.CELLS}
NETWORKS = {
    **CELLS,
    "an activation": jaxrnn.elman(4, activation=jax.nn.softplus),
    "options": jaxrnn.gru(4, reset_after=False),
    "zoneout": jaxrnn.transforms.zoneout(jaxrnn.lstm(4), 0.1),
    "variational": jaxrnn.transforms.variational_dropout(jaxrnn.gru(4), state_rate=0.25),
    "both ways": jaxrnn.bidirectional(jaxrnn.gru(4), jaxrnn.lstm(3), merge=None),
    "deep": jaxrnn.stacked(
        jaxrnn.dropout(0.5),
        jaxrnn.bidirectional(jaxrnn.gru(4), merge=jnp.add),
        jaxrnn.residual(jaxrnn.lstm(4)),
        jaxrnn.dropout(0.5),
        jaxrnn.linear(2),
    ),
}
CHANGED = with_functions(jaxrnn.gru(4), output=lambda params, carries: carries)
networks = pytest.mark.parametrize("name", NETWORKS)


@pytest.mark.parametrize(
    ("name", "dtype"), cells_and_dtypes(NETWORKS, ("float32", "float64", "bfloat16"), "bfloat16")
)
def test_a_file_gives_back_the_cell_and_every_bit(name, dtype, tmp_path):
    network = NETWORKS[name]
    params = network.init(jax.random.key(0), 3, jnp.dtype(dtype))
    interop.save(tmp_path / "net.safetensors", network, params)
    cell, loaded = interop.load(str(tmp_path / "net.safetensors"))
    assert cell == network
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert jax.tree.map(jnp.result_type, loaded) == jax.tree.map(jnp.result_type, params)
    assert bits(loaded) == bits(params)


def test_a_part_of_another_dtype_keeps_it(tmp_path):
    network = jaxrnn.stacked(jaxrnn.gru(4), jaxrnn.linear(2))
    first, last = network.init(jax.random.key(0), 3)
    params = first, jax.tree.map(lambda x: x.astype("float64"), last)
    interop.save(tmp_path / "net", network, params)
    assert bits(interop.load(tmp_path / "net")[1]) == bits(params)


def test_names_are_readable_and_the_file_says_what_it_is(tmp_path):
    network = NETWORKS["deep"]
    interop.save(tmp_path / "net", network, network.init(jax.random.key(0), 3))
    metadata, arrays = interop.open_file(tmp_path / "net")
    assert arrays.keys() >= {"1.forward.w_h", "1.backward.b_n", "2.w_x", "4.w_o"}
    assert metadata["jaxrnn"] == interop.VERSION
    assert metadata["cell"].startswith("stacked(dropout(0.5), bidirectional(gru(4, ")


def test_a_fresh_process_reads_it(tmp_path):
    cell = CELLS["lstm"]
    interop.save(tmp_path / "net", cell, cell.init(jax.random.key(0), 3))
    code = f"from jaxrnn.interop.safetensors import load; print(load({str(tmp_path / 'net')!r})[1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "w_h" in done.stdout, done.stderr


@networks
def test_an_expression_is_read_again(name):
    assert expressions.parse_expression(expressions.expression_of(NETWORKS[name])) == NETWORKS[name]


def rewritten(path, **changes):
    """The file with other words about itself; None takes one away."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    said = head["__metadata__"] | changes
    head["__metadata__"] = {name: text for name, text in said.items() if text is not None}
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "path: got .*net.*expected safet"),
        (lambda path: path.write_bytes(b""), "path: got .*net.*expected safetensors"),
        (lambda path: path.write_text("hello, world"), "path: got .*net.*expected safetensors"),
        (lambda path: rewritten(path, jaxrnn="1"), "path: got version '1' of .*net.*expected '2'"),
        (lambda path: rewritten(path, jaxrnn=None), "path: got version None of .*net"),
        (
            lambda path: rewritten(path, cell="lstm(5)"),
            r"b: got float32\[16\], expected float32\[20",
        ),
        (
            lambda path: rewritten(path, cell="gru(4)"),
            r"b: got float32\[16\], expected float32\[12",
        ),
        (lambda path: rewritten(path, cell="lstm(4,"), r"cell: got 'lstm\(4,'"),
        (lambda path: rewritten(path, cell="open('x')"), r"cell: got \"open\('x'\)\""),
        (lambda path: rewritten(path, cell="lstm('x')"), r"cell: got \"lstm\('x'\)\""),
        (lambda path: rewritten(path, cell="truncated(3)"), r"cell: got 'truncated\(3\)'"),
        (lambda path: rewritten(path, cell=None), r"cell: got ''"),
        (lambda path: rewritten(path, input_size="4"), r"w_x: got float32\[3,16\], expected float"),
        (lambda path: rewritten(path, input_size="many"), r"input_size: got 'many'"),
        (lambda path: rewritten(path, input_size="0"), r"input_size: got '0'"),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_a_file_that_is_wrong_says_how(change, message, tmp_path):
    path = tmp_path / "net"
    interop.save(path, CELLS["lstm"], CELLS["lstm"].init(jax.random.key(0), 3))
    change(path)
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        interop.load(path)


def test_a_file_that_is_not_there_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        interop.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("cell", "params", "message"),
    [
        (
            jaxrnn.elman(4, activation=jnp.sin),
            None,
            r"cell: got .*sin.* in it, expected one of tan",
        ),
        (CHANGED, None, r"cell: got Changed, expected one that jaxrnn defines"),
        (
            CELLS["gru"],
            {"w_x": np.zeros((3, 12))},
            r"params: got the shapes \{'w_x': \(3, 12\)\}, expected those",
        ),
        (
            CELLS["gru"],
            CELLS["lstm"].init(jax.random.key(0), 3),
            r"params: got the shapes \{'b': \(16,\)",
        ),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_what_cannot_be_saved_is_named(cell, params, message, tmp_path):
    params = cell.init(jax.random.key(0), 3) if params is None else params
    with pytest.raises(ValueError, match=f"^{message}"):
        interop.save(tmp_path / "net", cell, params)
    assert not (tmp_path / "net").exists()


@pytest.mark.usefixtures("own_messages")
def test_float64_is_never_rounded_in_silence(tmp_path):
    params = CELLS["lstm"].init(jax.random.key(0), 3, jnp.float64)
    interop.save(tmp_path / "net", CELLS["lstm"], params)
    with jax.enable_x64(False), pytest.raises(TypeError, match=r"^b: .*jax_enable_x64"):
        interop.load(tmp_path / "net")
