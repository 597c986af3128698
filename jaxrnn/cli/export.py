"""`jaxrnn export`: writes a trained network as programs that run without jaxrnn."""

import json
from pathlib import Path
from typing import Any

import jax

import jaxrnn
from jaxrnn import check
from jaxrnn.cli import convert, inspect, run_folder
from jaxrnn.cli.options import Options, Parser, UserError, as_user_error, whole_number
from jaxrnn.interop import safetensors, stablehlo
from jaxrnn.types import PyTree

FORMATS = ("stablehlo", "onnx")
SUFFIX = ".jaxexport"
PARAMS = "params.safetensors"
SIGNATURE = "signature.json"
MODEL = "model.onnx"


def add_options(parser: Parser) -> None:
    """Adds the options of `jaxrnn export`."""
    add = parser.add_argument
    source = "where `jaxrnn train` saved, or a file of safetensors of jaxrnn"
    add("source", type=Path, metavar="FOLDER_OR_FILE", help=source)
    formats = "programs of jax.export, or a model of ONNX as `jaxrnn convert` writes it"
    add("--format", choices=FORMATS, default=FORMATS[0], help=formats)
    params = "inside the programs, or in a file of their own as the first argument of each"
    add("--params", choices=("baked", "given"), default="baked", help=params)
    size = "{} of the programs; None for any"
    for flag, noun in (("--batch-size", "rows"), ("--steps", "time steps of a sequence")):
        add(flag, type=whole_number(1), metavar="N", help=size.format(noun))
    out = "folder for the files; existing files of their names are replaced"
    add("--out", type=Path, default=Path("exported"), metavar="FOLDER", help=out)


def export(options: Options) -> None:
    """Writes the files and prints their names; UserError on failure."""
    source = options.source
    out = options.out
    # Before the programs are compiled, which takes seconds.
    fits = out.is_dir() or not out.exists()
    got = f"{str(out)!r} (File exists)"
    expected = "a folder that can be written"
    check.require(fits, "--out", got, expected, UserError)
    if options.format == "onnx":
        target = out / MODEL
        _make_folder(out)
        convert.convert(Options(source=source, target=target, of="jaxrnn", to="jaxrnn"))
        return
    expected = "a run or a file of `jaxrnn train`"
    with as_user_error("FOLDER_OR_FILE", source, expected):
        network, params = convert.read(source, "jaxrnn")
    is_baked = options.params == "baked"
    try:
        sizes = {"batch": options.batch_size, "steps": options.steps}
        programs = stablehlo.write(network, params, bake=is_baked, **sizes)
    except ModuleNotFoundError as error:
        extra = "the extra of the command line (pip install 'jaxrnn[app]')"
        raise UserError(f"{error.name}: got no such package, expected {extra}") from None
    files = {f"{name}{SUFFIX}": bytes(program.serialize()) for name, program in programs.items()}
    if not is_baked:
        files[PARAMS] = safetensors.to_bytes(params)
    signature = {
        "network": repr(network),
        "jaxrnn": jaxrnn.__version__,
        "jax": jax.__version__,
        "platforms": stablehlo.PLATFORMS,
        "params": options.params,
        "programs": {name: _signature(program) for name, program in programs.items()},
        **_data(source),
    }
    files[SIGNATURE] = (json.dumps(signature, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
    _make_folder(out)
    with as_user_error("--out", out, "a folder that can be written"):
        for name, content in files.items():
            (out / name).write_bytes(content)
    print(f"{network!r}, saved in {out}: {', '.join(files)}")


def _make_folder(folder: Path) -> None:
    with as_user_error("--out", folder, "a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)


def _signature(program: jax.export.Exported) -> dict[str, str]:
    """Returns the shapes of the arguments and results of a program, with its open sizes."""
    args, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    results = jax.tree.unflatten(program.out_tree, program.out_avals)
    return {"arguments": _describe(args), "results": _describe(results)}


def _describe(avals: PyTree) -> str:
    return str(jax.tree.map(lambda aval: aval.str_short(), avals)).replace("'", "")


def _data(source: Path) -> dict[str, Any]:
    """Returns what a run needs beside its network: its vocabulary, or how series are scaled."""
    if not (source / run_folder.OPTIONS).exists():
        return {}
    options = vars(run_folder.load_options(source, *inspect.TASKS))
    return {name: options[name] for name in ("vocabulary", "setup") if name in options}
