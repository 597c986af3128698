"""The command `jaxrnn`: what one can ask for, and what it answers when that cannot be done."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

import jaxrnn

try:
    from tqdm import tqdm

    from jaxrnn.cli import convert, inspect, text
    from jaxrnn.cli.options import Options, Parser, UserError
except ModuleNotFoundError as missing:
    if str(missing.name).startswith("jaxrnn"):
        raise
    extra = "the extra of the command line (pip install 'jaxrnn[app]')"
    sys.exit(f"jaxrnn: error: {missing.name}: got no such package, expected {extra}")

DONE, OUT_OF_LIMITS, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, `sys.argv` unless given, and return its exit code.

    0 when done; 1 for a certificate with a comparison out of limits; 2, with one line on stderr,
    where what was asked for cannot be done; 130 after Ctrl-C.
    """
    try:
        options = parser().parse_args(arguments)
        return COMMANDS[options.command](options) or DONE
    except (UserError, OSError, jax.errors.JaxRuntimeError) as error:
        message = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in message:
            raise
        print("jaxrnn: error:", message.partition("\n")[0], file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        print(f"jaxrnn: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED


def train(options: Options) -> None:
    """Train on all devices that are asked for."""
    with contextlib.suppress(RuntimeError):  # JAX has started, with the devices it has
        jax.config.update("jax_num_cpu_devices", options.devices)
    inspect.TASKS[options.task].train(options)


def certify(options: Options) -> int:
    """Print the certificates, the worst comparison of each, and answer by the exit code."""
    certificate = jaxrnn.certify_all(progress=lambda jobs: tqdm(jobs, unit="loop"))
    print(certificate.worst())
    return DONE if certificate.ok else OUT_OF_LIMITS


COMMANDS: dict[str, Callable[[Options], Any]] = {"train": train, "certify": certify}
COMMANDS |= {"inspect": inspect.inspect, "story": inspect.story}
COMMANDS |= {"sample": text.sample, "convert": convert.convert}


def parser() -> Parser:
    """All commands with their options."""
    top = Parser(prog="jaxrnn", description=jaxrnn.__doc__)
    top.add_argument("--version", action="version", version=jaxrnn.__version__)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, about: str, among: Any = commands) -> Parser:
        return among.add_parser(name, help=about, description=about)

    about = "train a model and save all of it in a folder, with the history of its training"
    train = command("train", about)
    tasks = train.add_subparsers(dest="task", metavar="TASK", required=True)
    for name, task in inspect.TASKS.items():
        task.add_train_options(command(name, task.ABOUT, tasks))
    about = "let a trained text model write, one streamed step for each character"
    text.add_sample_options(command("sample", about))
    about = "say where a gradient vanishes, explodes or is no number, and draw it"
    inspect.add_options(command("inspect", about))
    about = "draw why gradients vanish, what truncation drops, what an LSTM does instead"
    inspect.add_out(command("story", about), "story.png")
    about = "turn a run or a file of parameters into a file of another library or a model of ONNX"
    convert.add_options(command("convert", about))
    about = "compare the gradients of all cells and loops with autodiff and finite differences"
    command("certify", about)
    return top
