"""README's code runs, its excerpt is the source, its commands exist."""

import re
import shlex
from pathlib import Path

import jax
import pytest

import jaxrnn.loops
from jaxrnn.cli.main import parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def as_a_newcomer():
    """JAX's own settings."""
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


@pytest.mark.usefixtures("as_a_newcomer", "own_messages")
def test_every_block_of_code_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = [block for block in blocks("python") if not block.startswith("# from ")]
    assert len(code) >= 5
    namespace = {}
    for block in code:
        exec(block, namespace)
    assert capsys.readouterr().out.startswith("True\n")


def test_the_first_code_stands_by_line_20():
    assert "import jax" in "\n".join(README.splitlines()[:20])
    assert "jax.grad" in "\n".join(README.splitlines()[:20])


def test_the_excerpt_is_the_source():
    (excerpt,) = [block for block in blocks("python") if block.startswith("# from ")]
    file, code = excerpt.removeprefix("# from ").split("\n", 1)
    package = Path(jaxrnn.__file__).parent.parent
    assert code in (package / file).read_text()


def test_the_commands_exist():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("jaxrnn ")]
    assert len(commands) >= 4
    for words in commands:
        parser().parse_args(words)


def test_there_are_two_commands_that_install():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert sum("pip install" in line for line in lines) == 2
