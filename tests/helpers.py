"""Cells that only tests need."""

import dataclasses

from jaxrnn.transforms.base import TransformedCell


@dataclasses.dataclass(frozen=True, repr=False)
class DerivedBackward(TransformedCell):
    """The same cell without its hand-written backward pass, so that one is derived."""

    @property
    def has_handwritten_backward(self):
        return False


def with_functions(cell, num_feature_axes=None, **functions):
    """The same cell with other functions in the place of its methods."""
    methods = {name: staticmethod(function) for name, function in functions.items()}
    if num_feature_axes is not None:
        methods["num_feature_axes"] = property(lambda self: num_feature_axes)
    return type("Changed", (TransformedCell,), methods)(cell)
