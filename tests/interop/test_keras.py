import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judge import SINGLE, at_ease, bits, drawn, gradients, like, same

import jaxrnn
from jaxrnn.interop import keras as interop

os.environ["KERAS_BACKEND"] = "jax"
keras = pytest.importorskip("keras", reason="Keras is a peer, not a dependency")

KINDS = {
    "SimpleRNN": {},
    "SimpleRNN, relu": {"activation": "relu"},
    "SimpleRNN, without bias": {"use_bias": False},
    "GRU": {},
    "GRU, reset before": {"reset_after": False},
    "GRU, reset before, without bias": {"reset_after": False, "use_bias": False},
    "GRU, without bias": {"use_bias": False},
    "LSTM": {"unit_forget_bias": False},
    "LSTM, unit forget bias": {},
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _single():
    """Keras takes tanh of float64 in float32, and its carries change their dtype."""
    with jax.enable_x64(False):
        yield


def layer_of(kind, i, h, **options):
    """With random weights."""
    kind, more = kind.split(",")[0], KINDS.get(kind, {})
    layer = getattr(keras.layers, kind)(
        h, return_sequences=True, return_state=True, dtype="float32", **more, **options
    )
    layer.build((None, None, i))
    layer.set_weights(like([*named(layer).values()], seed=0))
    return layer


def named(layer):
    return {weight.name: weight.value for weight in layer.weights}


def with_weights(layer, weights):
    """A layer as `read` sees it, with arrays in its place that can be differentiated."""
    held = [types.SimpleNamespace(name=name, value=x) for name, x in weights.items()]
    return types.SimpleNamespace(cell=layer.cell, weights=held)


def held(layer, carry, xs, mask=None):
    """Keras' own stateless call, and ours, on `(T, B, I)`."""

    def theirs(weights, carry, xs):
        given = [weights[weight.name] for weight in layer.trainable_variables]
        state = list(carry) if isinstance(carry, tuple) else [carry]
        options = {} if mask is None else {"mask": jnp.asarray(mask.T)}
        fixed = [x.value for x in layer.non_trainable_variables]
        (ys, *last), _ = layer.stateless_call(
            given, fixed, jnp.swapaxes(xs, 0, 1), initial_state=state, **options
        )
        return (jaxrnn.LSTMCarry(*last) if len(last) == 2 else last[0]), valid(ys)

    def ours(weights, carry, xs):
        cell, params = interop.read(with_weights(layer, weights))
        options = {} if mask is None else {"mask": jnp.asarray(mask)}
        carry, ys = jaxrnn.unroll(cell, params, xs, carry=carry, **options)
        return carry, valid(jnp.swapaxes(ys, 0, 1))

    def valid(ys):
        return ys if mask is None else ys[mask.T]  # where Keras repeats, ours are zero

    args = named(layer), carry, xs
    with at_ease():
        made = jax.eval_shape(theirs, *args)
        cotangents = jax.tree.leaves(like(made, seed=7))
        expected = gradients(theirs, cotangents, *args)
        same(expected, gradients(ours, cotangents, *args), SINGLE)


@kinds
@drawn(examples=2, least=2)
def test_values_and_gradients_are_those_of_keras(kind, sizes):
    t, b, i, h, seed = sizes
    with at_ease():
        layer = layer_of(kind, i, h)
    carry = like(interop.read(layer)[0].initial_carry((b,), "float32"), seed)
    held(layer, carry, like(np.zeros((t, b, i), "float32"), seed))


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_masked_steps_are_those_of_keras(kind):
    with at_ease():
        layer = layer_of(kind, 3, 4)
    carry = like(interop.read(layer)[0].initial_carry((2,), "float32"), 1)
    mask = np.array([[True, True], [True, True], [True, False], [False, False]])
    held(layer, carry, like(np.zeros((4, 2, 3), "float32"), 2), mask)


@kinds
def test_there_and_back_gives_the_same_bits(kind):
    with at_ease():
        layer, other = layer_of(kind, 3, 4), layer_of(kind, 3, 4)
    cell, params = interop.read(layer)
    params = like(params, seed=3)
    params |= {b: jnp.zeros_like(params[b]) for b in params if b[0] == "b" and "out" in kind}
    other.set_weights(interop.write(cell, params, other))
    assert bits(interop.read(other)) == bits((cell, params))
    assert interop.read(other.cell)[0] == cell


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GRU", {"activation": "relu"}),
        ("SimpleRNN", {"activation": "elu"}),
        ("LSTM", {"recurrent_activation": "hard_sigmoid"}),
        ("LSTM", {"dropout": 0.5}),
        ("GRU", {"recurrent_dropout": 0.5}),
        ("GRU", {"go_backwards": True}),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_what_no_cell_of_ours_has_is_named(kind, options):
    (attribute,) = options
    with at_ease():
        layer = layer_of(kind, 3, 4, **options)
    with pytest.raises(ValueError, match=f"^{attribute}: got .*, expected "):
        interop.read(layer)


@pytest.mark.usefixtures("own_messages")
def test_what_a_layer_cannot_hold_is_named():
    with at_ease():
        gru, dense = layer_of("GRU", 3, 4), keras.layers.Dense(4)
    before = jaxrnn.gru(4, reset_after=False)
    params = before.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"^cell: got gru\(4, reset_after=False\), expected"):
        interop.write(before, params, gru)
    with pytest.raises(ValueError, match=r"^module: got Dense, expected one of keras.SimpleRNN"):
        interop.read(dense)
