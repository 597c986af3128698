import jax
import numpy as np
import pytest
from judge import agrees, at_ease, bits, drawn, like

import jaxrnn
from jaxrnn.interop import equinox as interop

equinox = pytest.importorskip("equinox", reason="Equinox is a peer, not a dependency")

KINDS = [equinox.nn.GRUCell, equinox.nn.LSTMCell]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
biases = pytest.mark.parametrize("use_bias", [True, False])


def made(kind, use_bias, sizes):
    """A module, what runs it as people do, and a carry and inputs for it."""
    t, b, i, h, seed = sizes
    module = like(kind(i, h, use_bias=use_bias, key=jax.random.key(0), dtype=float), seed)

    def theirs(module, carry, xs):
        def step(carry, x):
            carry = jax.vmap(module)(x, carry)
            carry = jaxrnn.LSTMCarry(*carry) if isinstance(carry, tuple) else carry
            return carry, getattr(carry, "h", carry)

        return jax.lax.scan(step, carry, xs)

    carry = like(interop.read(module)[0].initial_carry((b,), float), seed + 1)
    return module, theirs, carry, np.random.default_rng(seed).normal(size=(t, b, i))


@kinds
@biases
@drawn(examples=2)
def test_values_and_gradients_are_those_of_equinox(kind, use_bias, sizes):
    with at_ease():
        module, theirs, carry, xs = made(kind, use_bias, sizes)
    agrees(interop.read, theirs, module, carry, xs)


@kinds
@biases
def test_there_and_back_gives_the_same_bits(kind, use_bias):
    with at_ease():
        module, *_ = made(kind, use_bias, (1, 1, 3, 4, 0))
    cell, params = interop.read(module)
    filled = interop.write(cell, params, like(module, seed=2))
    assert isinstance(filled, kind)
    assert bits(filled) == bits(module)
    assert bits(interop.read(filled)[1]) == bits(params)


def test_without_a_template_arrays_come_by_name():
    cell = jaxrnn.gru(4)
    params = cell.init(jax.random.key(0), 3)
    assert interop.write(cell, params).keys() == {"weight_ih", "weight_hh", "bias", "bias_n"}


@pytest.mark.usefixtures("own_messages")
def test_what_does_not_fit_is_named():
    module = equinox.nn.GRUCell(3, 4, key=jax.random.key(0), dtype="float32")
    wrong = equinox.tree_at(lambda m: m.bias_n, module, np.zeros(5, "float32"))
    with pytest.raises(
        ValueError, match=r"^bias_n: got float32\[5\], expected float32\[4\] for eq"
    ):
        interop.read(wrong)
    cell = jaxrnn.gru(4, reset_after=False)
    with pytest.raises(
        ValueError, match=r"^cell: got gru\(4, reset_after=False\), expected a cell"
    ):
        interop.write(cell, cell.init(jax.random.key(0), 3), module)
