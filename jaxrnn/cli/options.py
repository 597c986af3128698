"""The parser of the command line, the types of its options, and its errors."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from jaxrnn import CELLS, LOOPS, Cell, Layer, Loop, checkpointed, dropout, parallel, truncated

Options = argparse.Namespace  # the parsed options of a command
# Those that take features, of which text, digits and draws for an inspection consist.
CELL_MAKERS: dict[str, Callable[[int], Cell]] = {
    name: make for name, make in CELLS if make(1).num_feature_axes == 1
}
PLAIN_LOOPS = {name: loop for name, loop in LOOPS if ":" not in name}
LOOP_MAKERS: dict[str, Callable[..., Loop]] = {
    "truncated": truncated,
    "checkpointed": lambda levels, loop: checkpointed(levels=levels, loop=loop),
}
CORES = os.cpu_count() or 1
if hasattr(os, "sched_getaffinity"):  # Linux, where a container may have fewer than the machine
    CORES = len(os.sched_getaffinity(0))
CELL_NAMES = ", ".join(CELL_MAKERS)
# K is the number of steps of a segment, and K2 of a window.
LOOP_FAMILIES = (
    "truncated:K",
    "truncated:K:K2",
    "checkpointed:LEVELS",
    "parallel",
    "parallel:JACOBIAN",
)
LOOP_NAMES = ", ".join((*PLAIN_LOOPS, *LOOP_FAMILIES))


class UserError(argparse.ArgumentTypeError):
    """An error that the user can correct: one line "argument: got …, expected …".

    The type of an option leaves the name of the argument out, since argparse adds it.
    """


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows defaults, refuses abbreviations, and raises UserErrors."""

    def __init__(self, **settings: Any) -> None:
        """Takes the settings of `argparse.ArgumentParser`."""
        formatter = argparse.ArgumentDefaultsHelpFormatter
        super().__init__(**settings, allow_abbrev=False, formatter_class=formatter)

    def error(self, message: str) -> NoReturn:
        """Raises the message that argparse would print with a usage text."""
        raise UserError(message.removeprefix("argument "))


# The errors of reading a file that is missing, damaged or of another format.
FILE_ERRORS = OSError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError


@contextlib.contextmanager
def as_user_error(name: str, path: Path | str, expected: str) -> Iterator[None]:
    """Turns any error in the block that a file can cause into a UserError about the argument."""
    try:
        yield
    except (*FILE_ERRORS, UserError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeDecodeError):
            reason = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise UserError(f"{name}: got {str(path)!r} ({reason}), expected {expected}") from None


def option_type(convert: type, fits: Callable[..., Any], expected: str) -> Callable[[str], Any]:
    """Returns the type of an option, for the argument `type` of argparse.

    Args:
        convert: from the text to the value.
        fits: whether a value is valid.
        expected: what a valid value is, for the error.
    """

    def parse(text: str) -> Any:
        # For instance, the text is not a number, or K2 is below K1.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            value = convert(text)
            if fits(value):
                return value
        raise UserError(f"got {text!r}, expected {expected}")

    return parse


def whole_number(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """Returns the type of an option that is a whole number from `least` to `most`."""
    return option_type(int, lambda n: least <= n <= most, f"a whole number from {least} to {most}")


positive = option_type(float, lambda x: 0 < x < float("inf"), "a finite number above 0")
rate = option_type(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
some_text = option_type(str, bool, "at least one character")
cell_name = option_type(str, CELL_MAKERS.__contains__, f"one of {CELL_NAMES}")


def cell_named(name: str, hidden_size: int) -> Cell:
    """Returns the cell with a name in `CELLS`; UserError if there is none."""
    return CELL_MAKERS[cell_name(name)](hidden_size)


def recurrent_layers(
    cell_name: str, hidden_size: int, layers: int, dropout_rate: float
) -> list[Cell | Layer]:
    """Returns the parts of a stack: cells, each followed by dropout if the rate is not zero."""
    cell = cell_named(cell_name, hidden_size)
    layer: list[Cell | Layer] = [cell]
    if dropout_rate:
        layer.append(dropout(dropout_rate))
    return layer * layers


def loop_named(name: str) -> Loop:
    """Returns the loop with a name in `LOOPS`, `truncated:K1[:K2][:LOOP]` or `checkpointed:LEVELS`.

    Raises a UserError if there is none.
    """
    return _parse_loop(loop_name(name))


def _parse_loop(name: str) -> Loop:
    if name in PLAIN_LOOPS:
        return PLAIN_LOOPS[name]
    family, *rest = name.split(":")
    if family == "parallel":
        if not rest:
            return parallel()
        (jacobian,) = rest
        return parallel(jacobian=jacobian)
    inner = "bptt"
    if rest and rest[-1] in PLAIN_LOOPS:
        inner = rest.pop()
    return LOOP_MAKERS[family](*map(int, rest), loop=PLAIN_LOOPS[inner])


loop_name = option_type(str, _parse_loop, f"one of {LOOP_NAMES}, with whole numbers from 1")
