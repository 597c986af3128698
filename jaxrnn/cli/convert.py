"""`jaxrnn convert`: the parameters of a run or a file, in the form of another library."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxrnn import check
from jaxrnn.cli import run
from jaxrnn.cli.options import Options, Parser, UserError
from jaxrnn.interop import equinox, expressions, flax, haiku, onnx, safetensors, torch
from jaxrnn.types import Layer, Params

LIBRARIES: dict[str, Any] = {"torch": torch, "flax": flax, "haiku": haiku, "equinox": equinox}
MODEL = ".onnx"


def add_options(parser: Parser) -> None:
    """The options of `jaxrnn convert`."""
    add, names = parser.add_argument, ("jaxrnn", *LIBRARIES)
    source = f"where `jaxrnn train` saved, a file of safetensors, or a model *{MODEL}"
    add("source", type=Path, metavar="SOURCE", help=source)
    target = f"a file of safetensors, or a model *{MODEL}; what is there is replaced"
    add("target", type=Path, metavar="TARGET", help=target)
    add("--of", choices=names, default="jaxrnn", help="whose names SOURCE has")
    add("--to", choices=names, default="jaxrnn", help="whose names TARGET gets")


def convert(options: Options) -> None:
    """Read a file, write another, and print what it holds; UserError if it cannot be done."""
    source, target = options.source, options.target
    with _refusing("SOURCE", source, "a file or a folder that can be read"):
        network, params = _read(source, options.of)
    with _refusing("TARGET", target, "a file that can be written"):
        if target.suffix == MODEL:
            _require_form("TARGET", str(target), network, "onnx", ("dropout", "linear"))
            target.write_bytes(onnx.write(network, params).SerializeToString())
        elif options.to == "jaxrnn":
            safetensors.save(target, network, params)
        else:
            _require_form("--to", options.to, network, options.to, ("dropout",))
            data = safetensors.to_bytes(LIBRARIES[options.to].write(network, params))
            target.write_bytes(data)
    count = sum(x.size for x in jax.tree.leaves(params))
    print(f"{expressions.expression_of(network)}, {count:,} parameters, saved in {target}")


@contextlib.contextmanager
def _refusing(name: str, path: Path, expected: str) -> Iterator[None]:
    """Turn what can go wrong with a file into a UserError."""
    try:
        yield
    except OSError as error:
        got = f"{str(path)!r} ({error.strerror or error})"
        raise UserError(f"{name}: got {got}, expected {expected}") from None
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(str(error)) from None


def _read(source: Path, library: str) -> tuple[Any, Params]:
    if source.is_dir():
        got = f"{library!r} for the folder {str(source)!r}"
        check.require(library == "jaxrnn", "--of", got, "'jaxrnn', or a file", UserError)
        return run.load_network(source, "SOURCE")
    if source.suffix == MODEL:
        node = onnx.load(source)
        check.require(not node.unroll_options, "SOURCE", f"{[*node.unroll_options]} fixed in the model", "params alone")
        return node.cell, node.params
    if library == "jaxrnn":
        return safetensors.load(source)
    return LIBRARIES[library].read(safetensors.open_file(source)[1])


def _require_form(name: str, value: str, network: Any, library: str, maps: tuple[str, ...]) -> None:
    """Raise unless a library has a form for all maps, such as an embedding, in a network."""
    parts = getattr(network, "parts", (network,))
    others = [p for p in parts if isinstance(p, Layer) and p.expression_name not in maps]
    cells = [index for index, part in enumerate(parts) if not isinstance(part, Layer)]
    if others and cells:
        which = ", ".join(map(expressions.expression_of, others))
        call = f"jaxrnn.interop.{library}.write(network.parts[{cells[0]}], params[{cells[0]}])"
        got = f"{value!r} for {expressions.expression_of(network)}"
        expected = f"a network without {which}; to write a cell by itself, call {call}"
        raise UserError(f"{name}: got {got}, expected {expected}")
