"""Keras 3: `SimpleRNN`, `GRU`, `LSTM` and their cells."""

from typing import Any

from jaxrnn import check
from jaxrnn.interop import layout
from jaxrnn.interop.layout import Layout
from jaxrnn.types import Cell, Params, Part

LAYOUTS = layout.load_layouts("keras")
SUPPORTED: dict[str, Any] = {
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "dropout": 0.0,
    "recurrent_dropout": 0.0,
}


def read(layer: Any) -> tuple[Cell, Params]:
    """Returns the cell and the parameters of a Keras layer or cell.

    Args:
        layer: a built `SimpleRNN`, `GRU` (with the reset before or after the product), `LSTM`, or
            one of their cells; also with `use_bias=False`.

    Returns:
        A Cell and its params. Inputs of jaxrnn are time-major. At masked steps Keras repeats the
        last output, where the output of jaxrnn is zero; the carries are the same.

    Raises:
        ValueError, TypeError: with the name of the weight that is missing, surplus or of a wrong
            shape or dtype, or of the attribute that no cell of jaxrnn has. For dropout, use
            `jaxrnn.transforms.variational_dropout`.

    Gradient: exact. Each of the two biases of a GRU gets the gradient of their sum.
    """
    return layout.read(_layouts(layer), _weights(layer))


def write(cell: Part, params: Params, like: Any) -> list[Any]:
    """Returns weights, for `set_weights`, with which a Keras layer computes the same as a cell.

    Args:
        cell: `elman`, `gru` or `lstm`.
        params: the parameters of the cell.
        like: the built layer, or its cell.

    Returns:
        Arrays in the order of `like.weights`.

    Raises:
        ValueError, TypeError: if `like` has another class or size.
    """
    written = layout.write(_layouts(like), cell, params, _weights(like))
    return [written[weight.name] for weight in like.weights]


def _weights(layer: Any) -> dict[str, Any]:
    return {weight.name: weight.value for weight in layer.weights}


def _layouts(layer: Any) -> list[Layout]:
    backwards = getattr(layer, "go_backwards", False)
    expected = "False (jaxrnn.unroll has reverse=True)"
    check.require(not backwards, "go_backwards", backwards, expected)
    cell = getattr(layer, "cell", layer)
    layouts = layout.select_by_module(LAYOUTS, cell, SUPPORTED)
    # Both variants of a GRU have tensors of the same shapes.
    reset_after = getattr(cell, "reset_after", None)
    return [x for x in layouts if x.options.get("reset_after", reset_after) == reset_after]
