"""Networks of libraries that know but one kind: layers, each in one direction or in both."""

from typing import Any

from jaxrnn import check
from jaxrnn.layers import dropout
from jaxrnn.networks import Directions, bidirectional, concatenate_features, stacked
from jaxrnn.types import Params

Layer = list[tuple[Any, Params]]  # a cell and its parameters for each direction


def joined(layers: list[Layer], rate: float = 0.0) -> tuple[Any, Params]:
    """The network of these layers, dropout between them, and its parameters."""
    parts: list[tuple[Any, Params]] = []
    for layer in layers:
        if parts and rate:
            parts.append((dropout(rate), ()))
        cells, params = zip(*layer, strict=True)
        both = len(layer) > 1
        parts.append((bidirectional(*cells), Directions(*params)) if both else layer[0])
    networks, trees = zip(*parts, strict=True)
    return (stacked(*networks), trees) if len(parts) > 1 else parts[0]


def layers_of(network: Any, params: Params) -> list[Layer]:
    """The inverse of `joined`; what is neither stacked nor both ways is one layer."""
    match network:
        case stacked(parts=parts):
            check.require_one_per_part(parts, params=params)
            pairs = zip(parts, params, strict=True)
            kept = [pair for pair in pairs if not isinstance(pair[0], dropout)]
            return [layer for pair in kept for layer in layers_of(*pair)]
        case bidirectional(parts=parts, merge=merge) if merge in (None, concatenate_features):
            check.require_one_per_part(parts, params=params)
            return [list(zip(parts, params, strict=True))]
    return [[(network, params)]]
