"""Equinox: `eqx.nn.GRUCell`, `eqx.nn.LSTMCell`."""

from typing import Any

from jaxrnn.interop import layout
from jaxrnn.types import Params, PyTree

LAYOUTS = layout.layouts("equinox")


def read(module: PyTree) -> tuple[Any, Params]:
    """The cell and its parameters, of a module of Equinox, or of its arrays by their names.

    Args:
        module: `eqx.nn.GRUCell` or `eqx.nn.LSTMCell`, also with `use_bias=False`.

    Returns:
        A Cell with its params.

    Raises:
        ValueError, TypeError: naming the array that is missing, surplus or of a wrong form.

    Gradient: exact.
    """
    return layout.read(LAYOUTS, module)


def write(cell: Any, params: Params, like: PyTree = None) -> PyTree:
    """The module of Equinox that has the function of a cell.

    Args:
        cell: `gru(reset_after=True)` or `lstm`.
        params: its parameters.
        like: a module of these sizes; arrays by their names come unless it is given.

    Returns:
        The module, with these parameters.

    Raises:
        ValueError, TypeError: if Equinox has no such cell, or `like` is of another kind or size.
    """
    return layout.write(LAYOUTS, cell, params, like)
