"""The gallery: each script runs, is short, and stands on the page with its picture and command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "docs" / "examples").glob("*.py"))
PAGE = (ROOT / "docs" / "gallery.md").read_text()
TIME_LIMIT = 240  # seconds; with a core to itself the longest takes about 8


def names(paths):
    return [path.stem for path in paths]


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_a_quick_run_finishes_and_draws(script, tmp_path):
    picture = tmp_path / "picture.png"
    # Compiling is most of a quick run. The folder is none of ours, as a newcomer's may be.
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), "--quick", "--out", str(picture)],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        env=env,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "it prints what it measures"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [*tmp_path.iterdir()] == [picture], "it writes nothing else"


def test_scripts_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in SCRIPTS}
    assert len(lengths) >= 10
    assert {name: n for name, n in lengths.items() if n > 135} == {}


def test_scripts_use_public_names_only():
    """What a script needs of the library has a public name, or belongs into the library."""
    for path in SCRIPTS:
        imported = re.findall(r"^(?:from|import) (jaxrnn\S*)", path.read_text(), re.MULTILINE)
        assert {*imported} <= {"jaxrnn", "jaxrnn.diagnostics.plots"}, path.name
        assert not re.search(r"jaxrnn\.(tree|check|runner|cells|types)\b", path.read_text())


def test_the_page_has_each_script_with_its_command_and_picture():
    commands = re.findall(r"^python docs/examples/(\w+)\.py", PAGE, re.MULTILINE)
    assert sorted({*commands}) == names(SCRIPTS)
    for script in SCRIPTS:
        picture = f"pictures/{script.stem}.png"
        assert f"]({picture})" in PAGE
        assert f"--out docs/{picture}" in PAGE
        assert (ROOT / "docs" / picture).stat().st_size < 200_000
