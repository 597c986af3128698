"""The one form of every error message: "argument: got …, expected …"."""

from typing import Any

import jax


def describe(leaf: Any) -> str:
    """Returns `float32[3,4]` for an array or its struct, and the type of anything else."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, type):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    return f"a tuple of {len(leaf)}" if type(leaf) is tuple else type(leaf).__name__


def require(fits: Any, name: str, got: Any, expected: str, error: Any = ValueError) -> Any:
    """Returns `got` if it fits; raises an error otherwise.

    The message shows the dtype and the shape of an array, and any other `got` as it is.
    """
    if not fits:
        shown = describe(got) if hasattr(got, "dtype") else got
        raise error(f"{name}: got {shown}, expected {expected}")
    return got


def require_type(fits: Any, name: str, got: Any, expected: str) -> None:
    """Raises a TypeError that names the type of `got` unless it fits."""
    require(fits, name, describe(got), expected, TypeError)


def require_option_type(name: str, value: Any, fits: bool, expected: str) -> Any:
    """Returns `value` if it fits; raises a TypeError that shows value and type otherwise.

    The message shows only the dtype and the shape of an array with axes, which may be large.
    """
    is_large = getattr(value, "ndim", 0) > 0 and not isinstance(value, jax.core.Tracer)
    got = describe(value) if is_large else f"{value!r} of type {type(value).__name__}"
    require(fits, name, got, expected, TypeError)
    return value
