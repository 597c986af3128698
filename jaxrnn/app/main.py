"""The command `jaxrnn`: what one can ask for, and what it answers when that cannot be done."""

import argparse
import functools
import sys
from collections.abc import Sequence

import jax

import jaxrnn

try:
    from tqdm import tqdm

    from jaxrnn.app import digits, inspect, text
    from jaxrnn.app.options import Parser, UserError
except ModuleNotFoundError as missing:
    if str(missing.name).startswith("jaxrnn"):
        raise
    sys.exit(
        f"jaxrnn: error: {missing.name}: got no such package, expected the extra of the command "
        "line (pip install 'jaxrnn[app]')"
    )

COMMANDS = {"sample": text.sample, "inspect": inspect.inspect, "story": inspect.story}
DONE, OUT_OF_LIMITS, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, `sys.argv` unless given, and return its exit code.

    0 when done; 1 for a certificate with a comparison out of limits; 2, with one line on stderr,
    where what was asked for cannot be done; 130 after Ctrl-C.
    """
    try:
        options = parser().parse_args(arguments)
        return _run(options)
    except (UserError, OSError) as error:
        print(f"jaxrnn: error: {error}", file=sys.stderr)
        return USER_ERROR
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"jaxrnn: error: {str(error).splitlines()[0]}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        print(f"jaxrnn: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED


def parser() -> Parser:
    """All commands with their options."""
    top = Parser(prog="jaxrnn", description=jaxrnn.__doc__)
    top.add_argument("--version", action="version", version=jaxrnn.__version__)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    about = "train a model and save it with its options, history and learning curve"
    train = commands.add_parser("train", help=about, description=about)
    tasks = train.add_subparsers(dest="task", metavar="TASK", required=True)
    about = "a character-level language model, many-to-many, by truncated backpropagation in time"
    text.add_train_options(tasks.add_parser("text", help=about, description=about))
    about = "handwritten digits read pixel by pixel, many-to-one"
    digits.add_train_options(tasks.add_parser("digits", help=about, description=about))

    about = "let a trained text model continue a prompt, one streamed step for each character"
    text.add_sample_options(commands.add_parser("sample", help=about, description=about))

    about = "say where a gradient vanishes, explodes or is no number, and draw it"
    inspect.add_options(commands.add_parser("inspect", help=about, description=about))

    about = "draw why gradients vanish, what truncation drops, what an LSTM does instead"
    inspect.add_out(commands.add_parser("story", help=about, description=about), "story.png")

    about = "compare the gradients of all cells and loops with autodiff and finite differences"
    commands.add_parser("certify", help=about, description=about)
    return top


def _run(options: argparse.Namespace) -> int:
    """Do what was asked for, and say how it ended."""
    if options.command == "train":
        {"text": text.train, "digits": digits.train}[options.task](options)
    elif options.command in COMMANDS:
        COMMANDS[options.command](options)
    else:
        certificate = jaxrnn.certify_all(progress=functools.partial(tqdm, unit="loop"))
        print(certificate.worst())
        return DONE if certificate.ok else OUT_OF_LIMITS
    return DONE
