import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judge import EXACT, bits, drawn, gradients, like, same

import jaxrnn
from jaxrnn.interop import torch as interop

torch = pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")

KINDS = {"RNN": torch.nn.RNN, "GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}
VARIANTS = {
    "RNN": {},
    "RNN relu deep": {"nonlinearity": "relu", "num_layers": 2},
    "GRU": {},
    "GRU both ways": {"bidirectional": True},
    "GRU without bias": {"bias": False},
    "LSTM": {},
    "LSTM deep, both ways": {"num_layers": 2, "bidirectional": True},
    "LSTM projected": {"proj_size": 2},
    "LSTM projected, deep, both ways": {"proj_size": 1, "num_layers": 3, "bidirectional": True},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def module_of(variant, i, h, seed=0):
    """In float64, with random biases."""
    torch.manual_seed(seed)
    options = dict(VARIANTS[variant])
    h = max(h, options.get("proj_size", 0) + 1)
    return KINDS[variant.split()[0]](i, h, **options).double()


def arrays(state):
    return {name: x.detach().numpy() for name, x in state.items()}


def states(carry):
    """PyTorch's h_0, or (h_0, c_0): the leaves of ours, stacked."""
    leaves = [torch.tensor(np.array(x), requires_grad=True) for x in jax.tree.leaves(carry)]
    lstm = any(isinstance(x, jaxrnn.LSTMCarry) for x in jax.tree.leaves(carry, is_leaf=is_lstm))
    if not lstm:
        return leaves, torch.stack(leaves)
    return leaves, (torch.stack(leaves[::2]), torch.stack(leaves[1::2]))


def is_lstm(carry):
    return isinstance(carry, jaxrnn.LSTMCarry)


def unstacked(last, carry):
    """The inverse of `states`: PyTorch's last states in the order of our leaves."""
    if isinstance(last, tuple):
        return [x for pair in zip(*last, strict=True) for x in pair]
    return [*last]


def held(module, carry, xs, run, lengths=None):
    """PyTorch's values and gradients against ours, whose gradient goes through `read`."""
    leaves, start = states(carry)
    inputs = torch.tensor(np.array(xs), requires_grad=True)
    last, ys = run(inputs, start)
    theirs = [*unstacked(last, carry), ys]
    cotangents = [np.asarray(v) for v in like([x.detach().numpy() for x in theirs], seed=5)]
    sum((x * torch.tensor(v)).sum() for x, v in zip(theirs, cotangents, strict=True)).backward()

    def ours(tensors, carry, xs):
        cell, params = interop.read(tensors, nonlinearity=getattr(module, "nonlinearity", "tanh"))
        return jaxrnn.unroll(cell, params, xs, carry=carry, lengths=lengths)

    made, grads = gradients(ours, cotangents, arrays(module.state_dict()), carry, xs)
    same([x.detach().numpy() for x in theirs], [*jax.tree.leaves(made)], EXACT)
    of_params = {name: x.grad.numpy() for name, x in module.named_parameters()}
    of_carry = jax.tree.unflatten(jax.tree.structure(carry), [x.grad.numpy() for x in leaves])
    same((of_params, of_carry, inputs.grad.numpy()), grads, EXACT)


@variants
@drawn(examples=2)
def test_values_and_gradients_are_those_of_pytorch(variant, sizes):
    t, b, i, h, seed = sizes
    module = module_of(variant, i, h, seed)
    cell, _ = interop.read(module)
    carry = like(cell.initial_carry((b,), float), seed)
    xs = np.random.default_rng(seed).normal(size=(t, b, i))
    held(module, carry, xs, lambda xs, start: module(xs, start)[::-1])


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
def test_values_and_gradients_are_those_of_a_single_step(kind):
    module = getattr(torch.nn, kind)(3, 4).double()
    cell, _ = interop.read(module)

    def run(xs, start):
        start = tuple(x[0] for x in start) if isinstance(start, tuple) else start[0]
        carry = module(xs[0], start)
        pair = carry if isinstance(carry, tuple) else (carry,)
        last = tuple(x[None] for x in pair) if isinstance(carry, tuple) else carry[None]
        return last, pair[0][None]

    held(module, like(cell.initial_carry((2,), float), 1), like(np.zeros((1, 2, 3)), 2), run)


@pytest.mark.parametrize("variant", ["RNN", "GRU both ways", "LSTM deep, both ways"])
def test_a_ragged_batch_is_a_packed_sequence(variant):
    lengths = np.array([5, 1, 4])
    module = module_of(variant, 3, 4)
    cell, _ = interop.read(module)

    def run(xs, start):
        pack = torch.nn.utils.rnn.pack_padded_sequence
        packed, last = module(pack(xs, torch.tensor(lengths), enforce_sorted=False), start)
        return last, torch.nn.utils.rnn.pad_packed_sequence(packed, total_length=len(xs))[0]

    carry, xs = like(cell.initial_carry((3,), float), 1), like(np.zeros((7, 3, 3)), 2)
    held(module, carry, xs, run, lengths=jnp.asarray(lengths))


@variants
def test_there_and_back_gives_the_same_bits(variant):
    cell, form = interop.read(module_of(variant, 3, 4))
    params = like(form, seed=3)
    if "without bias" in variant:
        params = {**params, "b": jnp.zeros(12), "b_n": jnp.zeros(4)}
    module = module_of(variant, 3, 4, seed=1)
    module.load_state_dict(interop.write(cell, params, module), strict=True)
    assert bits(interop.read(module)[1]) == bits(params)
    assert interop.read(module)[0] == cell


@variants
def test_from_pytorch_and_back_is_the_same_function(variant):
    module, other = module_of(variant, 3, 4), module_of(variant, 3, 4, seed=1)
    other.load_state_dict(interop.write(*interop.read(module), module.state_dict()), strict=True)
    xs = torch.tensor(like(np.zeros((6, 2, 3)), 2))
    same(module(xs)[0].detach().numpy(), other(xs)[0].detach().numpy(), EXACT)


def test_a_name_prefix_finds_one_module_of_a_larger_model():
    model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4), "out": torch.nn.Linear(4, 2)})
    cell, params = interop.read(model.state_dict(), prefix="rnn.")
    assert cell == jaxrnn.gru(4)
    assert bits(params) == bits(interop.read(model["rnn"])[1])
    with pytest.raises(
        ValueError, match=r"^rnn.weight_ih_l0: got torch.float32\[12,3\], expected names"
    ):
        interop.read(model.state_dict())


def test_dropout_stands_between_the_layers():
    network, _ = interop.read(torch.nn.LSTM(3, 4, num_layers=2, dropout=0.25))
    assert network == jaxrnn.stacked(jaxrnn.lstm(4), jaxrnn.dropout(0.25), jaxrnn.lstm(4))
    assert interop.write(*interop.read(torch.nn.LSTM(3, 4, num_layers=2, dropout=0.25)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype_comes_and_goes_bit_by_bit(dtype):
    module = torch.nn.GRU(3, 4, bias=False).to(dtype)
    cell, params = interop.read(module)
    assert str(dtype) == f"torch.{params['w_x'].dtype}"
    back = interop.write(cell, params, module)
    assert all(torch.equal(back[name], x) for name, x in module.state_dict().items())


def changed(state, **tensors):
    return {name: x for name, x in {**state, **tensors}.items() if x is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight_hh_l0": None}, r"weight_hh_l0: got none, expected .* for torch.GRU"),
        ({"bias_hh_l0": None}, r"bias_hh_l0: got none, expected float32\[12\] for torch.GRU"),
        ({"weight_hh_l0": np.zeros((12, 5), "f")}, r"weight_hh_l0: got float32\[12,5\], exp"),
        ({"bias_ih_l0": np.zeros(12)}, r"bias_ih_l0: got float64\[12\], expected float32\[12\]"),
        ({"weight_ih_l0": np.zeros(12, "f")}, r"weight_ih_l0: got float32\[12\], expected a mat"),
        ({"weight_ih_l0": np.zeros((12, 3), int)}, r"weight_ih_l0: got int64, expected a float"),
        ({"weight_ih_l0": "text"}, r"weight_ih_l0: got <class 'str'>, expected a floating"),
        ({"weight_ih_l1": np.zeros((12, 4), "f")}, r"weight_hh_l1: got none"),
        ({"weight_ih_l0_reverse": np.zeros((12, 3), "f")}, r"weight_hh_l0_reverse: got none"),
        ({"gamma": np.zeros(3)}, r"gamma: got float64\[3\], expected names such as weight_ih_l0"),
        (dict.fromkeys(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")), "source: "),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_a_tensor_that_does_not_fit_is_named(tensors, message):
    state = torch.nn.GRU(3, 4).state_dict()
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        interop.read(changed(state, **tensors))


@pytest.mark.parametrize(
    ("cell", "target", "message"),
    [
        (jaxrnn.gru(4, reset_after=False), torch.nn.GRU(3, 4), r"cell: got gru\(4, reset_after=F"),
        (jaxrnn.elman(4, activation=jax.nn.softplus), torch.nn.RNN(3, 4), r"cell: got elman\(4, a"),
        (jaxrnn.elman(4, activation=jax.nn.relu), torch.nn.RNN(3, 4), r"cell: got elman\(4, activ"),
        (jaxrnn.mgu(4), torch.nn.GRU(3, 4), r"cell: got mgu\(4\), expected a cell such as torch"),
        (
            jaxrnn.lstm(4),
            torch.nn.GRU(3, 4),
            r"weight_hh_l0: got float32\[12,4\], .* for torch.LSTM",
        ),
        (jaxrnn.gru(4), torch.nn.GRU(3, 5), r"like\['bias_hh_l0'\]: got float32\[15\], expected "),
        (jaxrnn.gru(4), torch.nn.GRU(3, 4).double(), r"like\['bias_hh_l0'\]: got float64\[12\], "),
        (jaxrnn.bidirectional(jaxrnn.gru(4)), torch.nn.GRUCell(3, 4), r"weight_ih_l0: got none"),
        (jaxrnn.gru(4), torch.nn.GRU(3, 4, 2), r"like: got \['_l1'\] too, expected 1 layers"),
        (jaxrnn.lstm(4), torch.nn.LSTM(3, 4, bias=False), r"params\['b'\]: got float32\[16\], exp"),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_what_pytorch_cannot_hold_is_named(cell, target, message):
    params = cell.init(jax.random.key(0), 3)
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        interop.write(cell, params, target)


@pytest.mark.usefixtures("own_messages")
def test_float64_is_never_rounded_in_silence():
    with (
        jax.enable_x64(False),
        pytest.raises(TypeError, match=r"^bias_hh_l0: got torch.float64\[12\], .*jax_enable_x64"),
    ):
        interop.read(torch.nn.GRU(3, 4).double())
