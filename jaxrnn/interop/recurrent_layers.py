"""Networks as lists of recurrent layers, each in one or both directions, as in PyTorch and ONNX."""

from jaxrnn import check
from jaxrnn.layers import dropout
from jaxrnn.networks import Directions, bidirectional, concatenate_features, stacked
from jaxrnn.types import Params, Part

Layer = list[tuple[Part, Params]]  # a cell and its parameters for each direction


def join_layers(layers: list[Layer], dropout_rate: float = 0.0) -> tuple[Part, Params]:
    """Returns the network of these layers, with dropout between them, and its parameters."""
    parts: list[tuple[Part, Params]] = []
    for layer in layers:
        if parts and dropout_rate:
            parts.append((dropout(dropout_rate), ()))
        if len(layer) == 1:
            parts.append(layer[0])
        else:
            cells, params = zip(*layer, strict=True)
            parts.append((bidirectional(*cells), Directions(*params)))
    if len(parts) == 1:
        return parts[0]
    networks, params = zip(*parts, strict=True)
    return stacked(*networks), params


def split_layers(network: Part, params: Params) -> list[Layer]:
    """Returns the layers of a network, the inverse of `join_layers`.

    A network that is neither stacked nor bidirectional is one layer. Dropout is left out.
    """
    match network:
        case stacked(parts=parts):
            check.require_one_per_part(parts, params=params)
            layers = []
            for part, part_params in zip(parts, params, strict=True):
                if not isinstance(part, dropout):
                    layers += split_layers(part, part_params)
            return layers
        case bidirectional(parts=parts, merge=merge) if merge in (None, concatenate_features):
            check.require_one_per_part(parts, params=params)
            return [list(zip(parts, params, strict=True))]
    return [[(network, params)]]
