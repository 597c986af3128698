"""PyTorch: `nn.RNN`, `nn.GRU`, `nn.LSTM`, deep and both ways, and `nn.RNNCell` and its like."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from jaxrnn import check
from jaxrnn.interop import layout
from jaxrnn.interop.expressions import ACTIVATIONS
from jaxrnn.interop.layers import joined, layers_of
from jaxrnn.interop.layout import Layout
from jaxrnn.types import Params

NAME = re.compile(r"(?:(?:weight|bias)_(?:ih|hh)|weight_hr)((?:_l\d+(?:_reverse)?)?)")
NONLINEARITIES = "tanh", "relu"


def read(source: Any, prefix: str = "", nonlinearity: str = "tanh") -> tuple[Any, Params]:
    """The cell or network, and its parameters, of a module of PyTorch or of its tensors.

    Args:
        source: `nn.RNN`, `nn.GRU`, `nn.LSTM` with any `num_layers`, `bidirectional`, `bias`,
            `proj_size`; `nn.RNNCell`, `nn.GRUCell`, `nn.LSTMCell`; or tensors or arrays by name.
        prefix: what the names begin with in the state dict of a larger model, such as `encoder.`;
            others are not looked at.
        nonlinearity: of an RNN, "tanh" or "relu", where its tensors come without the module.

    Returns:
        A Cell with its params, or where there are layers or both directions a Network. Inputs are
        time first. Two biases become one, their sum. Dropout between layers is in the network.
        The leaves of our carry have the order of PyTorch's `h_0`, of an LSTM h and c by turns.

    Raises:
        ValueError, TypeError: naming the tensor that is missing, surplus or of a wrong form.

    Gradient: exact; each of two biases has that of their sum.
    """
    nonlinearity = getattr(source, "nonlinearity", nonlinearity)
    known = nonlinearity in NONLINEARITIES
    check.require(known, "nonlinearity", repr(nonlinearity), f"one of {', '.join(NONLINEARITIES)}")
    check.require_option_type("prefix", prefix, isinstance(prefix, str), "a text")
    state = [(str(name), x) for name, x in _state("source", source).items()]
    directions = _directions({k[len(prefix) :]: x for k, x in state if k.startswith(prefix)})
    depth = 1 + max(int((re.findall(r"\d+", ending) or [0])[0]) for ending in directions)
    both = any(ending.endswith("_reverse") for ending in directions)
    endings = [[""]] if "" in directions else [_endings(i, 1 + both) for i in range(depth)]
    layers = [
        [layout.read(_layouts(e, [nonlinearity]), directions.get(e, {})) for e in layer]
        for layer in endings
    ]
    return joined(layers, getattr(source, "dropout", 0.0))


def write(cell: Any, params: Params, like: Any = None) -> dict[str, Any]:
    """The tensors of a cell or network, for `load_state_dict(strict=True)`.

    Args:
        cell: `elman` (tanh or relu), `gru(reset_after=True)`, `lstm`, `projected_lstm`, or such
            both ways, or stacked. Dropout is left to the module.
        params: its parameters.
        like: the module, its state dict, or arrays; it says whether there are biases, and what
            kind of tensor is wanted. Without it arrays come, named as in a module of layers.

    Returns:
        Tensors by name; of two biases the second is zero.

    Raises:
        ValueError, TypeError: if PyTorch has no such cell, or `like` is of another kind or size.
    """
    nonlinearities = [like.nonlinearity] if hasattr(like, "nonlinearity") else NONLINEARITIES
    directions = {} if like is None else _directions(_state("like", like))
    layers = layers_of(cell, params)
    single = "" in directions and len(layers) == len(layers[0]) == 1
    written: dict[str, Any] = {}
    for index, layer in enumerate(layers):
        endings = [""] if single else _endings(index, len(layer))
        for (of_cell, of_params), ending in zip(layer, endings, strict=True):
            template = None if like is None else directions.pop(ending, {})
            written |= layout.write(_layouts(ending, nonlinearities), of_cell, of_params, template)
    check.require(
        not directions, "like", f"{[*directions]} too", f"{len(layers)} layers, as params"
    )
    return written


def _state(name: str, source: Any) -> Any:
    state = source.state_dict() if hasattr(source, "state_dict") else source
    check.require_type(isinstance(state, Mapping), name, state, "a module, or tensors by name")
    return state


def _directions(state: Any) -> dict[str, dict[str, Any]]:
    """The tensors of each direction of each layer, by the ending of their names."""
    directions: dict[str, dict[str, Any]] = {}
    for name, tensor in state.items():
        found: Any = NAME.fullmatch(name)
        expected = "names such as weight_ih_l0 (of a larger model, a prefix)"
        check.require(found, name, check.describe(tensor), expected)
        directions.setdefault(found[1], {})[name] = tensor
    check.require(directions, "source", "no tensors", "some, with that prefix")
    return directions


def _endings(index: int, ways: int) -> list[str]:
    return [f"_l{index}", f"_l{index}_reverse"][:ways]


def _layouts(ending: str, nonlinearities: Collection[str]) -> list[Layout]:
    """Those of one direction of one layer; of `nn.RNN` the ones of these nonlinearities."""
    known = [None, *(ACTIVATIONS[name] for name in nonlinearities)]
    return [x for x in layout.layouts("torch", ending) if x.options.get("activation") in known]
