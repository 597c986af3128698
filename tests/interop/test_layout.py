"""The tables themselves, which need none of the libraries."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judge import bits, like

import jaxrnn
from jaxrnn.interop import layout

LIBRARIES = ["torch", "flax", "haiku", "equinox", "keras", "onnx"]
LAYOUTS = [x for library in LIBRARIES for x in layout.load_layouts(library, "lstm")]
every = pytest.mark.parametrize(
    "table", LAYOUTS, ids=lambda x: f"{x.name} of {x.cell.__name__}, {len(x.rows)} tensors"
)


def ours(table, seed=0):
    """A cell of a table, and random params of it."""
    sizes = dict.fromkeys(table.sizes, 2)
    cell = table.cell(4, **table.options, **sizes)
    return cell, like(cell.init(jax.random.key(0), 3, jnp.float64), seed)


@every
def test_every_table_is_read_by_the_transpose_of_what_it_writes(table):
    _, params = ours(table)
    tensors = like(table.to_tensors(params), seed=1)
    _, back = layout.read([table], tensors)
    there, here = table.to_tensors(params), table.subtract_offsets(back)
    theirs = sum(np.vdot(there[name], tensors[name]) for name in tensors)
    np.testing.assert_allclose(
        theirs, sum(np.vdot(params[name], here[name]) for name in params), rtol=1e-12
    )


@every
def test_gradients_travel_by_the_table(table):
    _, params = ours(table)
    tensors = like(table.to_tensors(params), seed=1)
    _, pull = jax.vjp(lambda tensors: layout.read([table], tensors)[1], tensors)
    jax.tree.map(np.testing.assert_array_equal, pull(params)[0], table.to_tensors(params))


@every
def test_every_table_gives_back_what_it_is_given(table):
    cell, params = ours(table)
    tensors = layout.read([table], like(table.to_tensors(params), seed=1))[1]  # such as it can hold
    written = layout.write([table], cell, tensors)
    found, back = layout.read([table], written)
    assert found == cell
    if table.offsets:  # which are taken and added
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-15), back, tensors)
    else:
        assert bits(back) == bits(tensors)


@every
def test_the_tensors_tell_the_table(table):
    """Among those of its library, by names and shapes; ONNX's and Keras' nodes say the variant."""
    _, params = ours(table)
    among = [x for x in LAYOUTS if x.name.split(".")[0] == table.name.split(".")[0]]
    variant = table.options.get("reset_after")
    among = [x for x in among if x.options.get("reset_after", variant) == variant]
    found = layout.select_by_tensors(among, table.to_tensors(params))
    assert found.cell is table.cell
    assert found.rows == table.rows


def test_nothing_is_imported_that_a_user_may_not_have():
    code = """
import sys
import jax, jaxrnn
cell = jaxrnn.gru(4)
params = cell.init(jax.random.key(0), 3)
for library in ("torch", "flax", "equinox"):
    module = getattr(jaxrnn.interop, library)
    module.read(module.write(cell, params))
found = {"torch", "flax", "haiku", "equinox", "keras", "onnx", "safetensors"} & sys.modules.keys()
sys.exit(str(found) if found else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("own_messages")
def test_a_tree_of_something_else_is_refused():
    with pytest.raises(TypeError, match=r"^hh: got int64, expected a floating-point dtype"):
        layout.tensors_of({"hh": np.zeros(3, int)})
    with pytest.raises(
        ValueError, match=r"^cell: got elman\(4, activation=sin\), expected a cell such as torch"
    ):
        jaxrnn.interop.torch.write(
            jaxrnn.elman(4, activation=jnp.sin),
            jaxrnn.elman(4).init(jax.random.key(0), 3),
        )
