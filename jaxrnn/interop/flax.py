"""Flax linen and nnx: `SimpleCell`, `GRUCell`, `LSTMCell`, `OptimizedLSTMCell`, `MGUCell`."""

from typing import Any

from jaxrnn.interop import layout
from jaxrnn.interop.layout import Layout
from jaxrnn.types import Cell, Params, Part, PyTree

LAYOUTS = layout.load_layouts("flax")
SUPPORTED = {"activation_fn": "tanh", "gate_fn": "sigmoid", "reset_gate": True, "residual": False}


def read(params: PyTree, module: Any = None) -> tuple[Cell, Params]:
    """Returns the cell and the parameters of a Flax cell.

    Args:
        params: for linen, `variables["params"]` of the cell; for nnx, the cell or
            `nnx.state(cell)`.
        module: the Flax cell, from which `activation_fn` and similar options are read. Defaults to
            None, for Flax's default options.

    Returns:
        A Cell and its params. An `MGUCell` becomes a GRU whose gates r and z are equal. A GRU of
        nnx becomes a GRU whose `b_n` is zero.

    Raises:
        ValueError, TypeError: with the name of the array that is missing, surplus or of a wrong
            shape or dtype, or of the option that no cell of jaxrnn has.

    Gradient: exact. A gate of Flax that becomes two gates gets the sum of their gradients.
    """
    return layout.read(_layouts(module), params)


def write(cell: Part, params: Params, like: PyTree = None, module: Any = None) -> PyTree:
    """Returns the parameters of a Flax cell that computes the same function as a cell.

    Args:
        cell: `elman`, `gru(reset_after=True)` or `lstm`.
        params: the parameters of the cell.
        like: parameters of the Flax cell, which determine the class and the tree of the result.
            Defaults to None, for arrays by path as in linen.
        module: the Flax cell, from which `activation_fn` and similar options are read. Defaults to
            None, for Flax's default options.

    Returns:
        A tree like `like`.

    Raises:
        ValueError, TypeError: if Flax has no such cell; if `like` has another class or size; if
            `like` is an `MGUCell` and r and z differ, or a GRU of nnx and b_n is not zero.
    """
    return layout.write(_layouts(module), cell, params, like)


def _layouts(module: Any) -> list[Layout]:
    if module is None:
        return LAYOUTS
    return layout.select_by_module(LAYOUTS, module, SUPPORTED)
