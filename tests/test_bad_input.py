"""Bad input, the second table (`tests/bad_calls.py`): arguments that stand in no other."""

import builtins
import inspect
import re

import pytest
from bad_calls import TABLE
from test_check import compiled  # noqa: F401  (a fixture)

import jaxrnn
from jaxrnn.expression import Expression


@pytest.mark.parametrize(
    ("message", "bad_call"),
    [pytest.param(message, call, id=f"{name}, {message}") for name, message, call in TABLE],
)
def test_bad_input_raises_our_error_before_anything_compiles(
    message,
    bad_call,
    own_messages,
    compiled,  # noqa: F811
):
    error, text = message.split(": ", 1) if "()" not in message else message.split(" ", 1)
    pattern = "(?s)^" + ".*".join(map(re.escape, text.split("...")))
    with pytest.raises(getattr(builtins, error.rstrip(":")), match=pattern) as caught:
        bad_call()
    assert "\n" not in str(caught.value), "one sentence"
    assert compiled == []


def makes_a_part_or_loop(value):
    """Whether it is a class such as `gru`, `stacked` or `truncated`, and none to be subclassed."""
    return (
        inspect.isclass(value) and issubclass(value, Expression) and not inspect.isabstract(value)
    )


def test_every_public_function_stands_in_the_table():
    spaces = jaxrnn, jaxrnn.transforms, jaxrnn.diagnostics, jaxrnn.training
    functions = {
        name
        for space in spaces
        for name, value in vars(space).items()
        if (inspect.isfunction(value) or makes_a_part_or_loop(value)) and not name.startswith("_")
    }
    assert {"gru", "zoneout", "truncated", "unroll", "gradient_flow", "trainer"} <= functions
    assert functions - {name for name, *_ in TABLE} == set()
