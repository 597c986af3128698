import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judge import agrees, at_ease, bits, drawn, like

import jaxrnn
from jaxrnn.interop import flax as interop

flax = pytest.importorskip("flax", reason="Flax is a peer, not a dependency")

from flax import linen, nnx  # noqa: E402

LINEN = [
    linen.SimpleCell,
    linen.GRUCell,
    linen.LSTMCell,
    linen.OptimizedLSTMCell,
    linen.MGUCell,
]
NNX = [nnx.SimpleCell, nnx.GRUCell, nnx.LSTMCell, nnx.OptimizedLSTMCell]


def named(kind):
    return f"{kind.__module__.split('.')[1]}.{kind.__name__}"


def swapped(carry):
    """Flax has (c, h) where ours has (h, c)."""
    return (carry.c, carry.h) if isinstance(carry, jaxrnn.LSTMCarry) else carry


def back(carry):
    return jaxrnn.LSTMCarry(*carry[::-1]) if isinstance(carry, tuple) else carry


def made(kind, sizes, **options):
    """A cell, its parameters, what runs it, and a carry and inputs for it."""
    t, b, i, h, seed = sizes
    xs = np.random.default_rng(seed).normal(size=(t, b, i))
    if issubclass(kind, nnx.Module):
        cell = kind(i, h, rngs=nnx.Rngs(seed), param_dtype=float, dtype=float, **options)
        form, params = nnx.split(cell)
        run = lambda params, carry, xs: nnx.RNN(  # noqa: E731
            nnx.merge(form, params), time_major=True, return_carry=True
        )(xs, initial_carry=swapped(carry))
    else:
        cell = kind(h, param_dtype=float, **options)
        rnn = linen.RNN(cell, time_major=True, return_carry=True)
        params = rnn.init(jax.random.key(seed), xs)["params"]["cell"]
        run = lambda params, carry, xs: rnn.apply(  # noqa: E731
            {"params": {"cell": params}}, xs, initial_carry=swapped(carry)
        )
    params = like(params, seed)

    def theirs(params, carry, xs):
        carry, ys = run(params, carry, xs)
        return back(carry), ys

    ours, _ = interop.read(params, cell)
    return cell, params, theirs, like(ours.initial_carry((b,), float), seed + 1), xs


@pytest.mark.parametrize("kind", [*LINEN, *NNX], ids=named)
@drawn(examples=3)
def test_values_and_gradients_are_those_of_flax(kind, sizes):
    with at_ease():
        cell, params, theirs, carry, xs = made(kind, sizes)
    agrees(lambda p: interop.read(p, cell), theirs, params, carry, xs)


@pytest.mark.parametrize("kind", [*LINEN, *NNX], ids=named)
def test_there_and_back_gives_the_same_bits(kind):
    with at_ease():
        module, theirs, *_ = made(kind, (1, 1, 3, 4, 0))
    cell, params = interop.read(theirs, module)  # of an MGU r = z, of nnx's GRU b_n = 0
    filled = interop.write(cell, params, theirs, module)
    assert jax.tree.structure(filled) == jax.tree.structure(theirs)
    assert bits(filled) == bits(theirs)
    assert bits(interop.read(filled, module)) == bits((cell, params))


def test_without_a_template_names_are_those_of_linen():
    cell = jaxrnn.lstm(4)
    params = cell.init(jax.random.key(0), 3)
    assert interop.write(cell, params).keys() >= {"ii.kernel", "ho.kernel", "hf.bias"}
    assert bits(interop.read(interop.write(cell, params))) == bits((cell, params))


def test_any_activation_of_a_simple_cell_is_kept():
    cell, params, theirs, carry, xs = made(
        linen.SimpleCell, (4, 2, 3, 4, 0), activation_fn=jax.nn.relu
    )
    assert interop.read(params, cell)[0] == jaxrnn.elman(4, activation=jax.nn.relu)
    agrees(lambda p: interop.read(p, cell), theirs, params, carry, xs)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (linen.GRUCell, {"gate_fn": jax.nn.hard_sigmoid}),
        (linen.LSTMCell, {"activation_fn": jax.nn.relu}),
        (linen.MGUCell, {"reset_gate": False}),
        (linen.SimpleCell, {"residual": True}),
        (linen.SimpleCell, {"activation_fn": jnp.sin}),
    ],
    ids=lambda value: named(value) if isinstance(value, type) else "",
)
def test_what_no_cell_of_ours_has_is_named(kind, options):
    (attribute,) = options
    with at_ease(), pytest.raises(ValueError, match=f"^{attribute}: got .*, expected .* for flax"):
        made(kind, (1, 1, 3, 4, 0), **options)


def test_gates_that_share_a_tensor_are_written_only_if_they_are_equal():
    module, theirs, *_ = made(linen.MGUCell, (1, 1, 3, 4, 0))
    cell, params = interop.read(theirs, module)
    params["w_h"] = params["w_h"] * jnp.arange(12.0)[None]  # r no longer z
    with pytest.raises(ValueError, match=r"^params\['w_h'\]: .*flax.MGUCell can hold"):
        interop.write(cell, params, theirs, module)


def test_a_bias_that_flax_lacks_has_to_be_zero():
    with at_ease():
        module, theirs, *_ = made(nnx.GRUCell, (1, 1, 3, 4, 0))
    cell, params = interop.read(theirs, module)
    with pytest.raises(ValueError, match=r"^params\['b_n'\]: .*flax.GRUCell can hold"):
        interop.write(cell, {**params, "b_n": jnp.ones(4)}, theirs, module)
