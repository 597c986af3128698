"""The structure of the library: imports go downward, files are small, public names documented."""

import ast
import graphlib
import inspect
import io
import re
import tokenize
from pathlib import Path

import faults

import jaxrnn

ROOT = Path(jaxrnn.__file__).parent

# The name after `jaxrnn.`, to its floor, as in docs/how-it-is-built.md.
FLOORS = {
    **dict.fromkeys(("types", "expression", "tree", "check", "version"), 0),
    **dict.fromkeys(("cells", "loops", "transforms", "layers"), 1),
    **dict.fromkeys(("runner", "sequence", "networks", "losses"), 2),
    **dict.fromkeys(("certificate", "certify", "certify_all", "reference_loop"), 2),
    **dict.fromkeys(("training", "memory", "diagnostics", "interop", "online"), 3),
    **dict.fromkeys(("cli", "__main__"), 4),
}
OPTAX_FROM = FLOORS["training"]
# The package itself hands on names of all floors below, so only what stands on top may import it.
TOP = FLOORS["cli"]

Sources = dict[str, str]  # module to its text


def library() -> Sources:
    paths = sorted(ROOT.rglob("*.py"))
    return {module_of(path.relative_to(ROOT.parent)): path.read_text() for path in paths}


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def is_package(module: str, sources: Sources) -> bool:
    return module == "jaxrnn" or any(other.startswith(module + ".") for other in sources)


def imports(module: str, sources: Sources) -> set[str]:
    """The modules that a module imports, anywhere in it; of names, the module that has them."""
    found = set()
    for node in ast.walk(ast.parse(sources[module])):
        match node:
            case ast.Import():
                found.update(alias.name for alias in node.names)
            case ast.ImportFrom():
                base = node.module or ""
                if node.level:
                    parents = module.split(".")
                    up = node.level - is_package(module, sources)
                    base = ".".join([*parents[: len(parents) - up], *filter(None, [base])])
                for alias in node.names:
                    submodule = f"{base}.{alias.name}"
                    found.add(submodule if submodule in sources else base)
            case ast.Call(
                func=ast.Attribute(attr="import_module")
                | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=name), *_],
            ):
                found.add(name)
    return found


def within(module: str, sources: Sources) -> set[str]:
    """What a module imports of jaxrnn."""
    return {name for name in imports(module, sources) if name.split(".")[0] == "jaxrnn"}


def room(module: str) -> str | None:
    """The second part of a module's name; None for the package itself."""
    return module.split(".")[1] if "." in module else None


def floor(module: str) -> int:
    return TOP if room(module) is None else FLOORS[room(module)]


def without_floor(sources: Sources) -> list[str]:
    return [module for module in sources if room(module) not in (None, *FLOORS)]


def upward(sources: Sources) -> list[str]:
    """Imports that do not go down or stay on their floor; all between cells and loops."""
    found = []
    for module in sources.keys() - {"jaxrnn"}:
        for other in sorted(within(module, sources)):
            apart = {room(module), room(other)} == {"cells", "loops"}
            if apart or floor(other) > floor(module):
                found.append(f"{module} imports {other}")
    return sorted(found)


def circle(sources: Sources) -> list[str]:
    """Modules that import each other in a circle."""
    graph = {module: within(module, sources) - {module} for module in sources}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def optax_below(sources: Sources) -> list[str]:
    return [
        module
        for module in sources.keys() - {"jaxrnn"}
        if floor(module) < OPTAX_FROM
        and any(name.split(".")[0] == "optax" for name in imports(module, sources))
    ]


def longer_than(lines: int, sources: Sources) -> list[str]:
    return [module for module, source in sources.items() if len(source.splitlines()) > lines]


def code_lines(source: str) -> int:
    """Lines that are neither blank, nor comment, nor docstring."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    silent |= {tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() if ast.get_docstring(node):
                lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def not_one_sentence(docstrings: dict[str, str | None]) -> list[str]:
    """Names whose docstring does not begin with one line that is one sentence."""
    one_sentence = re.compile(r"[A-Z`](?:(?!\. [A-Z]).)*[^.]\.")
    return [
        name
        for name, doc in docstrings.items()
        if not one_sentence.fullmatch((doc or "").split("\n")[0])
    ]


def public_docstrings() -> dict[str, str | None]:
    """Of the functions and classes that the package hands on."""
    return {
        name: inspect.getdoc(value)
        for name, value in vars(jaxrnn).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not name.startswith("_")
    }


def test_the_whole_library_is_read():
    sources = library()
    assert {"jaxrnn", "jaxrnn.cells", "jaxrnn.cells.gru", "jaxrnn.loops.bptt"} <= sources.keys()
    assert within("jaxrnn.loops.bptt", sources) == {
        *("jaxrnn.check", "jaxrnn.tree", "jaxrnn.types"),
        *("jaxrnn.loops.backend", "jaxrnn.loops.checked_cell", "jaxrnn.loops.chunks"),
        *("jaxrnn.loops.derived", "jaxrnn.loops.forward_mode"),
        *("jaxrnn.loops.recomputing", "jaxrnn.loops.saving"),
    }


def test_every_module_has_its_floor():
    assert without_floor(library()) == []
    assert without_floor({"jaxrnn.attic": "", "jaxrnn.training.trainers": "", "jaxrnn": ""}) == [
        "jaxrnn.attic"
    ]


def test_imports_go_downward():
    assert upward(library()) == []


def test_an_import_that_goes_upward_is_seen():
    sources = {
        "jaxrnn.types": "def lazy():\n    from jaxrnn import sequence",
        "jaxrnn.cells": "from . import gru",
        "jaxrnn.cells.gru": "from ..loops.bptt import bptt\nfrom .kernels import x",
        "jaxrnn.cells.kernels": "",
        "jaxrnn.loops.bptt": "import jaxrnn.cells.gru as gru",
        "jaxrnn.sequence": "import importlib\nimportlib.import_module('jaxrnn.training.trainers')",
        "jaxrnn.training.trainers": "from jaxrnn import unroll, sequence\nimport jaxrnn.loops.bptt",
        "jaxrnn.cli.main": "import jaxrnn, jaxrnn.training.trainers\nfrom jaxrnn.types import Cell",
    }
    assert upward(sources) == [
        "jaxrnn.cells.gru imports jaxrnn.loops.bptt",
        "jaxrnn.loops.bptt imports jaxrnn.cells.gru",
        "jaxrnn.sequence imports jaxrnn.training.trainers",
        "jaxrnn.training.trainers imports jaxrnn",
        "jaxrnn.types imports jaxrnn.sequence",
    ]


def test_imports_make_no_circle():
    assert circle(library()) == []


def test_a_circle_is_seen():
    sources = {
        "jaxrnn.tree": "from jaxrnn.check import is_inexact",
        "jaxrnn.check": "def lazy():\n    import jaxrnn.types",
        "jaxrnn.types": "from jaxrnn import tree",
    }
    assert set(circle(sources)) == sources.keys()


def test_only_training_and_what_stands_above_it_imports_optax():
    assert optax_below(library()) == []
    planted = "def lazy():\n    from optax.losses import l2_loss"
    sources = {
        "jaxrnn.losses": planted,
        "jaxrnn.training.trainers": planted,
        "jaxrnn.cli.main": planted,
    }
    assert optax_below(sources) == ["jaxrnn.losses"]


def test_files_are_short():
    assert longer_than(400, library()) == []
    sources = {"jaxrnn.tree": "x = 1\n" * 400, "jaxrnn.check": "x = 1\n" * 401}
    assert longer_than(400, sources) == ["jaxrnn.check"]


def test_the_size_of_the_library_is_told():
    # What people import, and the command line, which nobody does, by itself.
    lines = {True: 0, False: 0}
    for module, source in library().items():
        lines[module.startswith("jaxrnn.cli")] += code_lines(source)
    # For information: what a capability costs is judged by reading it.
    print(f"{lines[False]} lines of code in the library, {lines[True]} in the command line")


def test_code_lines_are_counted_without_docstrings_comments_and_blanks():
    source = '''"""A module.

    Of two paragraphs.
    """
    # A comment.

    def f(
        x,  # counted
    ):
        """A function."""
        text = """three
        lines, no

        docstring"""
        return text
    '''
    assert code_lines(inspect.cleandoc(source)) == 3 + 4 + 1


def test_every_planted_fault_has_its_place():
    """So that none is lost where the code moves on; what sees each, `python -m faults` tells."""
    for fault in faults.FAULTS:
        assert faults.plant(ROOT, fault)


def test_public_docstrings_begin_with_one_sentence():
    docstrings = public_docstrings()
    assert {"unroll", "gru", "truncated", "LSTMCarry", "Loop"} <= docstrings.keys()
    assert not_one_sentence(docstrings) == []
    bad = {"none": None, "two": "One. Two.", "broken": "One that\ngoes on.", "open": "No full stop"}
    assert not_one_sentence({**bad, "good": "Compare h_{t-1} with c.\n\nMore."}) == [*bad]
