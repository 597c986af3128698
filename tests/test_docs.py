"""The pages say what is so: their code runs, excerpts are the source, commands and names exist.

The blocks of a page run in order in one namespace, README's too. A block that imports a library
that is not installed is left out; what follows must not need it.
"""

import ast
import doctest
import html
import importlib
import importlib.util
import inspect
import io
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxrnn
from jaxrnn.cli import main as command_line
from jaxrnn.interop import safetensors

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
EXCERPT = "# from "
SECONDS = 240  # that the code of one page may take; on idle cores it is a tenth of that
# Commands that the pages show and that are run here, in this order, since they take a second.
CHEAP = (
    "jaxrnn convert gru.safetensors torch.safetensors --to torch",
    "jaxrnn convert torch.safetensors gru.safetensors --of torch",
)

INTEROP = ("torch", "flax", "haiku", "equinox", "keras", "onnx", "stablehlo", "safetensors")

# The namespaces of the reference, and of those that hold more than their public names, which.
NAMESPACES = {
    "jaxrnn": None,
    "jaxrnn.transforms": None,
    "jaxrnn.diagnostics": None,
    "jaxrnn.diagnostics.plots": "plot_",
    "jaxrnn.training": None,
    "jaxrnn.online": None,
    **{f"jaxrnn.interop.{library}": r"(read|write|load|save|Node)$" for library in INTEROP},
}


def blocks(path, language):
    """The blocks of a page in that language, each with the line on which it begins."""
    text = path.read_text()
    for match in re.finditer(rf"^( *)```{language}\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
        code = "".join(line.removeprefix(match[1]) for line in match[2].splitlines(keepends=True))
        yield text.count("\n", 0, match.start()) + 1, code


def missing(code):
    """The libraries that a block imports and that are not installed."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return {name for name in found if importlib.util.find_spec(name) is None}


def commands(path):
    """The command lines of a page, without `.venv/bin/` and with continued lines joined."""
    for _, code in blocks(path, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            yield from (part.strip() for part in line.partition("#")[0].split("&&"))


@pytest.fixture
def _as_a_newcomer():
    """JAX's own settings."""
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


@pytest.fixture
def _in_time():
    def late(*_):
        raise TimeoutError(f"the code of this page takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_as_a_newcomer", "own_messages", "_in_time")
@pytest.mark.parametrize("name", NAMES)
def test_every_block_of_code_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {"__name__": "page"}
    for line, code in blocks(ROOT / name, "python"):
        if not code.startswith(EXCERPT) and not missing(code):
            exec(compile("\n" * line + code, name, "exec"), namespace)
    if name == "README.md":
        assert capsys.readouterr().out.startswith("True\n")  # the certificate of its first block


def examples():
    """Yields all public objects whose docstring has an example."""
    namespaces = [jaxrnn, jaxrnn.transforms, jaxrnn.diagnostics, jaxrnn.training, jaxrnn.online]
    for namespace in namespaces:
        for name, value in sorted(vars(namespace).items()):
            if not name.startswith("_") and ">>>" in (getattr(value, "__doc__", None) or ""):
                yield pytest.param(value, id=f"{namespace.__name__}.{name}")


@pytest.mark.parametrize("value", [*examples()])
def test_every_example_of_a_docstring_runs(value):
    names = {"jax": jax, "jnp": jnp, "optax": optax, "jaxrnn": jaxrnn}
    test = doctest.DocTestParser().get_doctest(value.__doc__, names, value.__name__, None, 0)
    report = io.StringIO()
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):  # as a user's
        failed, tried = doctest.DocTestRunner().run(test, out=report.write)
    assert tried
    assert not failed, report.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_every_excerpt_is_the_source(name):
    for line, block in blocks(ROOT / name, "python"):
        if block.startswith(EXCERPT):
            file, code = block.removeprefix(EXCERPT).split("\n", 1)
            assert code in (ROOT / file).read_text(), f"{name}:{line} is not in {file}"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_exists(name):
    for command in commands(ROOT / name):
        program, *words = shlex.split(command) or [""]
        if program.removeprefix(".venv/bin/") == "jaxrnn" and words != ["--version"]:
            command_line.parser().parse_args(words)


@pytest.mark.usefixtures("_as_a_newcomer")
def test_cheap_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = jaxrnn.gru(2)
    safetensors.save("gru.safetensors", cell, cell.init(jax.random.key(0), 3))
    told = [command for path in PAGES for command in commands(path)]
    for command in CHEAP:
        assert command in told
        assert command_line.main(shlex.split(command)[1:]) == 0


def public_names():
    """Every public name by its namespace: what is no module and does not begin with `_`."""
    for namespace, pattern in NAMESPACES.items():
        module = importlib.import_module(namespace)
        for name, value in vars(module).items():
            is_public = not name.startswith("_") and not inspect.ismodule(value)
            if is_public and (pattern is None or re.match(pattern, name)):
                yield f"{namespace}.{name}"


def test_every_public_name_stands_once_in_the_reference():
    pages = [path.read_text() for path in (DOCS / "reference").glob("*.md")]
    told = re.findall(r"^::: (\S+)$", "\n".join(pages), re.MULTILINE)
    assert sorted(told) == sorted(public_names())
    assert len(told) > 80


SITE = ("mkdocs", "material", "mkdocstrings_handlers", "latex2mathml")  # the extra `docs`


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in SITE),
    reason="what builds the site is not installed",
)
def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    assert len(pages) > 15
    loaded = re.compile(r'<(?:script|img)[^>]* src="(?:https?:)?//|<link[^>]* href="(?:https?:)?//')
    assert not any(map(loaded.search, pages))
    # gru is a class in a module of that name: the reference shows the docstring of the class.
    reference = "".join(path.read_text() for path in (tmp_path / "reference").rglob("*.html"))
    shown = letters(html.unescape(re.sub(r"<[^>]+>", "", reference)))
    for name in public_names():
        namespace, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(namespace), attribute)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert letters(inspect.getdoc(value).split("\n\n")[0]) in shown, name


def letters(text):
    """Returns the letters and digits of a text: what stays the same from source to page."""
    return re.sub(r"[\W_]", "", text)


def test_the_new_names_in_the_changelog_exist():
    changes = (ROOT / "CHANGELOG.md").read_text().partition("## 0.1.0")[0]
    told = set(re.findall(r"`((?:transforms|diagnostics|training)\.[\w.]+)", changes))
    assert {f"jaxrnn.{name}" for name in told} <= set(public_names())
    assert len(told) > 40


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere():
    said = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(said) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
    for path in PAGES:
        prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", prose):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_times_on_a_gpu_are_those_of_the_file():
    content = json.loads((ROOT / "benchmarks" / "results" / "gpu_h200.json").read_text())
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    rows = [
        r for r in content["rows"]["speed"] if (r["work"], r["mode"]) == ("gradient", "float32")
    ]
    assert len(rows) == 10
    for row in rows:
        times = row["microseconds_a_step"]
        sides = " | ".join(f"{times[s]['median']:.1f}" for s in ("scan", "bptt", "flax", "torch"))
        sizes = ", ".join(map(str, row["shape"].values()))
        assert f"| {row['cell']} | {sizes} | {sides} |" in page


def test_the_launches_on_a_gpu_are_those_of_the_file():
    content = json.loads((ROOT / "benchmarks" / "results" / "gpu_launches.json").read_text())
    page = (ROOT / "docs" / "benchmarks.md").read_text()

    def loops_at(shape):
        return {row["loop"] for row in content["rows"] if row["shape"] == shape}

    for row in content["rows"]:
        mebibytes = row["temporary_bytes"] >> 20
        if row["step"] in ("lru", "min_gru") or "fused" in loops_at(row["shape"]):
            cell = f"{row['launches']:,}, {mebibytes} MiB"
        elif row["loop"] in ("scan", "bptt"):
            cell = f"{row['launches_a_step']:.1f}, {mebibytes} MiB"
        else:
            continue
        assert f"| {row['step']} | {row['loop']} | {cell} |" in page
