import jax
import numpy as np
import pytest
from judge import EXACT, SINGLE, bits, drawn, like
from reference import distance

import jaxrnn
from jaxrnn.interop import onnx as interop

onnx = pytest.importorskip("onnx", reason="ONNX is a peer, not a dependency")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is what models are judged by")

from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
CELLS = {
    "elman": jaxrnn.elman(4),
    "elman relu": jaxrnn.elman(4, activation=jax.nn.relu),
    "elman softsign": jaxrnn.elman(4, activation=jax.nn.soft_sign),
    "gru": jaxrnn.gru(4),
    "gru reset before": jaxrnn.gru(4, reset_after=False),
    "lstm": jaxrnn.lstm(4),
    "peephole_lstm": jaxrnn.peephole_lstm(4),
}
NETWORKS = {
    **CELLS,
    **{f"{name}, both ways": jaxrnn.bidirectional(cell) for name, cell in CELLS.items()},
    "two activations": jaxrnn.bidirectional(CELLS["elman"], CELLS["elman relu"]),
    "stacked": jaxrnn.stacked(
        CELLS["lstm"],
        jaxrnn.dropout(0.5),
        jaxrnn.bidirectional(CELLS["gru"]),
        CELLS["elman"],
        jaxrnn.linear(2),
    ),
}
networks = pytest.mark.parametrize("name", NETWORKS)
NODES = {
    "RNN": {"operator": "RNN"},
    "RNN relu": {"operator": "RNN", "activations": ["Relu"]},
    "RNN reverse": {"operator": "RNN", "direction": "reverse", "activations": ["Softsign"]},
    "RNN both ways": {
        "operator": "RNN",
        "direction": "bidirectional",
        "activations": ["Tanh", "Relu"],
    },
    "GRU": {"operator": "GRU"},
    "GRU after": {"operator": "GRU", "linear_before_reset": 1},
    "GRU both ways": {"operator": "GRU", "direction": "bidirectional", "linear_before_reset": 1},
    "GRU named": {"operator": "GRU", "activations": ["Sigmoid", "Tanh"], "direction": "reverse"},
    "LSTM": {"operator": "LSTM"},
    "LSTM peepholes": {"operator": "LSTM", "peepholes": True},
    "LSTM both ways": {"operator": "LSTM", "direction": "bidirectional", "peepholes": True},
    "LSTM reverse": {"operator": "LSTM", "direction": "reverse"},
}


def node_model(
    sizes, operator, *, bias=True, peepholes=False, lengths=True, states=True, dtype="f", **said
):
    """A model of one node, all that it can have as constants, drawn anew."""
    t, b, i, h, seed = sizes
    draws = np.random.default_rng(seed)
    ways, gates = 1 + (said.get("direction") == "bidirectional"), GATES[operator]
    shapes = {"W": (gates * h, i), "R": (gates * h, h)}
    shapes |= {"B": (2 * gates * h,)} if bias else {}
    shapes |= {"P": (3 * h,)} if peepholes else {}
    shapes |= {"initial_h": (b, h)} if states else {}
    shapes |= {"initial_c": (b, h)} if states and operator == "LSTM" else {}
    arrays = {k: draws.normal(size=(ways, *shape)).astype(dtype) for k, shape in shapes.items()}
    if said.get("layout"):
        for name in arrays.keys() & {"initial_h", "initial_c"}:
            arrays[name] = np.swapaxes(arrays[name], 0, 1)
    if lengths:
        arrays["sequence_lens"] = draws.integers(1, t + 1, size=b).astype(np.int32)
    inputs = ["X", *(x if x in arrays else "" for x in interop.INPUTS[operator][1:])]
    node = helper.make_node(operator, inputs, ["Y", "Y_h"], name="rnn", hidden_size=h, **said)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [helper.make_tensor_value_info(name, kind, None) for name in ("X", "Y", "Y_h")]
    tensors = [numpy_helper.from_array(x, name) for name, x in arrays.items()]
    graph = helper.make_graph([node], "one node", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", interop.OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=interop.IR_VERSION)
    return model, draws.normal(size=(t, b, i)).astype(dtype)


def run(model, **given):
    return runtime.InferenceSession(model.SerializeToString()).run(None, given)


def ours(model, xs):
    """Y (T, D, B, H) and Y_h (D, B, H), as ONNX has them."""
    node = interop.read(model)
    carry, ys = jaxrnn.unroll(node.cell, node.params, xs, **node.unroll_options)
    ends = carry if isinstance(carry, jaxrnn.Directions) else [carry]
    ends = np.stack([getattr(end, "h", end) for end in ends])
    return np.stack(np.split(np.asarray(ys), len(ends), axis=-1), axis=1), ends


@pytest.mark.parametrize("case", NODES)
@pytest.mark.parametrize("bare", [False, True], ids=["all inputs", "no optional input"])
@drawn(examples=2, least=2)
def test_a_node_gives_the_numbers_of_onnxruntime(case, bare, sizes):
    options = NODES[case] | ({"bias": False, "lengths": False, "states": False} if bare else {})
    model, xs = node_model(sizes, **options)
    theirs, found = run(model, X=xs), ours(model, xs)
    assert distance(found[0], theirs[0]) < SINGLE
    assert distance(found[1], theirs[1]) < SINGLE


@pytest.mark.parametrize("operator", GATES)
def test_batch_major_states_are_turned(operator):
    # onnxruntime runs no `layout=1` on a CPU, and ONNX's reference has it for one direction.
    sizes = 5, 2, 3, 4, 0
    model, xs = node_model(sizes, operator, layout=1, lengths=False, dtype="d")
    ys = ReferenceEvaluator(model).run(None, {"X": np.swapaxes(xs, 0, 1)})[0]  # (B, T, D, H)
    assert distance(ours(model, xs)[0], np.moveaxis(ys, (0, 1, 2), (2, 0, 1))) < EXACT


@pytest.mark.parametrize("case", ["RNN", "GRU after", "GRU", "LSTM peepholes"])
def test_a_node_is_exact_in_float64(case):
    model, xs = node_model((6, 3, 2, 5, 1), **NODES[case], lengths=False, dtype="d")
    ys, ends = ReferenceEvaluator(model).run(None, {"X": xs})
    found = ours(model, xs)
    assert distance(found[0], ys) < EXACT
    assert distance(found[1], ends) < EXACT


def test_weights_may_be_constants_and_states_inputs_of_the_model():
    model, xs = node_model((4, 2, 3, 4, 0), "LSTM")
    graph = model.graph
    inputs = {"initial_h", "initial_c", "sequence_lens"}
    for tensor in [x for x in graph.initializer if x.name not in inputs]:
        graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    expected = interop.read(model)
    del graph.initializer[:]
    node = interop.read(model)
    assert node.cell == expected.cell
    assert bits(node.params) == bits(expected.params)
    assert node.unroll_options == {}
    assert xs.shape == (4, 2, 3)


@pytest.mark.parametrize("case", NODES)
def test_from_onnx_and_back_is_the_same_function(case):
    model, xs = node_model((4, 2, 3, 4, 0), **NODES[case], lengths=False, states=False)
    node = interop.read(model)
    (ys,) = run(interop.write(node.cell, node.params, **node.unroll_options), xs=xs)
    expected = np.concatenate([*np.swapaxes(run(model, X=xs)[0], 0, 1)], axis=-1)
    assert distance(ys, expected) < SINGLE


@networks
@drawn(examples=1, least=2)
def test_a_written_model_gives_our_numbers_in_onnxruntime(name, sizes):
    t, b, i, _, seed = sizes
    network = NETWORKS[name]
    params = like(network.init(jax.random.key(0), i), seed)
    xs = like(np.zeros((t, b, i), "f"), seed)
    lengths = np.random.default_rng(seed).integers(1, t + 1, size=b).astype(np.int32)
    _, ys = jaxrnn.unroll(network, params, xs)
    assert distance(run(interop.write(network, params), xs=xs)[0], ys) < SINGLE

    carry = like(network.initial_carry((b,), "float32"), seed + 1)
    model = interop.write(network, params, lengths=True, carry=True)
    given, names = {"xs": xs, "lengths": lengths}, [x.name for x in model.graph.input]
    leaves = iter(layers(carry))
    for state in [name for name in names if name[:2] in ("h_", "c_")]:
        given[state] = next(leaves)
    last, ys = jaxrnn.unroll(network, params, xs, carry=carry, lengths=lengths)
    found, *ends = run(model, **given)
    valid = (np.arange(t)[:, None] < lengths)[..., None]
    assert distance(found * valid, np.asarray(ys) * valid) < SINGLE
    assert distance(ends, layers(last)) < SINGLE


def layers(carry):
    """h_0, c_0, h_1, ... `(D, B, H)` each, of our carries."""
    if isinstance(carry, jaxrnn.Directions):
        return [np.stack(pair) for pair in zip(*map(layers_of_one, carry), strict=True)]
    if isinstance(carry, tuple) and not isinstance(carry, jaxrnn.LSTMCarry):
        return [x for part in carry for x in layers(part)]
    return [np.asarray(x)[None] for x in layers_of_one(carry)]


def layers_of_one(carry):
    return carry if isinstance(carry, jaxrnn.LSTMCarry) else [carry]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "stacked"])
def test_there_and_back_gives_the_same_bits(name):
    network = NETWORKS[name]
    params = like(network.init(jax.random.key(0), 3), 1)
    node = interop.read(interop.write(network, params))
    assert node.cell == network
    assert bits(node.params) == bits(params)


def test_reverse_comes_back():
    cell = CELLS["gru"]
    params = cell.init(jax.random.key(0), 3)
    assert interop.read(interop.write(cell, params, reverse=True)).unroll_options == {
        "reverse": True
    }


@pytest.mark.parametrize(
    ("operator", "said", "message"),
    [
        ("RNN", {"clip": 3.0}, r"clip: got 3.0, expected none"),
        ("LSTM", {"input_forget": 1}, r"input_forget: got 1, expected none"),
        ("RNN", {"activations": ["LeakyRelu"]}, r"activations: got 'leakyrelu', expected one"),
        ("RNN", {"activation_alpha": [0.5]}, r"activation_alpha: got \[0.5\], expected none"),
        ("RNN", {"activation_beta": [0.5]}, r"activation_beta: got \[0.5\], expected none"),
        ("GRU", {"activations": ["Tanh", "Tanh"]}, r"activations: got \['Tanh', 'Tanh'\], exp"),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Relu"]}, r"activations: got .*'Relu'\], "),
        ("LSTM", {"direction": "sideways"}, r"direction: got sideways, expected one of"),
        ("LSTM", {"hidden_size": 5}, r"hidden_size: got 5, expected 4"),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_what_no_cell_of_ours_has_is_named(operator, said, message):
    model, _ = node_model((1, 1, 3, 4, 0), operator)
    (node,) = model.graph.node
    for attribute in [x for x in node.attribute if x.name in said]:
        node.attribute.remove(attribute)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in said.items())
    with pytest.raises(ValueError, match=f"^{message}"):
        interop.read(model)


def without(model, name):
    for tensor in [x for x in model.graph.initializer if x.name == name]:
        model.graph.initializer.remove(tensor)
    return model


@pytest.mark.usefixtures("own_messages")
def test_a_tensor_or_node_that_does_not_fit_is_named():
    model, _ = node_model((1, 1, 3, 4, 0), "GRU")
    with pytest.raises(ValueError, match=r"^name: got 'other', which \[\] have, expected"):
        interop.read(model, name="other")
    with pytest.raises(ValueError, match=r"^R: got 'R' computed in the graph, expected a const"):
        interop.read(without(model, "R"))
    model, _ = node_model((1, 1, 3, 4, 0), "GRU")
    wrong = numpy_helper.from_array(np.zeros((1, 12, 5), "f"), "R")
    without(model, "R").graph.initializer.append(wrong)
    with pytest.raises(ValueError, match=r"^R: got float32\[12,5\], expected float32\[12,4\] for"):
        interop.read(model)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (jaxrnn.mgu(4), {}, r"cell: got mgu\(4\), expected a cell such as onnx.RNN"),
        (NETWORKS["stacked"], {"reverse": True}, r"reverse: got True, expected one Cell"),
        (jaxrnn.bidirectional(CELLS["gru"], CELLS["lstm"]), {}, r"cell: got \['gru.*one kind both"),
        (
            jaxrnn.bidirectional(CELLS["gru"], CELLS["gru reset before"]),
            {},
            r"cell: got \['gru.*one kind both",
        ),
        (jaxrnn.bidirectional(CELLS["gru"], merge=jax.numpy.add), {}, r"cell: got bidirectional"),
    ],
)
@pytest.mark.usefixtures("own_messages")
def test_what_onnx_cannot_hold_is_named(network, options, message):
    params = network.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=f"^{message}"):
        interop.write(network, params, **options)
