"""The one form of every error message: "argument: got …, expected …".

A check says what fits, and the message follows: `require(k >= 1, "k", k, "an int of at least 1")`
raises "ValueError: k: got 0, expected an int of at least 1". What is checked may be any object.
"""

from typing import TypeVar

import jax

Value = TypeVar("Value")


def describe(leaf: object) -> str:
    """Returns `float32[3,4]` for an array or its struct, and the type of anything else."""
    if isinstance(leaf, type):  # a class such as jnp.float32 may have both attributes below
        return type(leaf).__name__
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    if type(leaf) is tuple:
        return f"a tuple of {len(leaf)}"
    return type(leaf).__name__


def require(
    fits: object, name: str, got: Value, expected: str, error: type[Exception] = ValueError
) -> Value:
    """Returns `got` if it fits; raises an error otherwise.

    The message shows the dtype and the shape of an array, and any other `got` as it is.
    """
    if not fits:
        shown = describe(got) if hasattr(got, "dtype") else got
        raise error(f"{name}: got {shown}, expected {expected}")
    return got


def require_type(fits: object, name: str, got: object, expected: str) -> None:
    """Raises a TypeError that names the type of `got` unless it fits."""
    require(fits, name, describe(got), expected, TypeError)


def option_type_error(name: str, value: object, expected: str) -> TypeError:
    """Returns a TypeError that shows a value and its type.

    The message shows only the dtype and the shape of an array with axes, which may be large.
    """
    is_large = getattr(value, "ndim", 0) > 0 and not isinstance(value, jax.core.Tracer)
    got = describe(value) if is_large else f"{value!r} of type {type(value).__name__}"
    return TypeError(f"{name}: got {got}, expected {expected}")


def require_option_type(name: str, value: Value, fits: object, expected: str) -> Value:
    """Returns `value` if it fits; raises a TypeError that shows value and type otherwise."""
    if not fits:
        raise option_type_error(name, value, expected)
    return value
