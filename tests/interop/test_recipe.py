"""Whatever returns a Cell records how it was made: it is expression_of, and read back the same object."""

import gc
import inspect
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import distance
from test_networks import with_gradient

import jaxrnn
from jaxrnn import LSTMCarry
from jaxrnn.interop.expressions import expression_of, input_size_of, parse_expression
from jaxrnn.types import Cell

T, B, I, H = 5, 3, 2, 4
GRU, LSTM = jaxrnn.gru(H), jaxrnn.lstm(H)
NATS = optax.softmax_cross_entropy_with_integer_labels
# Every public function that makes a Cell of a Cell, and calls of it.
TRANSFORMS = {
    "candidate_dropout": [lambda f: f(GRU, 0.25)],
    "clipped": [
        lambda f: f(GRU, 1.0),
        lambda f: f(GRU, 2.0, elementwise=True),
        lambda f: f(GRU, np.float64(1.5)),
        lambda f: f(GRU, float("inf")),
    ],
    "controlled": [
        lambda f: f(GRU),
        lambda f: f(GRU, jnp.tanh, elementwise=True),
        lambda f: f(LSTM, cut=LSTMCarry(h=0.25, c=0.0)),
        lambda f: f(GRU, cut=0.5),
        lambda f: f(
            jaxrnn.transforms.step_loss(LSTM, jaxrnn.linear(3), NATS),
            cut=(LSTMCarry(0.1, 0.2), 0.0),
        ),
    ],
    "crossed": [lambda f: f(GRU)],
    "masked": [
        lambda f: f(GRU),
        lambda f: f(jaxrnn.transforms.clip_adjoint(LSTM, 1.0), fill_value=7.0),
    ],
    "probed": [lambda f: f(GRU), lambda f: f(GRU, whole=True)],
    "restarted": [lambda f: f(GRU), lambda f: f(jaxrnn.transforms.masked(LSTM), learned=True)],
    "scored": [
        lambda f: f(GRU, jaxrnn.linear(3), NATS),
        lambda f: f(LSTM, jaxrnn.linear(3), optax.l2_loss, jax.ShapeDtypeStruct((3,), "float32")),
    ],
    "variational": [lambda f: f(GRU, inputs=0.1, state=0.2)],
    "zoneout": [lambda f: f(GRU, 0.1), lambda f: f(LSTM, LSTMCarry(0.1, np.float64(0.5)))],
}
CALLS = {
    f"{name}-{i}": (name, c) for name, calls in TRANSFORMS.items() for i, c in enumerate(calls)
}


def takes_and_returns_a_cell(function):
    signature = inspect.signature(function)
    taken = [str(p.annotation) for p in signature.parameters.values()][:1]
    return "Cell" in str(signature.return_annotation) and any("Cell" in text for text in taken)


def test_no_transformation_is_forgotten():
    public = {
        name
        for name, value in vars(jaxrnn).items()
        if inspect.isfunction(value) and takes_and_returns_a_cell(value)
    }
    assert public == TRANSFORMS.keys()


@pytest.mark.parametrize(("name", "call"), CALLS.values(), ids=CALLS)
def test_it_is_spelt_and_read_back(name, call):
    cell = call(getattr(jaxrnn, name))
    assert isinstance(cell, Cell)
    assert call(getattr(jaxrnn, name)) is cell
    assert expression_of(cell).startswith(f"{name}(")
    assert parse_expression(expression_of(cell)) is cell
    params = cell.init(jax.random.key(0), I, jnp.float64)
    assert input_size_of(cell, params) == I
    net = jaxrnn.stacked(jaxrnn.dropout(0.1), jaxrnn.residual(cell))
    assert parse_expression(expression_of(net)) == net


def test_equal_arguments_however_written_are_one_cell():
    assert jaxrnn.transforms.clip_adjoint(GRU, 1.0) is jaxrnn.transforms.clip_adjoint(
        step=GRU, limit=1.0, elementwise=False
    )
    assert jaxrnn.transforms.masked(GRU, fill_value=0.0) is jaxrnn.transforms.masked(GRU)
    assert jaxrnn.transforms.scale_adjoint(GRU) is not jaxrnn.transforms.clip_adjoint(GRU, 1.0)


@pytest.mark.parametrize(
    "name", ["clipped", "controlled", "crossed", "masked", "probed", "restarted"]
)
def test_a_plain_step_is_not_kept(name):
    """It may close over traced values, and over all of a data set."""

    def step(params, carry, x):
        return carry, x

    more = (1.0,) if name == "clipped" else ()
    assert not isinstance(getattr(jaxrnn, name)(step, *more), Cell)
    kept = weakref.ref(step)
    del step
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("wrap", ["clipped", "masked", "restarted"])
def test_a_file_gives_back_its_values_and_gradients(wrap, tmp_path):
    files = pytest.importorskip("jaxrnn.interop.safetensors")
    cell = (
        TRANSFORMS[wrap][-1](getattr(jaxrnn, wrap))
        if wrap != "clipped"
        else jaxrnn.transforms.clip_adjoint(GRU, 0.1)
    )
    params = cell.init(jax.random.key(0), I, jnp.float64)
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.standard_normal((T, B, I)))
    mask, reset = (jnp.asarray(rng.random((T, B)) < 0.5) for _ in range(2))
    xs = {"clipped": xs, "masked": jaxrnn.transforms.MaskedInputs(xs, mask)}.get(
        wrap, jaxrnn.transforms.ResetInputs(jaxrnn.transforms.MaskedInputs(xs, mask), reset)
    )
    files.save(tmp_path / "cell", cell, params)
    loaded, same = files.load(tmp_path / "cell")
    assert loaded is cell

    def run(params):
        return jaxrnn.unroll(loaded, params, xs)

    assert distance(with_gradient(run, same), with_gradient(run, params)) == 0


@pytest.mark.usefixtures("own_messages")
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            jaxrnn.transforms.scale_adjoint(GRU, lambda size: 0.9),
            "cell: got <function <lambda> at .* in it, expe",
        ),
        (
            jaxrnn.transforms.step_loss(GRU, jaxrnn.linear(3), lambda o, y: o.sum(-1)),
            "cell: got <function <lambda> at .* in it, expected one of tanh, ",
        ),
        (
            jaxrnn.transforms.zoneout(GRU, {"h": 0.1}),
            "cell: got Cell, expected one that a factory of jaxrnn ma",
        ),
    ],
)
def test_what_has_no_expression_says_so(cell, message, tmp_path):
    files = pytest.importorskip("jaxrnn.interop.safetensors")
    params = cell.init(jax.random.key(0), I)
    with pytest.raises(ValueError, match=f"^{message}"):
        files.save(tmp_path / "cell", cell, params)
