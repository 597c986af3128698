"""Flax, linen and nnx: `SimpleCell`, `GRUCell`, `LSTMCell`, `OptimizedLSTMCell`, `MGUCell`."""

from typing import Any

from jax.numpy import tanh

from jaxrnn.cells import elman, gru, lstm
from jaxrnn.interop import layout
from jaxrnn.interop.layout import Layout
from jaxrnn.types import Params, PyTree

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


def _apart(inputs: str, states: str, ours: str, biased: str) -> list[tuple[str, str]]:
    """Of each of our gates, the names of the dense layers of the input and of the state."""
    rows = []
    for x, h, gate in zip(inputs.split(), states.split(), ours, strict=True):
        rows += [(f"{x}.kernel", f"w_x.{gate}"), (f"{h}.kernel", f"w_h.{gate}")]
        rows += [(f"{x if biased == 'x' else h}.bias", f"b.{gate}")]
    return rows


RNN = [("i.kernel", "w_x"), ("h.kernel", "w_h"), ("i.bias", "b")]
GRU = [*_apart("ir iz in", "hr hz hn", "rzn", biased="x"), ("hn.bias", "b_n")]
MGU = [*_apart("if if in", "hf hf hn", "rzn", biased="x"), ("hn.bias", "b_n")]
LSTM = _apart("ii if ig io", "hi hf hg ho", "ifgo", biased="h")
NNX_LSTM = _apart("ii if_ ig io", "hi hf hg ho", "ifgo", biased="h")
NNX_RNN = [(f"dense_{name}", text) for name, text in RNN]
NNX_GRU = [(name, f"{array}.rzn") for name, array in NNX_RNN]
NNX_ONE_PRODUCT = [("dense_i.kernel", "w_x.ifgo"), ("dense_h.kernel", "w_h"), ("dense_h.bias", "b")]
PLAIN_RNN, AFTER = {"activation": tanh}, {"reset_after": True}
LAYOUTS = [
    *(Layout("flax.SimpleCell", elman, "", rows, PLAIN_RNN) for rows in (RNN, NNX_RNN)),
    *(Layout("flax.GRUCell", gru, "rzn", rows, AFTER) for rows in (GRU, NNX_GRU)),
    *(Layout("flax.LSTMCell", lstm, "ifgo", rows) for rows in (LSTM, NNX_LSTM)),
    *(Layout("flax.OptimizedLSTMCell", lstm, "ifgo", rows) for rows in (LSTM, NNX_ONE_PRODUCT)),
    Layout("flax.MGUCell", gru, "rzn", MGU, AFTER),
]
