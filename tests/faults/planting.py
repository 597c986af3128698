"""What a fault is, and how it is planted in the source of one function."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LAWS = "test_laws.py::test"


class Fault(NamedTuple):
    """Texts in the source of a function, what to put in their place, and where it should show.

    Fields:
        name: what is wrong with it.
        file: in jaxrnn, such as "cells/gru.py".
        function: the qualified name of the function, method or class whose source is changed, such
            as "truncated.__call__.window"; "" for the whole file.
        edits: pairs of an old text, which has to stand exactly once in that source, and a new one.
        test: the test that has to turn red, in tests.
        cell: whose certificate has to turn red too; none if "".
        loop: under which loop.
    """

    name: str
    file: str
    function: str
    edits: tuple[tuple[str, str], ...]
    test: str
    cell: str = ""
    loop: str = "bptt"


def fault(file: str, function: str, name: str, old: str, new: str, test: str) -> Fault:
    """A fault that one test has to see."""
    return Fault(name, file, function, ((old, new),), test)


def forward(file: str, function: str, name: str, old: str, new: str, cell: str) -> Fault:
    """A fault in the values of a cell, which the comparison with NumPy has to see."""
    test = f"{LAWS}_forward_equals_the_equations_in_numpy[{cell}]"
    return fault(file, function, name, old, new, test)


def backward(
    file: str, function: str, name: str, old: str, new: str, cell: str, loop: str = "bptt"
) -> Fault:
    """A fault in a gradient, which the certificate of the cell and the laws have to see.

    The cell "plain" is an Elman cell as a plain step, whose backward pass is derived.
    """
    test = f"{LAWS}_values_and_gradient_equal_autodiff[{loop}-{cell}]"
    if cell == "plain":
        test = f"{LAWS}_contributions_of_single_steps_sum_to_the_gradient[elman]"
    return Fault(name, file, function, ((old, new),), test, cell, loop)


def plant(library: Path, fault: Fault) -> str:
    """The text of the file with the fault in it; RuntimeError unless the fault has its place."""
    text = (library / fault.file).read_text()
    begin, end = span(text, fault.function)
    source = text[begin:end]
    for old, new in fault.edits:
        if source.count(old) != 1:
            place = f"{fault.file}, {fault.function or 'the whole file'}"
            times = source.count(old)
            raise RuntimeError(f"{fault.name}: {old!r} stands {times} times in {place}")
        source = source.replace(old, new)
    return text[:begin] + source + text[end:]


def span(text: str, function: str) -> tuple[int, int]:
    """Where the source of a function or a class begins and ends, decorators included.

    RuntimeError unless there is exactly one of that qualified name.
    """
    if not function:
        return 0, len(text)
    node: ast.AST = ast.parse(text)
    for name in function.split("."):
        found = [child for child in _definitions(node) if child.name == name]
        if len(found) != 1:
            raise RuntimeError(f"{function}: got {len(found)} definitions of {name}, expected one")
        (node,) = found
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = text.splitlines(keepends=True)
    return sum(map(len, lines[: first - 1])), sum(map(len, lines[: node.end_lineno]))


def _definitions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes that are defined directly within a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield child
        else:
            yield from _definitions(child)
