"""What the command line understands: its kinds of option, its parser, errors one can read."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from jaxrnn import CELLS, LOOPS, Cell, Layer, Loop, checkpointed, dropout, truncated

Options = argparse.Namespace  # those of one run of a command
MAKERS: dict[str, Callable[[int], Cell]] = dict(CELLS)
PLAIN_LOOPS = {name: loop for name, loop in LOOPS if ":" not in name}
LOOP_MAKERS: dict[str, Callable[..., Loop]] = {
    "truncated": truncated,
    "checkpointed": lambda levels, loop: checkpointed(levels=levels, loop=loop),
}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CELL_NAMES = ", ".join(MAKERS)
# K, the steps of a segment, and, if another number follows, of a window; or the levels.
LOOP_NAMES = ", ".join((*PLAIN_LOOPS, "truncated:K", "truncated:K:K2", "checkpointed:K"))


class UserError(argparse.ArgumentTypeError):
    """What the user got wrong, in one line: the argument, what came, what was expected.

    A kind of option leaves the argument's name out; argparse puts it in front.
    """


class Parser(argparse.ArgumentParser):
    """argparse with options expression_of out, defaults in the help, and a UserError for each error."""

    def __init__(self, **settings: Any) -> None:
        """Take argparse's own settings."""
        formatter = argparse.ArgumentDefaultsHelpFormatter
        super().__init__(**settings, allow_abbrev=False, formatter_class=formatter)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with a usage text around it."""
        raise UserError(message.removeprefix("argument "))


# What reading a file that is missing, damaged or of something else can raise.
FAULTS = OSError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError


@contextlib.contextmanager
def at_fault(name: str, path: Path | str, expected: str) -> Iterator[None]:
    """Say of any failure within, if a file can be the cause, that this argument's is."""
    try:
        yield
    except (*FAULTS, UserError) as error:
        said = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeDecodeError):
            said = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise UserError(f"{name}: got {str(path)!r} ({said}), expected {expected}") from None


def kind(convert: type, fits: Callable[..., Any], expected: str) -> Callable[[str], Any]:
    """The kind of option that `convert` reads from a text and that fits."""

    def value(text: str) -> Any:
        with contextlib.suppress(ValueError, TypeError, KeyError):  # no number, or K2 below K1
            if fits(value := convert(text)):
                return value
        raise UserError(f"got {text!r}, expected {expected}")

    return value


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """The kind of option that is a whole number from least to most."""
    return kind(int, lambda n: least <= n <= most, f"a whole number from {least} to {most}")


positive = kind(float, lambda x: 0 < x < float("inf"), "a finite number above 0")
rate = kind(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
some_text = kind(str, bool, "at least one character")
cell_name = kind(str, MAKERS.__contains__, f"one of {CELL_NAMES}")


def cell_named(name: str, hidden_size: int) -> Cell:
    """The cell of that name in `CELLS`; UserError if there is none."""
    return MAKERS[cell_name(name)](hidden_size)


def recurrent_layers(
    cell_name: str, hidden_size: int, layers: int, dropout_rate: float
) -> list[Cell | Layer]:
    """The parts of a stack: cells one after another, each with dropout on its outputs, if any."""
    cell = cell_named(cell_name, hidden_size)
    layer: list[Cell | Layer] = [cell, dropout(dropout_rate)] if dropout_rate else [cell]
    return layer * layers


def loop_named(name: str) -> Loop:
    """The loop of that name in `LOOPS`, `truncated:K1[:K2][:LOOP]` or `checkpointed:LEVELS`.

    UserError if there is none.
    """
    return _loop(loop_name(name))


def _loop(name: str) -> Loop:
    if name in PLAIN_LOOPS:
        return PLAIN_LOOPS[name]
    family, *rest = name.split(":")
    inner = rest.pop() if rest and rest[-1] in PLAIN_LOOPS else "bptt"
    return LOOP_MAKERS[family](*map(int, rest), loop=PLAIN_LOOPS[inner])


loop_name = kind(str, _loop, f"one of {LOOP_NAMES} with K at least 1")
