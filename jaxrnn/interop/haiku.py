"""Haiku: `hk.VanillaRNN`, `hk.GRU`, `hk.LSTM`."""

import re
from collections.abc import Mapping

from jaxrnn import check
from jaxrnn.interop import layout
from jaxrnn.types import Cell, Params, Part, PyTree


def read(params: PyTree, *, name: str | None = None) -> tuple[Cell, Params]:
    """Returns the cell and the parameters of a recurrent core of Haiku.

    Args:
        params: the parameters that `init` of the transformed function returns.
        name: the name of the core's module, such as "encoder/~/lstm"; other modules are ignored.
            Defaults to None, for params that hold the core alone, under any name.

    Returns:
        A Cell and its params. The constant that Haiku adds to an LSTM's forget gate is included in
        the params.

    Raises:
        ValueError, TypeError: with the name of the array that is missing, surplus or of a wrong
            shape or dtype.

    Gradient: exact. Each of two biases gets the gradient of their sum.
    """
    return layout.read(_layouts(params, name), _select_core(params, name))


def write(cell: Part, params: Params, like: PyTree = None, *, name: str | None = None) -> PyTree:
    """Returns the parameters of a Haiku core that computes the same function as a cell.

    Args:
        cell: `elman(activation=jax.nn.relu)`, `gru(reset_after=False)` or `lstm`.
        params: the parameters of the cell.
        like: parameters of the Haiku core, which determine the tree of the result. Defaults to
            None, for arrays by path.
        name: the name of the core's module in `like`. Defaults to the module that `like` begins
            with, or to "core" without `like`.

    Returns:
        The part of a tree like `like` that belongs to the core. The forget bias of an LSTM may
        differ by one rounding.

    Raises:
        ValueError, TypeError: if Haiku has no such cell, or if `like` has another class or size.
    """
    return layout.write(_layouts(like, name), cell, params, _select_core(like, name))


def _select_core(params: PyTree, name: str | None) -> PyTree:
    if params is None or name is None:
        return params
    return {module: x for module, x in params.items() if f"{module}/".startswith(f"{name}/")}


def _layouts(params: PyTree, name: str | None) -> list[layout.Layout]:
    check.require_option_type("name", name, name is None or isinstance(name, str), "a string")
    by_module = isinstance(params, Mapping) and all(isinstance(module, str) for module in params)
    expected = "arrays by the names of Haiku's modules"
    check.require_type(params is None or by_module, "params", params, expected)
    if name is None:
        first_key = next(iter(params or {"core": None}))
        # A core "lstm" has modules such as "lstm/linear", and paths such as "lstm/linear.w".
        name = re.split(r"/linear|\.", first_key)[0]
    return layout.load_layouts("haiku", name)
