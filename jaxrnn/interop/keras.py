"""Keras 3: `SimpleRNN`, `GRU`, `LSTM`, and `SimpleRNNCell` and its like."""

from typing import Any

from jaxrnn import check
from jaxrnn.interop import layout
from jaxrnn.interop.layout import Layout
from jaxrnn.types import Params

LAYOUTS = layout.layouts("keras")
PLAIN: dict[str, Any] = {"activation": "tanh", "recurrent_activation": "sigmoid"}
PLAIN |= {"dropout": 0.0, "recurrent_dropout": 0.0}


def read(layer: Any) -> tuple[Any, Params]:
    """The cell and its parameters, of a layer of Keras or of a cell of one.

    Args:
        layer: `SimpleRNN`, `GRU` (with the reset before the product or after it), `LSTM`, or their
            cells, built; also with `use_bias=False`.

    Returns:
        A Cell with its params. Inputs are time first. Keras repeats outputs at masked steps where
        ours are zero; the carries are the same.

    Raises:
        ValueError, TypeError: naming the attribute that no cell of ours has (dropout is for
            `variational`), or the weight that is missing, surplus or of a wrong form.

    Gradient: exact; each of the two biases of a GRU has that of their sum.
    """
    return layout.read(_layouts(layer), _weights(layer))


def write(cell: Any, params: Params, like: Any) -> list[Any]:
    """The weights of a layer of Keras that has the function of a cell, for `set_weights`.

    Args:
        cell: `elman`, `gru` or `lstm`.
        params: its parameters.
        like: the layer or its cell, built.

    Returns:
        Arrays in the order of `like.weights`.

    Raises:
        ValueError, TypeError: if `like` is no layer of that cell, or of another size.
    """
    written = layout.write(_layouts(like), cell, params, _weights(like))
    return [written[weight.name] for weight in like.weights]


def _weights(layer: Any) -> dict[str, Any]:
    return {weight.name: weight.value for weight in layer.weights}


def _layouts(layer: Any) -> list[Layout]:
    cell, backwards = getattr(layer, "cell", layer), getattr(layer, "go_backwards", False)
    expected = "False (jaxrnn.unroll has reverse=True)"
    check.require(not backwards, "go_backwards", backwards, expected)
    after = getattr(cell, "reset_after", None)
    found = layout.of_module(LAYOUTS, cell, PLAIN)
    return [x for x in found if x.options.get("reset_after", after) == after]
