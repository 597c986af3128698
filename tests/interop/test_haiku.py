import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judge import agrees, at_ease, bits, drawn, like

import jaxrnn
from jaxrnn.interop import haiku as interop

haiku = pytest.importorskip("haiku", reason="Haiku is a peer, not a dependency")

KINDS = {
    "VanillaRNN": {},
    "VanillaRNN, one bias": {"double_bias": False},
    "GRU": {},
    "LSTM": {},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def made(kind, sizes, name=None):
    """Haiku's parameters, what runs them, and a carry and inputs for it."""
    t, b, i, h, seed = sizes
    xs = np.random.default_rng(seed).normal(size=(t, b, i))
    kind, options = kind.split(",")[0], KINDS[kind] | ({"name": name} if name else {})

    def run(carry, xs):
        core = getattr(haiku, kind)(h, **options)
        lstm = isinstance(carry, jaxrnn.LSTMCarry)
        ys, last = haiku.dynamic_unroll(core, xs, haiku.LSTMState(*carry) if lstm else carry)
        return (jaxrnn.LSTMCarry(*last) if lstm else last), ys

    pure = haiku.without_apply_rng(haiku.transform(run))
    cell = jaxrnn.lstm(h) if kind == "LSTM" else jaxrnn.gru(h)
    carry = like(cell.initial_carry((b,), float), seed + 1)
    params = like(pure.init(jax.random.key(0), carry, xs), seed)
    return params, pure.apply, carry, xs


@kinds
@drawn(examples=3)
def test_values_and_gradients_are_those_of_haiku(kind, sizes):
    with at_ease():
        params, theirs, carry, xs = made(kind, sizes)
    agrees(interop.read, theirs, params, carry, xs)


@kinds
def test_there_and_back_gives_the_same_bits(kind):
    with at_ease():
        theirs, *_ = made(kind, (1, 1, 3, 4, 0))
    cell, params = interop.read(theirs)
    params = like(params, seed=3)
    back = interop.read(interop.write(cell, params, theirs))[1]
    if kind == "LSTM":  # of which 1 is taken and added
        forget = back["b"][4:8], params["b"][4:8]
        assert np.max(np.abs(forget[0] - forget[1])) <= np.finfo(float).eps
        back["b"] = params["b"]
    assert bits(back) == bits(params)


def test_from_haiku_and_back_is_the_same_function():
    with at_ease():
        theirs, run, carry, xs = made("VanillaRNN", (3, 2, 3, 4, 0))
        back = interop.write(*interop.read(theirs), theirs)
        assert not np.any(back["vanilla_rnn/linear_1"]["b"])
        np.testing.assert_allclose(run(theirs, carry, xs)[1], run(back, carry, xs)[1], rtol=1e-12)


@pytest.mark.parametrize("kind", ["GRU", "VanillaRNN"])
def test_a_core_of_a_larger_model_is_found_by_its_name(kind):
    with at_ease():
        theirs, *_ = made(kind, (1, 1, 3, 4, 0), name="memory")
    model = {**theirs, "memory_gate": {"w": jnp.ones((2, 2))}, "head/linear": {"b": jnp.ones(3)}}
    cell, params = interop.read(model, name="memory")
    written = interop.write(cell, params, model, name="memory")
    assert jax.tree.structure(written) == jax.tree.structure(theirs)
    assert bits(interop.read(written, name="memory")) == bits((cell, params))
    assert all(name.startswith("memory") for name in interop.write(cell, params, name="memory"))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lstm/linear": {"w": np.zeros((7, 16))}}, r"lstm/linear.b: got none, expected float64"),
        ({"lstm/linear": {"w": np.zeros((7, 16)), "b": np.zeros(12)}}, r"lstm/linear.b: got float"),
        ({"lstm/linear": {"w": np.zeros((2, 16)), "b": np.zeros(16)}}, r"lstm/linear.w: got float"),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_a_tensor_that_does_not_fit_is_named(tensors, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        interop.read(tensors)


@pytest.mark.parametrize("cell", [jaxrnn.elman(4), jaxrnn.gru(4), jaxrnn.peephole_lstm(4)])
@pytest.mark.usefixtures("own_messages")
def test_a_cell_that_haiku_lacks_is_named(cell):
    with pytest.raises(ValueError, match=r"^cell: got \w+\(4.*\), expected a cell such as haiku"):
        interop.write(cell, cell.init(jax.random.key(0), 3))
