"""Files of jaxrnn: parameters by readable names and the expression of their cell; no pickle."""

from pathlib import Path

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
from jaxrnn.interop.layout import Tensors, find_mismatches, tensors_of
from jaxrnn.types import Params, Part, PyTree

VERSION = "2"  # of the metadata: this version, the cell and its input size


def save(path: Path | str, cell: Part, params: Params) -> None:
    """Writes a cell or network and its parameters to a file.

    Args:
        path: the path of the file; an existing file is replaced.
        cell: a Cell or Network made by factories of jaxrnn, also stacked, bidirectional or
            transformed.
        params: the parameters, as the cell's `init` returns them. They are kept bit by bit, each by
            its path, such as `0.forward.w_h`. The c_0 in the params of a `resettable` cell has no
            batch axes.

    Raises:
        ValueError: if the cell has no expression, or if params are not parameters of the cell.
            There is no expression for your own Cell, for a dict of rates, and for a function that
            is not in `jaxrnn.interop.expressions.FUNCTIONS` (a `merge`, an `activation`, the
            `factor` of `scale_adjoint`, the `loss` of `step_loss`).
        OSError: if the file cannot be written.
    """
    check.require_path("path", path)
    check.require_arrays(params=params)
    check.require_concrete(params=params)
    for name, x in tree.leaves_by_name(params).items():
        check.require_floating(name, jax.numpy.result_type(x))
    metadata = {
        "jaxrnn": VERSION,
        "cell": expression_of(cell),
        "input_size": str(input_size_of(cell, params)),
    }
    Path(path).write_bytes(to_bytes(params, metadata=metadata))


def load(path: Path | str) -> tuple[Part, Params]:
    """Reads the cell or network and its parameters from a file that `save` wrote.

    Args:
        path: the path of the file.

    Returns:
        The cell and its params. Each array has the dtype in which it was saved.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is damaged, was not written by `save`, or has another version; if an
            array is missing, surplus or of a wrong shape.
    """
    metadata, arrays = open_file(path)
    version = metadata.get("jaxrnn")
    expected = repr(VERSION)
    if version is None:
        expected += ", in a file that names its cell, as `save` writes it"
    check.require(version == VERSION, "path", f"version {version!r} of {str(path)!r}", expected)
    cell = parse_expression(metadata.get("cell", ""))
    size = metadata.get("input_size", "")
    # At most nine digits: a damaged file must not make Python parse a number of any length.
    is_number = size.isascii() and size.isdecimal() and 0 < len(size) < 10 and int(size)
    check.require(is_number, "input_size", repr(size[:80]), "a number above 0")
    try:
        shapes = abstract_params(cell, int(size))
    except OverflowError:
        got = repr(metadata["cell"])
        raise ValueError(f"cell: got {got}, expected sizes that arrays can have") from None

    def with_saved_dtype(name: str, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, arrays.get(name, shape).dtype)

    named = tree.leaves_by_name(shapes).items()
    leaves = [with_saved_dtype(name, shape) for name, shape in named]
    template = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    return cell, fill_template(template, arrays, metadata["cell"])


def to_bytes(params: PyTree, *, metadata: dict[str, str] | None = None) -> bytes:
    """Returns a file with the arrays of a tree, by path, and the metadata."""
    return safetensors.flax.save(tree.leaves_by_name(params), metadata)


def open_file(path: Path | str) -> tuple[dict[str, str], Tensors]:
    """Returns the metadata of any safetensors file and its arrays by name."""
    check.require_path("path", path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors_of(arrays)
    # An AttributeError is a dtype that NumPy does not have.
    except (safetensors.SafetensorError, AttributeError) as error:
        raise ValueError(f"path: got {str(path)!r} ({error}), expected safetensors") from None


def fill_template(template: PyTree, arrays: Tensors, owner: str) -> PyTree:
    """Returns a tree like the template with the arrays, by path; ValueError if they do not fit."""
    names = tree.leaves_by_name(template)
    for mismatch in find_mismatches(arrays, names, owner):
        check.require(False, *mismatch)
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in names])
