"""README is short, its first code stands at the top, its two commands and its numbers are right."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
LINES = README.splitlines()


def test_it_is_short():
    assert len(LINES) <= 250


def test_the_first_code_stands_by_line_20():
    first = "\n".join(LINES[:20])
    assert "import jax" in first
    assert "jax.grad" in first


def test_there_are_two_commands_that_install():
    """Those that `.ci/run` reads and runs."""
    commands = [line for line in LINES if re.match(r"python3 -m venv .*pip install", line)]
    assert len(commands) == 2
    assert commands[0].endswith("jaxrnn train text")
    assert commands[1].endswith("pytest")


@pytest.mark.parametrize(
    ("row", "comparison", "share"),
    [
        ("`jax.grad` of `lax.scan`, time", "bptt / scan", "time"),
        ("the fastest of `scan`, Flax, Equinox and Haiku, time", "bptt / fastest JAX peer", "time"),
        ("the same, both split", "ours / fastest JAX peer, split", "time"),
        ("PyTorch 2.13 with oneDNN, time", "bptt / torch", "time"),
        ("`jax.grad` of `lax.scan`, temporary memory", "bptt / scan", "memory"),
    ],
)
def test_the_table_of_speed_is_that_of_the_benchmark(row, comparison, share):
    result = json.loads((ROOT / "benchmarks/results/cpu.json").read_text())
    found = result["gradient"]["summary"][comparison]
    (line,) = [line for line in LINES if line.startswith(f"| {row}")]
    told = [float(cell) for cell in line.split("|")[2:4]]
    assert told == [round(found[f"{share}_{word}"], 2) for word in ("geometric_mean", "worst")]
