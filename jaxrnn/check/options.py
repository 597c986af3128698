"""Checks of options: numbers, texts, functions."""

import contextlib
import inspect
import math
import os
import re
from typing import Any

from jaxrnn.check.messages import (
    Value,
    option_type_error,
    require,
    require_option_type,
    require_type,
)


def require_int(name: str, value: object, least: int | None = None) -> int:
    """Returns `value` if it is an int, and at least `least`; raises an error otherwise."""
    # A bool is an int to Python, and a mistake as a size.
    if not isinstance(value, int) or isinstance(value, bool):
        raise option_type_error(name, value, "a Python int")
    return require(least is None or value >= least, name, value, f"an int of at least {least}")


def require_number(name: str, value: object) -> float:
    """Returns `value` as a float if it is a Python number; raises an error otherwise."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise option_type_error(name, value, "a number")
    return float(value)


# The messages below show the number as it was given, 0 and not 0.0.


def require_positive(name: str, value: object) -> float:
    """Returns `value` as a float if it is a number above 0; raises an error otherwise."""
    number = require_number(name, value)
    require(number > 0, name, value, "a number above 0")
    return number


def require_finite(name: str, value: object) -> float:
    """Returns `value` as a float if it is a finite number; raises an error otherwise."""
    number = require_number(name, value)
    require(math.isfinite(number), name, value, "a finite number")
    return number


def require_rate(name: str, value: object) -> float:
    """Returns `value` as a float if it is a number in [0, 1); raises an error otherwise."""
    number = require_number(name, value)
    return require(0 <= number < 1, name, number, "a rate in [0, 1)")


def parse_bytes(name: str, value: object) -> int | None:
    """Returns bytes, from an int or a text such as "64MiB" or "1.5 GB"; None for None."""
    if value is None:
        return None
    if not isinstance(value, str):
        return require_int(name, value, least=1)
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([kKMG]?B|[KMG]iB)", value)
    if match is None:
        raise ValueError(f"{name}: got {value!r}, expected bytes, such as 64000 or '64MiB'")
    # KiB, MiB, GiB are powers of 1024; kB, MB, GB are powers of 1000.
    number = float(match[1])
    unit = match[2]
    base = 1024 if "i" in unit else 1000
    exponent = "BKMG".index(unit[0].upper())
    return require_int(name, int(number * base**exponent), least=1)


def require_bool(name: str, value: object) -> bool:
    """Returns `value` if it is a bool; raises an error otherwise."""
    if not isinstance(value, bool):
        raise option_type_error(name, value, "a bool")
    return value


def require_path(name: str, value: object) -> None:
    """Raises an error unless `value` is a path of a file."""
    require_option_type(name, value, isinstance(value, (str, os.PathLike)), "a path")


def require_instance(name: str, value: Any, wanted: type) -> Any:
    """Returns `value` if it is an instance of `wanted`; raises an error otherwise."""
    require_type(isinstance(value, wanted), name, value, _with_article(wanted.__name__))
    return value


def _with_article(name: str) -> str:
    """Returns "a Cell", or "an LSTMCarry", whose first letter is read as a letter."""
    # The letters whose names begin with a vowel, such as "ell"; else the vowels as they are read.
    vowels = "AEFHILMNORSX" if name[:2].isupper() else "AEIO"
    return f"an {name}" if name[0] in vowels else f"a {name}"


def require_callable(name: str, value: Value, takes: int | None = None, **named: object) -> Value:
    """Returns `value` if it is a function; raises an error otherwise.

    With `takes`, the function must also accept that many arguments, and the arguments `named` by
    keyword. This catches a factory that was not called, such as `loop=truncated`.
    """
    if not callable(value):
        raise option_type_error(name, value, "a function")
    if takes is not None:
        expected = ", and by name ".join([f"a function of {takes} arguments", *named])
        if inspect.isclass(value):
            expected += f", such as {value.__name__}(...), and not the class itself"
        with contextlib.suppress(ValueError):  # a function that has no signature
            signature = inspect.signature(value)
            try:
                # Values do not matter: `bind` only matches arguments with parameters.
                signature.bind(*[None] * takes, **named)
            except TypeError as error:
                got = f"{getattr(value, '__name__', value)} ({error})"
                raise TypeError(f"{name}: got {got}, expected {expected}") from None
    return value


def require_hashable(name: str, value: object) -> None:
    """Raises an error unless `value` has a hash, which a static argument of `jax.jit` needs."""
    try:
        hash(value)
    except TypeError as error:
        got = f"{value!r} ({error})"
        expected = "one with a hash, such as a frozen dataclass of numbers and functions"
        raise TypeError(f"{name}: got {got}, expected {expected}") from None
