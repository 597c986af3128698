"""Files of our own: parameters by readable names, and how their cell is made; no pickle."""

from pathlib import Path
from typing import Any

import jax
import safetensors
import safetensors.flax

from jaxrnn import check, tree
from jaxrnn.interop.expressions import (
    abstract_params,
    expression_of,
    input_size_of,
    parse_expression,
)
from jaxrnn.interop.layout import Tensors, misfits, tensors_of
from jaxrnn.types import Params, PyTree

VERSION = "2"  # of what a file says of itself: this, the cell, its input size


def save(path: Path | str, cell: Any, params: Params) -> None:
    """Write a cell or network and its parameters.

    Args:
        path: of the file; what is there is replaced.
        cell: made by factories of jaxrnn; stacked, both ways, or transformed too.
        params: its parameters, kept bit by bit, each by its path, such as `0.forward.w_h`; of a
            `restarted` cell as its `init` makes them, c_0 without batch axes.

    Raises:
        ValueError: if no expression makes the cell, or params are not such as it has. There is none
            for a Cell of your own, for a function that is not in `jaxrnn.interop.expressions.FUNCTIONS`
            (a `merge`, an `activation`, the `factor` of `controlled`, the `loss` of `scored`), and
            for rates in a dict.
        OSError: if the file cannot be written.
    """
    check.require_path("path", path)
    check.require_arrays(params=params)
    check.require_concrete(params=params)
    for name, x in tree.leaves_by_name(params).items():
        check.require_floating(name, jax.numpy.result_type(x))
    said = {
        "jaxrnn": VERSION,
        "cell": expression_of(cell),
        "input_size": str(input_size_of(cell, params)),
    }
    Path(path).write_bytes(packed(params, said))


def load(path: Path | str) -> tuple[Any, Params]:
    """The cell or network and its parameters, of a file that `save` wrote.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged, of something else or of another version, or if an array is
            missing, surplus or of a wrong shape.
    """
    said, arrays = opened(path)
    version = said.get("jaxrnn")
    expected = repr(VERSION)
    if version is None:
        expected += ", in a file that names its cell, as `save` writes it"
    check.require(version == VERSION, "path", f"version {version!r} of {str(path)!r}", expected)
    cell, size = parse_expression(said.get("cell", "")), said.get("input_size", "")
    fits = size.isascii() and size.isdecimal() and 0 < len(size) < 10 and int(size)
    check.require(fits, "input_size", repr(size[:80]), "a number above 0")
    try:
        form = abstract_params(cell, int(size))
    except OverflowError:
        raise ValueError(
            f"cell: got {said['cell']!r}, expected sizes that arrays can have"
        ) from None
    # Each part keeps the dtype that it was saved in.
    named = tree.leaves_by_name(form).items()
    kept = [jax.ShapeDtypeStruct(x.shape, arrays.get(name, x).dtype) for name, x in named]
    form = jax.tree.unflatten(jax.tree.structure(form), kept)
    return cell, filled(form, arrays, said["cell"])


def packed(params: PyTree, said: dict[str, str] | None = None) -> bytes:
    """A file of the arrays of a tree, and of what it says of itself."""
    return safetensors.flax.save(tree.leaves_by_name(params), said)


def opened(path: Path | str) -> tuple[dict[str, str], Tensors]:
    """What any file of safetensors says of itself, and its arrays by name."""
    check.require_path("path", path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            names = file.keys()
            return file.metadata() or {}, tensors_of({x: file.get_tensor(x) for x in names})
    except (safetensors.SafetensorError, AttributeError) as error:  # or a dtype NumPy has not
        raise ValueError(f"path: got {str(path)!r} ({error}), expected safetensors") from None


def filled(form: PyTree, arrays: Tensors, owner: str) -> PyTree:
    """The arrays in a tree of that form, each at its path; ValueError if they are others."""
    names = tree.leaves_by_name(form)
    for misfit in misfits(arrays, names, owner):
        check.require(False, *misfit)
    return jax.tree.unflatten(jax.tree.structure(form), [arrays[name] for name in names])
