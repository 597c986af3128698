"""`jaxrnn convert`: a file of parameters, from the form of one library into that of another."""

from pathlib import Path
from typing import Any

import jax

from jaxrnn import check
from jaxrnn.app.options import Options, Parser, UserError
from jaxrnn.interop import equinox, flax, haiku, onnx, recipe, safetensors, torch

LIBRARIES: dict[str, Any] = {"torch": torch, "flax": flax, "haiku": haiku, "equinox": equinox}
MODEL = ".onnx"


def add_options(parser: Parser) -> None:
    """The options of `jaxrnn convert`."""
    add, names = parser.add_argument, ("jaxrnn", *LIBRARIES)
    add("source", type=Path, metavar="SOURCE", help=f"a model *{MODEL}, or a file of safetensors")
    add("target", type=Path, metavar="TARGET", help=f"likewise; *{MODEL} becomes a model")
    add("--of", choices=names, default="jaxrnn", help="whose names SOURCE has")
    add("--to", choices=names, default="jaxrnn", help="whose names TARGET gets")


def convert(options: Options) -> None:
    """Read a file, write another, and print what it holds; UserError if it cannot be done."""
    source, target = options.source, options.target
    try:
        cell, params = _read(source, options.of)
        if target.suffix == MODEL:
            target.write_bytes(onnx.write(cell, params).SerializeToString())
        elif options.to == "jaxrnn":
            safetensors.save(target, cell, params)
        else:
            target.write_bytes(safetensors.packed(LIBRARIES[options.to].write(cell, params)))
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(str(error)) from None
    count = sum(x.size for x in jax.tree.leaves(params))
    print(f"{recipe.spelt(cell)}, {count:,} parameters, saved in {target}")


def _read(source: Path, library: str) -> tuple[Any, Any]:
    if source.suffix == MODEL:
        node = onnx.load(source)
        check.that(not node.how, "SOURCE", f"{[*node.how]} fixed in the model", "params alone")
        return node.cell, node.params
    if library == "jaxrnn":
        return safetensors.load(source)
    return LIBRARIES[library].read(safetensors.opened(source)[1])
