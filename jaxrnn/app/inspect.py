"""`jaxrnn inspect`: what the gradient of a run, or of a cell as it starts, looks like."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn import pictures
from jaxrnn.app import digits, run, text
from jaxrnn.app.options import CELL_NAMES, LOOP_NAMES, Parser, cell_named, loop_name, loop_named, whole
from jaxrnn.types import Params

TASKS = {"text": text.task, "digits": digits.task}
DIRECTIONS = 32  # of a state, that are followed through the sequence
SHAPE = {"steps": 100, "batch_size": 4}


def add_options(parser: Parser) -> None:
    """The options of `jaxrnn inspect`."""
    add = parser.add_argument
    add("what", metavar="FOLDER_OR_CELL", help=f"where `jaxrnn train` saved, or one of {CELL_NAMES}")
    add("--hidden-size", type=whole(1), default=64, metavar="N", help="features of a cell")
    add("--steps", type=whole(1), default=100, metavar="N", help="of noise that a cell is fed with")
    add("--loop", type=loop_name, default="bptt", help=LOOP_NAMES)
    add("--out", type=Path, default=Path("gradient.png"), metavar="FILE", help="png, svg or pdf")


def inspect(options: run.Options) -> None:
    """Print where a number is not finite, or the verdict, and draw what it rests on."""
    loss, params = _saved(Path(options.what)) if Path(options.what).is_dir() else _fresh(options)
    loop = loop_named(options.loop)
    if (birthplace := jaxrnn.locate_nonfinite(loss, params, loop=loop)) is not None:
        print(birthplace)
        return
    calls: list[Any] = []

    def noting(*call: Any) -> Any:
        calls.append(call)
        return loop(*call)

    loss(params, loop=noting)
    ...
