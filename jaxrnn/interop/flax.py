"""Flax, linen and nnx: `SimpleCell`, `GRUCell`, `LSTMCell`, `OptimizedLSTMCell`, `MGUCell`."""

from typing import Any

from jaxrnn.interop import layout
from jaxrnn.interop.layout import Layout
from jaxrnn.types import Params, PyTree

LAYOUTS = layout.layouts("flax")
PLAIN = {"activation_fn": "tanh", "gate_fn": "sigmoid", "reset_gate": True, "residual": False}


def read(params: PyTree, module: Any = None) -> tuple[Any, Params]:
    """The cell and its parameters, of those of a cell of Flax.

    Args:
        params: of linen, `variables["params"]` of the cell; of nnx, the cell or `nnx.state(cell)`.
        module: the cell, which alone tells its `activation_fn` and the like. Unless given, they are
            what they are in Flax by default.

    Returns:
        A Cell with its params. An `MGUCell` is a GRU whose gates r and z are equal, and a GRU of
        nnx one whose `b_n` is zero.

    Raises:
        ValueError, TypeError: naming what is missing, surplus, of a wrong form or not expressible.

    Gradient: exact; a gate that stands for two has the sum of both.
    """
    return layout.read(_layouts(module), params)


def write(cell: Any, params: Params, like: PyTree = None, module: Any = None) -> PyTree:
    """The parameters of a cell of Flax that has the function of a cell of ours.

    Args:
        cell: `elman`, `gru(reset_after=True)` or `lstm`.
        params: its parameters.
        like: Flax's parameters, to tell of which cell and of what form they are; arrays by their
            paths, as in linen, unless given.
        module: as in `read`.

    Returns:
        The form of `like`.

    Raises:
        ValueError, TypeError: if Flax has no such cell, if `like` is of another kind or size, or
            where an `MGUCell` would need r = z and nnx's GRU b_n = 0.
    """
    return layout.write(_layouts(module), cell, params, like)


def _layouts(module: Any) -> list[Layout]:
    return LAYOUTS if module is None else layout.of_module(LAYOUTS, module, PLAIN)
