"""Haiku: `hk.VanillaRNN`, `hk.GRU`, `hk.LSTM`."""

import re
from collections.abc import Mapping
from typing import Any

from jaxrnn import check
from jaxrnn.interop import layout
from jaxrnn.types import Params, PyTree


def read(params: PyTree, name: str | None = None) -> tuple[Any, Params]:
    """The cell and its parameters, of those of a recurrent core of Haiku.

    Args:
        params: what `init` of the transformed function returns.
        name: of the core's module, such as "encoder/~/lstm"; others are not looked at. Unless
            given, there is nothing beside the core, whatever its name is.

    Returns:
        A Cell with its params; what Haiku adds to an LSTM's forget gate is in them.

    Raises:
        ValueError, TypeError: naming the tensor that is missing, surplus or of a wrong form.

    Gradient: exact; each of two biases has that of their sum.
    """
    return layout.read(_layouts(params, name), _within(params, name))


def write(cell: Any, params: Params, like: PyTree = None, name: str | None = None) -> PyTree:
    """The parameters of a core of Haiku that has the function of a cell.

    Args:
        cell: `elman(activation=jax.nn.relu)`, `gru(reset_after=False)` or `lstm`.
        params: its parameters.
        like: Haiku's parameters, to tell of what form they are; arrays by their paths unless given.
        name: as in `read`; "core" if there is no `like` either.

    Returns:
        The form of `like`, of that core alone. An LSTM's forget bias may be rounded by one unit.

    Raises:
        ValueError, TypeError: if Haiku has no such cell, or `like` is of another kind or size.
    """
    return layout.write(_layouts(like, name), cell, params, _within(like, name))


def _within(params: PyTree, name: str | None) -> PyTree:
    if params is None or name is None:
        return params
    return {module: x for module, x in params.items() if f"{module}/".startswith(f"{name}/")}


def _layouts(params: PyTree, name: str | None) -> list[layout.Layout]:
    check.require_option_type("name", name, name is None or isinstance(name, str), "a text")
    texts = isinstance(params, Mapping) and all(isinstance(module, str) for module in params)
    check.require_type(
        params is None or texts, "params", params, "arrays by the names of Haiku's modules"
    )
    # Of a core "lstm" a module is "lstm/linear", and an array by its path "lstm/linear.w".
    first = re.split(r"/linear|\.", next(iter(params or {"core": None})))[0]
    return layout.layouts("haiku", first if name is None else name)
