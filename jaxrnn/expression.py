"""The expression that constructs an object, such as `gru(128, reset_after=False)`, as its repr.

Cells, layers, networks and loops are frozen dataclasses. Two objects with the same repr are equal,
so an object can be a static argument of `jax.jit`, a row in a table, and a name in a file.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

Spell = Callable[[Any], str]  # returns the expression of an argument, whatever it is


class Expression:
    """A frozen dataclass whose repr is the expression that constructs it."""

    def __repr__(self) -> str:
        return self.expression(spell)

    def expression(self, spell_argument: Spell, *, with_defaults: bool = False) -> str:
        """Returns the expression, with each argument formatted by `spell_argument`.

        With defaults, it means the same in a later version whose defaults are others.
        """
        if not dataclasses.is_dataclass(self):  # a user's class, whose arguments are unknown
            return object.__repr__(self)
        arguments = argument_expressions(self, spell_argument, with_defaults=with_defaults)
        return f"{self.expression_name}({', '.join(arguments)})"

    @property
    def expression_name(self) -> str:
        """The name of the public function or class that constructs the object."""
        return type(self).__name__

    def replace_fields(self, **values: Any) -> None:
        """Sets fields of a frozen dataclass to normalised values, in `__post_init__` only."""
        for name, value in values.items():
            # The way to do it that `dataclasses` itself uses for frozen classes.
            object.__setattr__(self, name, value)


def argument_expressions(
    value: Any, spell_argument: Spell, *, with_defaults: bool = False
) -> list[str]:
    """Returns the arguments of the call that constructs a dataclass, such as `["128", "rate=0.5"]`.

    Arguments that equal their defaults are left out, unless `with_defaults`.
    """
    arguments: list[str] = []
    # Positional arguments first, as in a call: a subclass may add some after its base's options.
    for field in sorted(dataclasses.fields(value), key=lambda field: field.kw_only is True):
        argument = getattr(value, field.name)
        if not field.repr or (_is_default(field, argument) and not with_defaults):
            continue
        if field.metadata.get("variadic"):  # stacked(a, b) has one field, the tuple (a, b)
            arguments.extend(spell_argument(item) for item in argument)
        elif field.kw_only:
            arguments.append(f"{field.name}={spell_argument(argument)}")
        else:
            arguments.append(spell_argument(argument))
    return arguments


def spell(value: Any) -> str:
    """Returns the expression of an argument; for a function, its name."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"ShapeDtypeStruct({value.shape}, {str(value.dtype)!r})"
    if isinstance(value, float):
        return repr(float(value)).replace("inf", "1e999")  # Python has no literal for infinity
    if callable(value) and not isinstance(value, Expression):
        return getattr(value, "__name__", repr(value))
    return repr(value)


def name_of(value: Any) -> str:
    """Returns the name of a step or a loop: a function's name, or the expression."""
    return getattr(value, "__name__", None) or repr(value)


def _is_default(field: dataclasses.Field[Any], argument: Any) -> bool:
    default = field.default
    # Types are compared too, since 1 == True == 1.0 but their expressions differ.
    return argument is default or (type(argument) is type(default) and argument == default)
