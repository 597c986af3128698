"""The command `jaxrnn`: its subcommands and its exit codes."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

import jaxrnn
from jaxrnn import check
from jaxrnn.certify_all import CELL_NAMES, LOOP_NAMES

try:
    from tqdm import tqdm

    from jaxrnn.cli import convert, events, export, inspect, resuming, series_forecast, text
    from jaxrnn.cli.options import Options, Parser, UserError, option_type
except ModuleNotFoundError as missing:
    if str(missing.name).startswith("jaxrnn"):
        raise
    extra = "the extra of the command line (pip install 'jaxrnn[app]')"
    sys.exit(f"jaxrnn: error: {missing.name}: got no such package, expected {extra}")

# The exit codes.
DONE = 0
OUT_OF_LIMITS = 1
USER_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    The exit code is 0 on success; 1 for a certificate with a comparison out of limits; 2, with one
    line on stderr, for an error that the user can correct; 130 after Ctrl-C.

    Args:
        arguments: the arguments of the command. Defaults to `sys.argv`.
    """
    try:
        options = parser().parse_args(arguments)
        return COMMANDS[options.command](options) or DONE
    except (UserError, OSError, jax.errors.JaxRuntimeError) as error:
        message = str(error)
        # Of XLA's errors, only too little memory is one that the user can correct.
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in message:
            raise
        print("jaxrnn: error:", message.partition("\n")[0], file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        print(f"jaxrnn: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED


def train(options: Options) -> None:
    """Runs `jaxrnn train` with the number of devices in the options."""
    if options.resume is not None:
        got = f"--resume {options.resume} and the task {options.task!r}"
        check.require(options.task is None, "train", got, "one of them", UserError)
        options = resuming.options_of(options.resume, inspect.TASKS, parser().parse_args)
    elif options.task is None:
        raise UserError("the following arguments are required: TASK, or --resume FOLDER")
    with contextlib.suppress(RuntimeError):  # JAX has already started with its devices
        jax.config.update("jax_num_cpu_devices", options.devices)
    with events.opened(options.log) as log:
        inspect.TASKS[options.task].train(options, log)


def certify(options: Options) -> int:
    """Runs `jaxrnn certify`: prints the worst comparison of each certificate."""
    certificate = jaxrnn.certify_all(
        cells=options.cell, loops=options.loop, progress=lambda jobs: tqdm(jobs, unit="loop")
    )
    print(certificate.worst())
    if not certificate.ok:
        return OUT_OF_LIMITS
    return DONE


COMMANDS: dict[str, Callable[[Options], Any]] = {
    "train": train,
    "certify": certify,
    "inspect": inspect.inspect,
    "story": inspect.story,
    "sample": text.sample,
    "convert": convert.convert,
    "export": export.export,
    "forecast": series_forecast.forecast,
}


def parser() -> Parser:
    """Returns the parser of all commands."""
    top = Parser(prog="jaxrnn", description=jaxrnn.__doc__)
    top.add_argument("--version", action="version", version=jaxrnn.__version__)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, about: str, group: Any = commands) -> Parser:
        return group.add_parser(name, help=about, description=about)

    about = "train a model and save it in a folder, with the history of its training"
    train = add("train", about)
    resume = "go on with the training in FOLDER, with its options, from its last checkpoint"
    train.add_argument("--resume", type=Path, metavar="FOLDER", help=resume)
    tasks = train.add_subparsers(dest="task", metavar="TASK")
    for name, task in inspect.TASKS.items():
        task.add_train_options(add(name, task.ABOUT, tasks))
    about = "generate text with a trained text model, character by character"
    text.add_sample_options(add("sample", about))
    about = "forecast what follows the series in a CSV file, with a trained model"
    series_forecast.add_options(add("forecast", about))
    about = "report and draw where a gradient vanishes, explodes or is not finite"
    inspect.add_options(add("inspect", about))
    about = "draw why gradients vanish, what truncation drops, and what an LSTM changes"
    inspect.add_out(add("story", about), "story.png")
    about = "convert a run or a file of parameters to another library or to an ONNX model"
    convert.add_options(add("convert", about))
    about = "export a network as programs that JAX runs without jaxrnn, on CPU, CUDA and TPU"
    export.add_options(add("export", about))
    about = (
        "compare the gradients of all cells and loops with autodiff and finite differences, "
        "which takes some minutes"
    )
    _add_certify_options(add("certify", about))
    return top


def _add_certify_options(parser: Parser) -> None:
    for noun, names in (("cell", CELL_NAMES), ("loop", LOOP_NAMES)):
        expected = f"one of {', '.join(names)}"
        parser.add_argument(
            f"--{noun}",
            metavar="NAME",
            action="append",
            type=option_type(str, names.__contains__, expected),
            help=f"only this {noun}, {expected}; may be given several times",
        )
