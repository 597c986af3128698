"""Plant faults one by one in a copy of the library; see the package for how to run this."""

import itertools
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


PYTEST = ("-m", "pytest", "-x", "-n0", "-p", "no:cacheprovider", "-m", "")


def verdict(tree: Path, *command: str) -> str:
    """What a Python command says in `tree`: "red", "GREEN", or "skipped", of a missing library."""
    env = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode == 4 and "1 skipped in" in done.stdout:
        return "skipped"
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return "red" if done.returncode else "GREEN"


def require_green(chosen: list[Fault]) -> None:
    """Raise if anything is red without a fault, and so sees none."""
    tests = sorted({f"tests/{fault.test}" for fault in chosen})
    commands = [
        (*PYTEST, *tests_of_file)
        for _, tests_of_file in itertools.groupby(tests, lambda test: test.split("::")[0])
    ]
    pairs = sorted({(fault.cell, fault.loop) for fault in chosen if fault.cell})
    for command in (*commands, *(("-c", CERTIFY, *pair) for pair in pairs)):
        if verdict(ROOT, *command) == "red":
            raise RuntimeError(f"{command}: red without a fault")


def seen_by(fault: Fault) -> dict[str, str]:
    """Plant one fault and ask each judge that has to see it."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("jaxrnn", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        (tree / "jaxrnn" / fault.file).write_text(plant(tree / "jaxrnn", fault))
        judges = {"test": verdict(tree, *PYTEST, f"tests/{fault.test}")}
        if fault.cell:
            judges["certificate"] = verdict(tree, "-c", CERTIFY, fault.cell, fault.loop)
        return judges


def main(*words: str) -> int:
    """Plant all faults whose name or file contains one of the words; say of each what saw it."""
    chosen = [
        fault
        for fault in FAULTS
        if not words or any(word in text for word in words for text in (fault.name, fault.file))
    ]
    require_green(chosen)
    unseen = 0
    for fault in chosen:
        judges = seen_by(fault)
        unseen += "GREEN" in judges.values()
        said = ", ".join(f"{name} {verdict}" for name, verdict in judges.items())
        where = f"{fault.file} {fault.function}"
        print(f"{where:60} {fault.name:32} {fault.cell:18} {said}", flush=True)
    print(f"{unseen} of {len(chosen)} unseen")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
