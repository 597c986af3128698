"""Haiku: `hk.VanillaRNN`, `hk.GRU`, `hk.LSTM`."""

from typing import Any

from jax.nn import relu

from jaxrnn.cells import elman, gru, lstm
from jaxrnn.interop import layout
from jaxrnn.interop.layout import Layout
from jaxrnn.types import Params, PyTree


def read(params: PyTree, name: str | None = None) -> tuple[Any, Params]:
    """The cell and its parameters, of those of a recurrent core of Haiku.

    Args:
        params: what `init` of the transformed function returns, or that part of it.
        name: of the core's module, such as "encoder/~/lstm"; other modules are not looked at.
            Unless given, that of a core which has no other name, and nothing may stand beside it.

    Returns:
        A Cell with its params; what Haiku adds to an LSTM's forget gate is in them.

    Raises:
        ValueError, TypeError: naming the tensor that is missing, surplus or of a wrong form.

    Gradient: exact; each of two biases has that of their sum.
    """
    return layout.read(_layouts(name), _within(params, name))


def write(cell: Any, params: Params, like: PyTree = None, name: str | None = None) -> PyTree:
    """The parameters of a core of Haiku that has the function of a cell.

    Args:
        cell: `elman(activation=jax.nn.relu)`, `gru(reset_after=False)` or `lstm`.
        params: its parameters.
        like: Haiku's parameters, to tell of what form they are; arrays by their paths unless given.
        name: as in `read`.

    Returns:
        The form of `like`, of that module alone. An LSTM's forget bias may be rounded by one unit.

    Raises:
        ValueError, TypeError: if Haiku has no such cell, or `like` is of another kind or size.
    """
    return layout.write(_layouts(name), cell, params, _within(like, name))


def _within(params: PyTree, name: str | None) -> PyTree:
    if name is None or params is None:
        return params
    return {module: x for module, x in params.items() if f"{module}/".startswith(f"{name}/")}


def _layouts(name: str | None) -> list[Layout]:
    """A vanilla core has two biases or one; the z of a GRU says what to take, where ours keeps."""
    rnn, of_gru, of_lstm = (name or default for default in ("vanilla_rnn", "gru", "lstm"))
    one = [(f"{rnn}/linear.w", "w_x"), (f"{rnn}/linear_1.w", "w_h"), (f"{rnn}/linear.b", "b")]
    two = [*one, (f"{rnn}/linear_1.b", "b")]
    places = ("w_i", "w_x.-zrn"), ("w_h", "w_h.-zrn"), ("b", "b.-zrn")
    zrn = [(f"{of_gru}.{array}", text) for array, text in places]
    igfo = [(f"{of_lstm}/linear.w", "w_x.igfo / w_h.igfo"), (f"{of_lstm}/linear.b", "b.igfo")]
    plain, before = {"activation": relu}, {"reset_after": False}
    return [
        *(Layout("haiku.VanillaRNN", elman, "", rows, plain) for rows in (two, one)),
        Layout("haiku.GRU", gru, "rzn", zrn, before),
        Layout("haiku.LSTM", lstm, "ifgo", igfo, offsets=(0.0, 1.0, 0.0, 0.0)),
    ]
