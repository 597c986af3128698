"""The repr of every cell, layer, network, loop and transformation is the expression that makes it.

`parse_expression` reads it back to an equal object; loops, which are in no file, excepted.
"""

import dataclasses
import gc
import inspect
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_interchangeable
from reference import distance
from test_networks import with_gradient

import jaxrnn
from jaxrnn import LSTMCarry, transforms
from jaxrnn.expression import Expression
from jaxrnn.interop.expressions import (
    ACTIVATIONS,
    CALLABLES,
    expression_of,
    input_size_of,
    parse_expression,
)
from jaxrnn.types import Cell, Part

T, B, I, H = 5, 3, 2, 4
GRU, LSTM = jaxrnn.gru(H), jaxrnn.lstm(H)
VECTOR = jax.ShapeDtypeStruct((3,), "float32")
NATS = optax.softmax_cross_entropy_with_integer_labels
# Every public function that makes a Cell of a Cell, and calls of it.
TRANSFORMS = {
    "clip_adjoint": [
        lambda f: f(GRU, 1.0),
        lambda f: f(GRU, 2.0, elementwise=True),
        lambda f: f(GRU, np.float64(1.5)),
        lambda f: f(GRU, float("inf")),
    ],
    "detach_adjoint": [
        lambda f: f(LSTM, LSTMCarry(h=0.25, c=0.0)),
        lambda f: f(GRU, 0.5),
        lambda f: f(transforms.step_loss(LSTM, jaxrnn.linear(3), NATS), (LSTMCarry(0.1, 0.2), 0.0)),
    ],
    "masked": [
        lambda f: f(GRU),
        lambda f: f(transforms.clip_adjoint(LSTM, 1.0), fill_value=7.0),
    ],
    "probe_adjoint": [lambda f: f(GRU), lambda f: f(GRU, whole=True)],
    "recurrent_dropout": [lambda f: f(GRU, 0.25)],
    "resettable": [
        lambda f: f(GRU),
        lambda f: f(transforms.masked(LSTM), learned=True),
    ],
    "scale_adjoint": [
        lambda f: f(GRU, jnp.ones_like),
        lambda f: f(GRU, jnp.tanh, elementwise=True),
    ],
    "scale_carry_gradient": [lambda f: f(GRU)],
    "step_loss": [
        lambda f: f(GRU, jaxrnn.linear(3), NATS),
        lambda f: f(
            LSTM, jaxrnn.linear(3), optax.l2_loss, target=jax.ShapeDtypeStruct((3,), "float32")
        ),
    ],
    "variational_dropout": [lambda f: f(GRU, input_rate=0.1, state_rate=0.2)],
    "zoneout": [lambda f: f(GRU, 0.1), lambda f: f(LSTM, LSTMCarry(0.1, np.float64(0.5)))],
}
CALLS = {
    f"{name}-{i}": (name, c) for name, calls in TRANSFORMS.items() for i, c in enumerate(calls)
}
# Of what is no transformation: each expression, and the object that it makes.
PARTS = {
    **{repr(make(H)): make(H) for _, make in jaxrnn.CELLS},
    "elman(4)": jaxrnn.elman(4, activation=jnp.tanh),
    "elman(4, activation=relu)": jaxrnn.elman(4, activation=jax.nn.relu),
    "gru(4)": jaxrnn.gru(hidden_size=4, reset_after=True),
    "gru(4, reset_after=False)": jaxrnn.gru(4, reset_after=False),
    "lstm(4)": jaxrnn.lstm(4, forget_bias=1.0),
    "lstm(4, forget_bias=2.0)": jaxrnn.lstm(4, forget_bias=2.0),
    "projected_lstm(4, 2)": jaxrnn.projected_lstm(4, projection_size=2),
    "layer_norm_gru(4, epsilon=0.001)": jaxrnn.layer_norm_gru(4, epsilon=1e-3),
    "lru(4, 3, r_max=0.9)": jaxrnn.lru(4, 3, r_max=0.9),
    "linear(3)": jaxrnn.linear(output_size=3),
    "embedding(3)": jaxrnn.embedding(3),
    "dropout(0.5)": jaxrnn.dropout(rate=0.5),
    "stacked(gru(4), dropout(0.5), linear(3))": jaxrnn.stacked(
        jaxrnn.gru(4), jaxrnn.dropout(0.5), jaxrnn.linear(3)
    ),
    "bidirectional(gru(4))": jaxrnn.bidirectional(jaxrnn.gru(4)),
    "bidirectional(gru(4), lstm(4), merge=add)": jaxrnn.bidirectional(
        jaxrnn.gru(4), jaxrnn.lstm(4), merge=jnp.add
    ),
    "residual(stacked(embedding(4), gru(4)))": None,  # which takes tokens: refused
    "residual(gru(4))": jaxrnn.residual(jaxrnn.gru(4)),
}
LOOPS = {
    "truncated(4)": jaxrnn.truncated(4, 4),
    "truncated(2, 5)": jaxrnn.truncated(2, 5, loop=jaxrnn.bptt),
    "truncated(5, loop=scan)": jaxrnn.truncated(5, loop=jaxrnn.scan),
    "truncated(4, loop=checkpointed())": jaxrnn.truncated(4, loop=jaxrnn.checkpointed()),
    "checkpointed()": jaxrnn.checkpointed(levels=1),
    "checkpointed(levels=3)": jaxrnn.checkpointed(levels=3),
    "checkpointed(budget=1024)": jaxrnn.checkpointed(budget="1KiB"),
    "checkpointed(num_states=3, segment_length=2, loop=scan)": jaxrnn.checkpointed(
        num_states=3, segment_length=2, loop=jaxrnn.scan
    ),
    "cudnn()": jaxrnn.cudnn(),
    "fused(interpret=True)": jaxrnn.fused(interpret=True),
    "parallel()": jaxrnn.parallel(memory_limit="1GiB"),
    "parallel(jacobian='dense', damping=0.5, chunk=4)": jaxrnn.parallel(
        jacobian="dense", damping=0.5, chunk=4
    ),
}


def takes_and_returns_a_cell(value):
    if inspect.isclass(value):
        return issubclass(value, Cell)
    signature = inspect.signature(value)
    taken = [str(p.annotation) for p in signature.parameters.values()][:1]
    return "Cell" in str(signature.return_annotation) and any("Cell" in text for text in taken)


def test_no_transformation_is_forgotten():
    public = {
        name
        for name, value in vars(transforms).items()
        if (inspect.isfunction(value) or inspect.isclass(value)) and not name.startswith("_")
        if takes_and_returns_a_cell(value)
    }
    assert public == TRANSFORMS.keys()


def test_no_part_is_forgotten():
    """Each public class or function that makes a Part can stand in an expression."""
    makers = {
        name
        for name, value in vars(jaxrnn).items()
        if inspect.isclass(value) and issubclass(value, Part) and not inspect.isabstract(value)
    }
    assert {"gru", "linear", "stacked"} <= makers
    made = {text.split("(")[0] for text in PARTS}
    assert makers == made
    assert CALLABLES.keys() >= makers | TRANSFORMS.keys()


@pytest.mark.parametrize("text", PARTS)
def test_a_part_prints_as_the_expression_that_makes_it(text):
    part = PARTS[text]
    if part is None:
        with pytest.raises(ValueError, match="expected one that takes features"):
            parse_expression(text)
        return
    assert repr(part) == text
    assert_interchangeable(parse_expression(repr(part)), part)
    assert_interchangeable(parse_expression(expression_of(part)), part)


@pytest.mark.parametrize("text", LOOPS)
def test_a_loop_prints_as_the_expression_that_makes_it(text):
    loop = LOOPS[text]
    assert repr(loop) == text
    made = eval(text, {name: getattr(jaxrnn, name) for name in dir(jaxrnn)})
    assert_interchangeable(made, loop)


def test_a_loop_that_draws_prints_without_its_key_and_equals_itself_alone():
    """Keys are arrays: they may be traced and have no hash."""
    first, second = (jaxrnn.randomized(jax.random.key(0), 0.5) for _ in range(2))
    assert repr(first) == "randomized(0.5)"
    assert first == first
    assert first != second
    assert hash(first) == hash(first)


def test_no_loop_is_forgotten():
    loops = {
        name
        for name, value in vars(jaxrnn).items()
        if inspect.isclass(value) and issubclass(value, Expression) and not issubclass(value, Part)
    }
    assert loops == {text.split("(")[0] for text in LOOPS} | {"randomized"}


@pytest.mark.parametrize(("name", "call"), CALLS.values(), ids=CALLS)
def test_a_transformation_prints_and_is_read_back(name, call):
    cell = call(getattr(transforms, name))
    assert isinstance(cell, Cell)
    assert_interchangeable(call(getattr(transforms, name)), cell)
    assert expression_of(cell).startswith(f"{name}(")
    assert_interchangeable(parse_expression(expression_of(cell)), cell)
    assert_interchangeable(parse_expression(repr(cell)), cell)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    assert input_size_of(cell, params) == I
    net = jaxrnn.stacked(jaxrnn.dropout(0.1), jaxrnn.residual(cell))
    assert parse_expression(expression_of(net)) == net


def test_equal_arguments_however_written_are_one_cell():
    first = transforms.clip_adjoint(GRU, 1.0)
    assert_interchangeable(first, transforms.clip_adjoint(step=GRU, limit=1.0, elementwise=False))
    assert_interchangeable(transforms.masked(GRU, fill_value=0.0), transforms.masked(GRU))
    assert transforms.scale_adjoint(GRU, jnp.ones_like) != transforms.clip_adjoint(GRU, 1.0)


@pytest.mark.usefixtures("own_messages")
def test_an_int_for_a_float_is_the_same_number():
    assert_interchangeable(jaxrnn.lstm(4, forget_bias=1), jaxrnn.lstm(4))
    assert_interchangeable(jaxrnn.dropout(0), jaxrnn.dropout(0.0))
    assert_interchangeable(transforms.zoneout(GRU, 0), transforms.zoneout(GRU, 0.0))
    assert_interchangeable(transforms.clip_adjoint(GRU, 1), transforms.clip_adjoint(GRU, 1.0))
    assert_interchangeable(transforms.masked(GRU, fill_value=0), transforms.masked(GRU))
    assert repr(jaxrnn.lstm(4, forget_bias=1)) == "lstm(4)"
    assert repr(transforms.masked(GRU, fill_value=0)) == "masked(gru(4))"
    assert repr(transforms.zoneout(GRU, np.float64(0.5))) == "zoneout(gru(4), 0.5)"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_function_prints_by_a_name_that_is_read(name):
    cell = jaxrnn.elman(H, activation=ACTIVATIONS[name])
    for text in (repr(cell), expression_of(cell), f"elman({H}, activation={name})"):
        assert_interchangeable(parse_expression(text), cell)


def test_a_transformation_of_a_plain_step_prints_its_name():
    """It is no Part, so no file holds it."""

    def step(params, carry, x):
        return carry, x

    assert repr(transforms.masked(step)) == "masked(step)"
    assert repr(transforms.clip_adjoint(step, 1.0)) == "clip_adjoint(step, 1.0)"
    assert repr(transforms.probe_adjoint(step)) == "probe_adjoint(step)"
    assert repr(transforms.autoregressive(GRU, jnp.add)) == "autoregressive(gru(4), add)"


PLAIN = ["clip_adjoint", "masked", "probe_adjoint", "resettable", "scale_adjoint"]
MORE = {"clip_adjoint": (1.0,), "scale_adjoint": (jnp.ones_like,)}


@pytest.mark.parametrize("name", [*PLAIN, "scale_carry_gradient"])
def test_a_plain_step_is_not_kept(name):
    """It may close over traced values, and over all of a data set."""

    def step(params, carry, x):
        return carry, x

    assert not isinstance(getattr(transforms, name)(step, *MORE.get(name, ())), Cell)
    kept = weakref.ref(step)
    del step
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("wrap", ["clip_adjoint", "masked", "resettable"])
def test_a_file_gives_back_its_values_and_gradients(wrap, tmp_path):
    files = pytest.importorskip("jaxrnn.interop.safetensors")
    cell = (
        TRANSFORMS[wrap][-1](getattr(transforms, wrap))
        if wrap != "clip_adjoint"
        else transforms.clip_adjoint(GRU, 0.1)
    )
    params = cell.init(jax.random.key(0), I, jnp.float64)
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.standard_normal((T, B, I)))
    mask, reset = (jnp.asarray(rng.random((T, B)) < 0.5) for _ in range(2))
    masked = transforms.MaskedInputs(xs, mask)
    xs = {"clip_adjoint": xs, "masked": masked}.get(wrap, transforms.ResetInputs(masked, reset))
    files.save(tmp_path / "cell", cell, params)
    loaded, same = files.load(tmp_path / "cell")
    assert_interchangeable(loaded, cell)

    def run(params):
        return jaxrnn.unroll(loaded, params, xs)

    assert distance(with_gradient(run, same), with_gradient(run, params)) == 0


@dataclasses.dataclass(frozen=True, repr=False)
class scaled_gru(jaxrnn.gru):
    """A user's own, whose name no reader of a file knows."""


@pytest.mark.usefixtures("own_messages")
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            transforms.scale_adjoint(GRU, lambda size: 0.9),
            "cell: got <function <lambda> at .* in it, expe",
        ),
        (
            transforms.step_loss(GRU, jaxrnn.linear(3), lambda o, y: o.sum(-1)),
            "cell: got <function <lambda> at .* in it, expected one of tanh, ",
        ),
        (
            transforms.zoneout(scaled_gru(4), 0.1),
            "cell: got scaled_gru, expected one that jaxrnn d",
        ),
    ],
)
def test_what_has_no_expression_says_so(cell, message, tmp_path):
    files = pytest.importorskip("jaxrnn.interop.safetensors")
    params = cell.init(jax.random.key(0), I)
    with pytest.raises(ValueError, match=f"^{message}"):
        files.save(tmp_path / "cell", cell, params)
