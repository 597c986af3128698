"""Networks of libraries that know but one kind: layers, each in one direction or in both."""

from typing import Any

from jaxrnn import check
from jaxrnn.layers import dropout
from jaxrnn.networks import Bidirectional, BothWays, Stack, bidirectional, concatenated, stacked
from jaxrnn.types import RECIPES, Params

Layer = list[tuple[Any, Params]]  # a cell and its parameters for each direction


def joined(layers: list[Layer], rate: float = 0.0) -> tuple[Any, Params]:
    """The network of these layers, dropout between them, and its parameters."""
    parts: list[tuple[Any, Params]] = []
    for layer in layers:
        if parts and rate:
            parts.append((dropout(rate), ()))
        cells, params = zip(*layer, strict=True)
        both = len(layer) > 1
        parts.append((bidirectional(*cells), BothWays(*params)) if both else layer[0])
    networks, trees = zip(*parts, strict=True)
    return (stacked(*networks), trees) if len(parts) > 1 else parts[0]


def layers_of(network: Any, params: Params) -> list[Layer]:
    """The inverse of `joined`; what is neither stacked nor both ways is one layer."""
    match network:
        case Stack(parts=parts):
            check.one_each(parts, params=params)
            pairs = zip(parts, params, strict=True)
            kept = [pair for pair in pairs if RECIPES.get(pair[0], ("", None))[0] != "dropout"]
            return [layer for pair in kept for layer in layers_of(*pair)]
        case Bidirectional(parts=parts, merge=merge) if merge is concatenated:
            check.one_each(parts, params=params)
            return [list(zip(parts, params, strict=True))]
    return [[(network, params)]]
