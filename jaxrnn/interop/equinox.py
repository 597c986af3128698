"""Equinox: `eqx.nn.GRUCell`, `eqx.nn.LSTMCell`."""

from jaxrnn.interop import layout
from jaxrnn.types import Cell, Params, Part, PyTree

LAYOUTS = layout.load_layouts("equinox")


def read(module: PyTree) -> tuple[Cell, Params]:
    """Returns the cell and the parameters of an Equinox module.

    Args:
        module: `eqx.nn.GRUCell` or `eqx.nn.LSTMCell`, also with `use_bias=False`; or a dict of its
            arrays by name.

    Returns:
        A Cell and its params.

    Raises:
        ValueError, TypeError: with the name of the array that is missing, surplus or of a wrong
            shape or dtype.

    Gradient: exact.
    """
    return layout.read(LAYOUTS, module)


def write(cell: Part, params: Params, like: PyTree = None) -> PyTree:
    """Returns an Equinox module that computes the same function as a cell.

    Args:
        cell: `gru(reset_after=True)` or `lstm`.
        params: the parameters of the cell.
        like: an Equinox module of the same sizes. Defaults to None, for arrays by name.

    Returns:
        A module like `like` with these parameters; without `like`, a dict of arrays.

    Raises:
        ValueError, TypeError: if Equinox has no such cell, or if `like` has another class or size.
    """
    return layout.write(LAYOUTS, cell, params, like)
