"""Checks of options: numbers, texts, functions."""

import contextlib
import inspect
import math
import os
import re
from typing import Any

from jaxrnn.check.messages import require, require_option_type, require_type


def require_int(name: str, value: Any, least: int | None = None) -> int:
    """Returns `value` if it is an int, and at least `least`; raises an error otherwise."""
    fits = isinstance(value, int) and not isinstance(value, bool)
    require_option_type(name, value, fits, "a Python int")
    return require(least is None or value >= least, name, value, f"an int of at least {least}")


def require_number(name: str, value: Any) -> float:
    """Returns `value` as a float if it is a Python number; raises an error otherwise."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(require_option_type(name, value, fits, "a number"))


def require_positive(name: str, value: Any) -> float:
    """Returns `value` as a float if it is a number above 0; raises an error otherwise."""
    return float(require(require_number(name, value) > 0, name, value, "a number above 0"))


def require_finite(name: str, value: Any) -> float:
    """Returns `value` as a float if it is a finite number; raises an error otherwise."""
    is_finite = math.isfinite(require_number(name, value))
    return float(require(is_finite, name, value, "a finite number"))


def require_rate(name: str, value: Any) -> float:
    """Returns `value` as a float if it is a number in [0, 1); raises an error otherwise."""
    return require(0 <= require_number(name, value) < 1, name, float(value), "a rate in [0, 1)")


def parse_bytes(name: str, value: Any) -> int | None:
    """Returns bytes, from an int or a text such as "64MiB" or "1.5 GB"; None for None."""
    if isinstance(value, str):
        match: Any = re.fullmatch(r"(\d+(?:\.\d+)?) *([kKMG]?B|[KMG]iB)", value)
        require(match, name, repr(value), "bytes, such as 64000 or '64MiB'")
        number, unit = float(match[1]), match[2].upper()
        base = 1024 if "i" in match[2] else 1000
        value = int(number * base ** "BKMG".index(unit[0]))
    return None if value is None else require_int(name, value, least=1)


def require_bool(name: str, value: Any) -> bool:
    """Returns `value` if it is a bool; raises an error otherwise."""
    return require_option_type(name, value, isinstance(value, bool), "a bool")


def require_path(name: str, value: Any) -> None:
    """Raises an error unless `value` is a path of a file."""
    require_option_type(name, value, isinstance(value, (str, os.PathLike)), "a path")


def require_instance(name: str, value: Any, wanted: type) -> Any:
    """Returns `value` if it is an instance of `wanted`; raises an error otherwise."""
    require_type(isinstance(value, wanted), name, value, _with_article(wanted.__name__))
    return value


def _with_article(name: str) -> str:
    """Returns "a Cell", or "an LSTMCarry", whose first letter is read as a letter."""
    vowels = "AEFHILMNORSX" if name[:2].isupper() else "AEIO"
    return f"an {name}" if name[0] in vowels else f"a {name}"


def require_callable(name: str, value: Any, takes: int | None = None, **named: Any) -> Any:
    """Returns `value` if it is a function; raises an error otherwise.

    With `takes`, the function must also accept that many arguments, and the arguments `named` by
    keyword. This catches a factory that was not called, such as `loop=truncated`.
    """
    require_option_type(name, value, callable(value), "a function")
    if takes is not None:
        expected = ", and by name ".join([f"a function of {takes} arguments", *named])
        if inspect.isclass(value):
            expected += f", such as {value.__name__}(...), and not the class itself"
        with contextlib.suppress(ValueError):  # a function that has no signature
            signature = inspect.signature(value)
            try:
                signature.bind(*[None] * takes, **named)
            except TypeError as error:
                got = f"{getattr(value, '__name__', value)} ({error})"
                raise TypeError(f"{name}: got {got}, expected {expected}") from None
    return value


def require_hashable(name: str, value: Any) -> None:
    """Raises an error unless `value` has a hash, which a static argument of `jax.jit` needs."""
    try:
        hash(value)
    except TypeError as error:
        got = f"{value!r} ({error})"
        expected = "one with a hash, such as a frozen dataclass of numbers and functions"
        raise TypeError(f"{name}: got {got}, expected {expected}") from None
