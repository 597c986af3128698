"""PyTorch: `nn.RNN`, `nn.GRU`, `nn.LSTM`, stacked and bidirectional, and their cells."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from jaxrnn import check
from jaxrnn.interop import layout
from jaxrnn.interop.expressions import ACTIVATIONS
from jaxrnn.interop.layout import Layout
from jaxrnn.interop.recurrent_layers import Layer, join_layers, split_layers
from jaxrnn.types import Params, Part

NAME = re.compile(r"(?:(?:weight|bias)_(?:ih|hh)|weight_hr)((?:_l\d+(?:_reverse)?)?)")
NONLINEARITIES = "tanh", "relu"


def read(source: Any, *, prefix: str = "", nonlinearity: str = "tanh") -> tuple[Part, Params]:
    """Returns the cell or network and the parameters of a PyTorch module, or of its tensors.

    Args:
        source: `nn.RNN`, `nn.GRU`, `nn.LSTM` with any `num_layers`, `bidirectional`, `bias`,
            `proj_size`; `nn.RNNCell`, `nn.GRUCell`, `nn.LSTMCell`; or tensors or arrays by name.
        prefix: the prefix of the names in the state dict of a larger model, such as `encoder.`;
            other names are ignored.
        nonlinearity: "tanh" or "relu", for the tensors of an RNN without the module.

    Returns:
        A Cell and its params; for several layers or both directions, a Network and its params.
        Inputs of jaxrnn are time-major. Two biases become one, their sum. Dropout between layers
        is part of the network. The leaves of the carry are in the order of PyTorch's `h_0`; for an
        LSTM, h and c alternate.

    Raises:
        ValueError, TypeError: with the name of the tensor that is missing, surplus or of a wrong
            shape or dtype.

    Gradient: exact. Each of two biases gets the gradient of their sum.
    """
    nonlinearity = getattr(source, "nonlinearity", nonlinearity)
    expected = f"one of {', '.join(NONLINEARITIES)}"
    is_supported = nonlinearity in NONLINEARITIES
    check.require(is_supported, "nonlinearity", repr(nonlinearity), expected)
    check.require_option_type("prefix", prefix, isinstance(prefix, str), "a string")
    state = {}
    for name, tensor in _state("source", source).items():
        if str(name).startswith(prefix):
            state[str(name)[len(prefix) :]] = tensor
    directions = _split_directions(state)
    if "" in directions:  # the tensors of a cell, such as `weight_ih`, name no layer
        suffixes = [[""]]
    else:
        depth = 1 + max(_layer_index(suffix) for suffix in directions)
        is_bidirectional = any(suffix.endswith("_reverse") for suffix in directions)
        suffixes = [_suffixes(index, 1 + is_bidirectional) for index in range(depth)]
    layers: list[Layer] = []
    for layer_suffixes in suffixes:
        layer: Layer = []
        for suffix in layer_suffixes:
            layouts = _layouts(suffix, [nonlinearity])
            layer.append(layout.read(layouts, directions.get(suffix, {})))
        layers.append(layer)
    return join_layers(layers, getattr(source, "dropout", 0.0))


def write(cell: Part, params: Params, like: Any = None) -> dict[str, Any]:
    """Returns the tensors of a cell or network, for `load_state_dict(strict=True)`.

    Args:
        cell: `elman` (tanh or relu), `gru(reset_after=True)`, `lstm`, `projected_lstm`, or a
            bidirectional or stacked network of these. Dropout is left to the module.
        params: the parameters of the cell.
        like: the module, its state dict, or arrays, which determine whether there are biases and
            which type of tensor is returned. Defaults to None, for arrays, named as in a module of
            layers.

    Returns:
        Tensors by name. The second of two biases is zero.

    Raises:
        ValueError, TypeError: if PyTorch has no such cell, or if `like` has another class or size.
    """
    nonlinearities: Collection[str] = NONLINEARITIES
    if hasattr(like, "nonlinearity"):
        nonlinearities = [like.nonlinearity]
    directions = {}
    if like is not None:
        directions = _split_directions(_state("like", like))
    layers = split_layers(cell, params)
    is_single_cell = "" in directions and len(layers) == len(layers[0]) == 1
    tensors: dict[str, Any] = {}
    for index, layer in enumerate(layers):
        suffixes = [""] if is_single_cell else _suffixes(index, len(layer))
        for (direction_cell, direction_params), suffix in zip(layer, suffixes, strict=True):
            template = None
            if like is not None:
                # What is left in `directions` at the end are layers that the network does not have.
                template = directions.pop(suffix, {})
            layouts = _layouts(suffix, nonlinearities)
            tensors |= layout.write(layouts, direction_cell, direction_params, template)
    expected = f"{len(layers)} layers, as params"
    check.require(not directions, "like", f"{[*directions]} too", expected)
    return tensors


def _state(name: str, source: Any) -> Mapping[str, Any]:
    state = source
    if hasattr(source, "state_dict"):
        state = source.state_dict()
    check.require_type(isinstance(state, Mapping), name, state, "a module, or tensors by name")
    return state


def _split_directions(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the tensors of each direction of each layer, by the suffix of their names."""
    directions: dict[str, dict[str, Any]] = {}
    for name, tensor in state.items():
        match: Any = NAME.fullmatch(name)
        expected = "names such as weight_ih_l0 (of a larger model, a prefix)"
        check.require(match, name, check.describe(tensor), expected)
        directions.setdefault(match[1], {})[name] = tensor
    check.require(directions, "source", "no tensors", "some, whose names begin with the prefix")
    return directions


def _layer_index(suffix: str) -> int:
    """Returns 2 for `_l2_reverse`."""
    return int(re.findall(r"\d+", suffix)[0])


def _suffixes(index: int, num_directions: int) -> list[str]:
    return [f"_l{index}", f"_l{index}_reverse"][:num_directions]


def _layouts(suffix: str, nonlinearities: Collection[str]) -> list[Layout]:
    """Returns the layouts of one direction of one layer; for `nn.RNN`, with these activations."""
    layouts = layout.load_layouts("torch", suffix)
    activations = [None, *(ACTIVATIONS[name] for name in nonlinearities)]
    return [x for x in layouts if x.options.get("activation") in activations]
