"""Plant faults one by one in a copy of the library; see the package for how to run this."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from faults import FAULTS, Fault, plant

ROOT = Path(__file__).resolve().parent.parent.parent

CERTIFY = """
import functools, sys
import jax, jaxrnn, numpy
from jaxrnn.certify import draw_arguments

cell_name, loop_name = sys.argv[1:]
cell = dict(jaxrnn.CELLS).get(cell_name, jaxrnn.elman)(4)
args = (None, None, None)
if cell_name == "plain":
    with jax.enable_x64(True):
        args = draw_arguments(cell, numpy.random.default_rng(0))
    cell = functools.partial(lambda cell, *args: cell(*args), cell)
sys.exit(not jaxrnn.certify(cell, *args, loop=dict(jaxrnn.LOOPS)[loop_name]).ok)
"""


def is_red(tree: Path, *command: str) -> bool:
    """Whether a Python command fails in `tree`; exit codes above 1 are no verdict."""
    env = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.returncode == 1


def seen_by(planted: Fault) -> dict[str, bool]:
    """Plant one fault and ask each judge that has to see it."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("jaxrnn", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        (tree / "jaxrnn" / planted.file).write_text(plant(tree / "jaxrnn", planted))
        pytest = ["-m", "pytest", "-x", "-n0", "-p", "no:cacheprovider"]
        judges = {"test": is_red(tree, *pytest, "-m", "", f"tests/{planted.test}")}
        if planted.cell:
            judges["certificate"] = is_red(tree, "-c", CERTIFY, planted.cell, planted.loop)
        return judges


def main(*chosen: str) -> int:
    """Plant all faults whose name or file contains one of the words; say of each what saw it."""
    unseen = 0
    for planted in FAULTS:
        texts = planted.name, planted.file
        if chosen and not any(word in text for word in chosen for text in texts):
            continue
        judges = seen_by(planted)
        unseen += not all(judges.values())
        verdict = ", ".join(f"{name} {'red' if red else 'GREEN'}" for name, red in judges.items())
        where = f"{planted.file} {planted.function}"
        print(f"{where:60} {planted.name:32} {planted.cell:18} {verdict}", flush=True)
    print(f"{unseen} unseen")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
