import pytest
from helpers import assert_interchangeable

import jaxrnn
from jaxrnn.cli.options import UserError, cell_named, loop_named, positive, whole_number


@pytest.mark.parametrize(("name", "loop"), jaxrnn.LOOPS)
def test_every_loop_can_be_named(name, loop):
    assert loop_named(name) == loop
    assert hash(loop_named(name)) == hash(loop)


def test_a_segment_of_any_length_can_be_named():
    assert loop_named("truncated:32") == jaxrnn.truncated(32)
    assert loop_named("truncated:32") != jaxrnn.truncated(33)


@pytest.mark.parametrize(("name", "make"), jaxrnn.CELLS)
def test_every_cell_of_features_can_be_named(name, make):
    if make(3).num_feature_axes > 1:
        with pytest.raises(UserError, match=f"got '{name}', expected one of elman"):
            cell_named(name, 3)
    else:
        assert_interchangeable(cell_named(name, 3), make(3))


BAD_LOOPS = ["", "truncated", "truncated:", "truncated:-1", "bptt:3", "scan:", "truncated:4:2"]
BAD_LOOPS += ["truncated:4:gru", "checkpointed:", "checkpointed:0", "checkpointed:1:2"]
BAD_LOOPS += ["parallel:dense:foo"]


@pytest.mark.parametrize("name", BAD_LOOPS)
def test_what_is_no_loop_is_refused(name):
    with pytest.raises(UserError, match=f"got '{name}', expected one of scan, bptt, "):
        loop_named(name)


def test_numbers_have_bounds():
    assert whole_number(1, 3)("1") == 1
    assert whole_number(1, 3)("3") == 3
    assert positive("1e-3") == 1e-3
    for kind, text in [
        (whole_number(1, 3), "0"),
        (whole_number(1, 3), "4"),
        (whole_number(0), "1.5"),
        (positive, "0"),
    ]:
        with pytest.raises(UserError, match=f"got '{text}', expected a "):
            kind(text)
