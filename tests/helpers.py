"""Cells that only tests need, and what tests assert of two objects that were made alike."""

import dataclasses

import jax

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


def assert_interchangeable(first, second):
    """Equal, with equal hashes, and one program to `jax.jit`, although two objects."""
    assert first is not second
    assert first == second
    assert hash(first) == hash(second)
    traced = []
    run = jax.jit(lambda static, x: traced.append(static) or x, static_argnums=0)
    run(first, 1.0)
    run(second, 1.0)
    assert len(traced) == 1
