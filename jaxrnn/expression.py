"""The expression that makes an object, such as `gru(128, reset_after=False)`, as its repr.

Cells, layers, networks and loops are frozen dataclasses. Two that print the same are equal, so one
object serves as a static argument of `jax.jit`, as a line in a table and as a name in a file.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax


class Expression:
    """A frozen dataclass whose repr is the expression that makes it."""

    def __repr__(self) -> str:
        return self.expression(spell)

    def expression(self, spell_argument: Callable[[Any], str]) -> str:
        """The expression that makes the object, each argument as `spell_argument` writes it."""
        if not dataclasses.is_dataclass(self):  # a user's own class, whose arguments are unknown
            return object.__repr__(self)
        return call_expression(self, spell_argument)

    @property
    def expression_name(self) -> str:
        """The name of the public function or class that makes the object."""
        return type(self).__name__

    def replace_fields(self, **values: Any) -> None:
        """Set fields of a frozen dataclass to their normalised values, in `__post_init__` only."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def call_expression(value: Any, spell_argument: Callable[[Any], str]) -> str:
    """`name(arguments)`; an argument that equals its default is left out."""
    words: list[str] = []
    for field in dataclasses.fields(value):
        argument = getattr(value, field.name)
        if not field.repr or _is_default(field, argument):
            continue
        prefix = f"{field.name}=" if field.kw_only else ""
        if field.metadata.get("variadic"):  # stacked(a, b), whose field is the tuple of both
            words.extend(spell_argument(item) for item in argument)
        else:
            words.append(prefix + spell_argument(argument))
    return f"{value.expression_name}({', '.join(words)})"


def spell(value: Any) -> str:
    """The expression of an argument; of a function its name."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"ShapeDtypeStruct({value.shape}, {str(value.dtype)!r})"
    if isinstance(value, float):
        return repr(float(value)).replace("inf", "1e999")  # infinity has no literal
    if callable(value) and not isinstance(value, Expression):
        return getattr(value, "__name__", repr(value))
    return repr(value)


def name_of(value: Any) -> str:
    """What to call a step or a loop in a table: a function's name, or the expression."""
    return getattr(value, "__name__", None) or repr(value)


def _is_default(field: dataclasses.Field[Any], argument: Any) -> bool:
    default = field.default
    return argument is default or (type(argument) is type(default) and argument == default)
