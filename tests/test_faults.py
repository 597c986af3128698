"""Faults and the tests that have to see them; `python -m faults` plants them, see `faults`."""

from pathlib import Path

import pytest
from faults import FAULTS
from faults.planting import Fault, plant, span

import jaxrnn

TESTS = Path(__file__).parent
LIBRARY = Path(jaxrnn.__file__).parent

SOURCE = '''
def twice(x):
    return x + x


@staticmethod
@property
class Cell:
    if True:

        def step(self):
            """Two more."""

            def twice(x):
                return x * 2

            return twice(2)
'''


def text_of(function):
    begin, end = span(SOURCE, function)
    return SOURCE[begin:end]


def test_the_source_of_a_function_is_found_by_its_name():
    assert text_of("") == SOURCE
    assert text_of("twice") == "def twice(x):\n    return x + x\n"
    assert text_of("Cell").startswith("@staticmethod\n@property\nclass Cell:")
    assert text_of("Cell").endswith("return twice(2)\n")
    assert text_of("Cell.step.twice").split("\n")[1].strip() == "return x * 2"
    for function in ("step", "Cell.twice", "thrice"):
        with pytest.raises(RuntimeError, match="got 0 definitions"):
            span(SOURCE, function)


def test_a_fault_is_planted_in_its_function_alone(tmp_path):
    (tmp_path / "cell.py").write_text(SOURCE)
    planted = plant(tmp_path, Fault("", "cell.py", "twice", (("x + x", "x"),), ""))
    assert planted == SOURCE.replace("x + x", "x")
    for function, old in (("twice", "x"), ("twice", "2"), ("Cell.step", "x + x")):
        misplaced = Fault("", "cell.py", function, ((old, ""),), "")
        with pytest.raises(RuntimeError, match=r"stands [0-9] times in cell\.py, "):
            plant(tmp_path, misplaced)


def test_every_fault_has_its_own_name_there():
    places = [(fault.file, fault.function, fault.name, fault.cell) for fault in FAULTS]
    assert len({*places}) == len(places)


def test_the_test_of_every_fault_is_there(collected):
    """In all modules that were collected: not those whose library is not installed."""
    files = {fault.test.split("::")[0] for fault in FAULTS}
    assert {file for file in files if not (TESTS / file).is_file()} == set()
    tests = {test.removeprefix("tests/") for test in collected}
    of_files = {test.split("::")[0] for test in tests}
    tests |= {test.split("[")[0] for test in tests}
    wanted = {fault.test for fault in FAULTS if fault.test.split("::")[0] in of_files}
    assert wanted - tests == set()
