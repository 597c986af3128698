"""`jaxrnn convert`: writes the parameters of a run or a file for another library."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxrnn import check
from jaxrnn.cli import run_folder
from jaxrnn.cli.options import Options, Parser, UserError
from jaxrnn.interop import equinox, flax, haiku, onnx, safetensors, torch
from jaxrnn.types import Layer, Params, Part

LIBRARIES: dict[str, Any] = {"torch": torch, "flax": flax, "haiku": haiku, "equinox": equinox}
ONNX_SUFFIX = ".onnx"


def add_options(parser: Parser) -> None:
    """Adds the options of `jaxrnn convert`."""
    add = parser.add_argument
    names = ("jaxrnn", *LIBRARIES)
    source = f"where `jaxrnn train` saved, a file of safetensors, or a model *{ONNX_SUFFIX}"
    add("source", type=Path, metavar="SOURCE", help=source)
    target = f"a file of safetensors, or a model *{ONNX_SUFFIX}; an existing file is replaced"
    add("target", type=Path, metavar="TARGET", help=target)
    add("--of", choices=names, default="jaxrnn", help="the library whose names SOURCE has")
    add("--to", choices=names, default="jaxrnn", help="the library whose names TARGET gets")


def convert(options: Options) -> None:
    """Reads a file, writes another, and prints what it contains; UserError on failure."""
    source = options.source
    target = options.target
    with _as_user_error("SOURCE", source, "a file or a folder that can be read"):
        network, params = read(source, options.of)
    with _as_user_error("TARGET", target, "a file that can be written"):
        if target.suffix == ONNX_SUFFIX:
            _require_form("TARGET", str(target), network, "onnx", ("dropout", "linear"))
            target.write_bytes(onnx.write(network, params).SerializeToString())
        elif options.to == "jaxrnn":
            safetensors.save(target, network, params)
        else:
            _require_form("--to", options.to, network, options.to, ("dropout",))
            data = safetensors.to_bytes(LIBRARIES[options.to].write(network, params))
            target.write_bytes(data)
    count = sum(x.size for x in jax.tree.leaves(params))
    print(f"{network!r}, {count:,} parameters, saved in {target}")


@contextlib.contextmanager
def _as_user_error(name: str, path: Path, expected: str) -> Iterator[None]:
    """Turns any error that a file can cause into a UserError."""
    try:
        yield
    except OSError as error:
        got = f"{str(path)!r} ({error.strerror or error})"
        raise UserError(f"{name}: got {got}, expected {expected}") from None
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(str(error)) from None


def read(source: Path, library: str) -> tuple[Part, Params]:
    """Returns the network and the parameters of a run or a file with the names of a library."""
    if source.is_dir():
        got = f"{library!r} for the folder {str(source)!r}"
        check.require(library == "jaxrnn", "--of", got, "'jaxrnn', or a file", UserError)
        return run_folder.load_network(source, "SOURCE")
    if source.suffix == ONNX_SUFFIX:
        node = onnx.load(source)
        got = f"{[*node.unroll_options]} fixed in the model"
        check.require(not node.unroll_options, "SOURCE", got, "params alone")
        return node.cell, node.params
    if library == "jaxrnn":
        return safetensors.load(source)
    return LIBRARIES[library].read(safetensors.open_file(source)[1])


def _require_form(
    name: str, value: str, network: Part, library: str, layers: tuple[str, ...]
) -> None:
    """Raises a UserError if a network has layers that a library cannot write.

    Args:
        name: the argument of the command line.
        value: the value of the argument.
        network: a Cell or Network.
        library: the library to write for.
        layers: the factories of the layers that it can write, such as "dropout".
    """
    parts = getattr(network, "parts", (network,))
    others = [p for p in parts if isinstance(p, Layer) and p.expression_name not in layers]
    cells = [index for index, part in enumerate(parts) if not isinstance(part, Layer)]
    if others and cells:
        names = ", ".join(map(repr, others))
        first = cells[0]
        call = f"jaxrnn.interop.{library}.write(network.parts[{first}], params[{first}])"
        got = f"{value!r} for {network!r}"
        expected = f"a network without {names}; to write a cell by itself, call {call}"
        raise UserError(f"{name}: got {got}, expected {expected}")
