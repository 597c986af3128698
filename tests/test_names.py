"""The public surface: one order of arguments, options by keyword, and no name of version 0.1."""

import inspect
import io
import keyword
import tokenize
from pathlib import Path

import pytest

import jaxrnn
import jaxrnn.interop.safetensors
from jaxrnn import diagnostics, interop, training, transforms

ROOT = Path(jaxrnn.__file__).parent
LIBRARIES = ("equinox", "flax", "haiku", "keras", "onnx", "safetensors", "torch")
# Arguments that may be left out and are no options: they say what is run or measured.
OPTIONAL_ARGUMENTS = {
    "jaxrnn.bidirectional": {"backward"},
    "jaxrnn.certify": {"params", "carry", "xs"},
    "jaxrnn.lru": {"output_size"},
    "jaxrnn.selective_ssm": {"state_size"},
    "jaxrnn.truncated": {"k2"},
    "jaxrnn.training.truncated_trainer": {"k2"},
    "jaxrnn.interop.flax.read": {"module"},
    "jaxrnn.interop.flax.write": {"like", "module"},
    **{f"jaxrnn.interop.{name}.write": {"like"} for name in ("equinox", "haiku", "torch")},
}
OLD_NAMES = {
    *("BothWays", "Crossed", "Fed", "Noised", "Probed", "Restarted", "Restarting", "Scored"),
    *("Seen", "Stepped", "adaptive", "by_hand", "candidate_dropout", "clipped", "contributions"),
    *("controlled", "crossed", "fed_back", "mask_of_lengths", "mean_over_time", "probed"),
    *("restarted", "scored", "shifted", "spelt", "time_first", "variational", "verdict"),
    *("windowed", "of_each_call", "with_zeros", "FACTORIES", "RECIPES", "looped", "played"),
    *("Drive", "Form", "Kernel", "Deltas", "carry_tm1", "gathered", "worth", "turned"),
}


def public():
    for namespace in (jaxrnn, diagnostics, training, transforms):
        for name, value in vars(namespace).items():
            is_call = inspect.isclass(value) or inspect.isfunction(value)
            if is_call and not name.startswith("_"):
                yield f"{namespace.__name__}.{name}", value
    for library in LIBRARIES:
        module = getattr(interop, library)
        for name, value in vars(module).items():
            is_own = inspect.isfunction(value) and value.__module__ == module.__name__
            if is_own and not name.startswith("_"):
                yield f"{module.__name__}.{name}", value


PUBLIC = dict(public())


def parameters(value):
    """Those of a call, of what is no record: a NamedTuple has fields, and no options."""
    if inspect.isclass(value) and issubclass(value, tuple):
        return []
    return list(inspect.signature(value).parameters.values())


@pytest.mark.parametrize("name", PUBLIC)
def test_params_come_first_then_carry_then_xs_and_options_by_keyword(name):
    positional = [p for p in parameters(PUBLIC[name]) if p.kind is not p.KEYWORD_ONLY]
    order = [p.name for p in positional if p.name in ("params", "carry", "xs")]
    assert order == [n for n in ("params", "carry", "xs") if n in order]
    optional = {p.name for p in positional if p.default is not p.empty}
    assert optional == OPTIONAL_ARGUMENTS.get(name, set())


def test_the_whole_surface_is_read():
    assert {"jaxrnn.gru", "jaxrnn.transforms.masked", "jaxrnn.interop.torch.read"} <= PUBLIC.keys()
    assert OPTIONAL_ARGUMENTS.keys() <= PUBLIC.keys()


def names_in(source):
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.string for t in tokens if t.type == tokenize.NAME} - {*keyword.kwlist}


def test_no_name_of_version_0_1_is_left():
    for path in sorted(ROOT.rglob("*.py")):
        left = names_in(path.read_text()) & OLD_NAMES
        assert not left, f"{path.relative_to(ROOT)}: {left}"
    assert names_in("def f(seen: Seen): return seen.carry_tm1") & OLD_NAMES == {"Seen", "carry_tm1"}
