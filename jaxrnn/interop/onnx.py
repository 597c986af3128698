"""ONNX: the operators RNN, GRU and LSTM, read out of a model, and a model written of them.

The package `onnx` is imported where a model is read or written, and not before.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrnn import check
from jaxrnn.cells import LSTMCarry
from jaxrnn.interop import layout
from jaxrnn.interop.expressions import expression_of, input_size_of
from jaxrnn.interop.layers import Layer, joined, layers_of
from jaxrnn.layers import linear
from jaxrnn.networks import Directions
from jaxrnn.types import Params

OPSET, IR_VERSION = 14, 8  # the first whose operators have all these attributes, and its time's
INPUTS = {"RNN": ["X", "W", "R", "B", "sequence_lens", "initial_h"]}
INPUTS |= {"GRU": INPUTS["RNN"], "LSTM": [*INPUTS["RNN"], "initial_c", "P"]}
ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
ABSENT = "clip", "activation_alpha", "activation_beta", "input_forget"  # from all cells of ours

LAYOUTS = layout.layouts("onnx")


class Node(NamedTuple):
    """What a node of a model does: `unroll(node.cell, node.params, xs, **node.how)`.

    Fields:
        cell: a Cell, or `bidirectional` of two.
        params: its parameters.
        how: of `carry`, `lengths` and `reverse` those that the model fixes.
    """

    cell: Any
    params: Params
    how: dict[str, Any]


def load(path: Path | str, name: str | None = None) -> Node:
    """What `read` makes of a file; OSError, or ValueError if it is no model."""
    import onnx
    from google.protobuf.message import DecodeError

    check.require_path("path", path)
    try:
        return read(onnx.load(path), name)
    except DecodeError as error:
        raise ValueError(f"path: got {str(path)!r} ({error}), expected a model of ONNX") from None


def read(model: Any, name: str | None = None) -> Node:
    """A recurrent node of a model: its cell, its parameters, and how they are run.

    Args:
        model: an `onnx.ModelProto`.
        name: of the node; needed where there are several of RNN, GRU and LSTM.

    Returns:
        A Node. Inputs are time first whatever `layout` says. Lengths and initial states that are
        no constants of the model are for the user to give to `unroll`.

    Raises:
        ValueError, TypeError: naming the attribute that no cell of ours has, or the tensor that is
            missing, surplus, of a wrong form, or computed in the graph.
    """
    from onnx import helper, numpy_helper

    check.require_type(hasattr(model, "graph"), "model", model, "an onnx.ModelProto")
    nodes = [n for n in model.graph.node if n.op_type in INPUTS and name in (None, n.name)]
    got = f"{name!r}, which {[node.name for node in nodes]} have"
    check.require(len(nodes) == 1, "name", got, "that of one RNN, GRU or LSTM")
    (node,), operator = nodes, nodes[0].op_type
    said = {x.name: helper.get_attribute_value(x) for x in node.attribute}
    for attribute in ABSENT:
        check.require(not said.get(attribute), attribute, said.get(attribute), "none")
    direction = said.get("direction", b"forward").decode()
    check.require(direction in DIRECTIONS, "direction", direction, f"one of {[*DIRECTIONS]}")

    known = {x.name: x for x in model.graph.initializer}
    known |= {x.output[0]: x.attribute[0].t for x in model.graph.node if x.op_type == "Constant"}
    inputs = {role: x for role, x in zip(INPUTS[operator], node.input, strict=False) if x}
    arrays = {role: numpy_helper.to_array(known[x]) for role, x in inputs.items() if x in known}
    weights = sorted(inputs.keys() & {"W", "R", "B", "P"})
    for role in weights:
        check.require(role in arrays, role, f"{inputs[role]!r} computed in the graph", "a constant")

    after = bool(said.get("linear_before_reset"))
    layouts = [x for x in LAYOUTS if x.name == f"onnx.{operator}"]
    layouts = [x for x in layouts if x.options.get("reset_after", after) == after]
    default = ACTIVATIONS[operator]
    activations = [x.decode() for x in said.get("activations", ())] or default * 2
    layer = []
    for way in range(DIRECTIONS[direction]):
        of_way = activations[way * len(default) :][: len(default)]
        if operator == "RNN":
            layouts = layout.activated(layouts, "activations", of_way[0].lower())
        else:
            check.require(of_way == default, "activations", of_way, f"{default} for {operator}")
        layer.append(layout.read(layouts, {role: arrays[role][way] for role in weights}))
    hidden_size, size = said.get("hidden_size"), len(layer[0][1]["w_h"])
    check.require(hidden_size in (None, size), "hidden_size", hidden_size, f"{size}, as of R")
    how: dict[str, Any] = {"reverse": True} if direction == "reverse" else {}
    if "sequence_lens" in arrays:
        how["lengths"] = jnp.asarray(arrays["sequence_lens"])
    if "initial_h" in arrays:
        axis = 1 if said.get("layout") else 0
        h = jnp.moveaxis(jnp.asarray(arrays["initial_h"]), axis, 0)
        c = jnp.moveaxis(jnp.asarray(arrays.get("initial_c", 0 * arrays["initial_h"])), axis, 0)
        carries = [*map(LSTMCarry, h, c)] if operator == "LSTM" else [*h]
        how["carry"] = Directions(*carries) if len(carries) == 2 else carries[0]
    return Node(*joined([layer]), how)


def write(
    cell: Any, params: Params, *, reverse: bool = False, lengths: bool = False, carry: bool = False
) -> Any:
    """An `onnx.ModelProto` that has the function of a cell or network.

    Args:
        cell: `elman` of an activation that has a name in ONNX, `gru`, `lstm`, `peephole_lstm`, or
            these in both directions, or stacked, with a `readout` at the end or without.
        params: its parameters, of float16, float32 or float64; not every runtime has all three.
        reverse: as in `unroll`; of one Cell.
        lengths: whether the model has the input `lengths`, int32 `(B,)`.
        carry: whether it has the inputs `h_0` (of layer 0, and so on) and of an LSTM `c_0`, each
            `(D, B, H)` where D is 2 in both directions, and the outputs `h_0_last`, `c_0_last`; it
            begins with zeros otherwise.

    Returns:
        The model; its input `xs` is `(T, B, I)` and its output `ys (T, B, O)`.

    Raises:
        ValueError: if ONNX has no such cell.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    size = input_size_of(cell, params)
    for name, value in (("reverse", reverse), ("lengths", lengths), ("carry", carry)):
        check.require_bool(name, value)
    of_params = check.float_dtype(params)
    known = of_params in (np.float16, np.float32, np.float64)
    check.require(known, "params", f"the dtype {of_params}", "one that ONNX's operators have")

    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(of_params))
    constants: dict[str, Any] = {"joined": [0, 0, -1]}
    inputs: dict[str, list[Any]] = {"xs": ["T", "B", size]}
    outputs: dict[str, list[Any]] = {"ys": ["T", "B", None]}
    nodes, xs = [], "xs"
    layers = layers_of(cell, params)
    check.require(not reverse or len(layers[0]) == len(layers) == 1, "reverse", reverse, "one Cell")

    def add(operator: str, given: list[str], made: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, given, made, **attributes))
        return made[0]

    for index, layer in enumerate(layers):
        if isinstance(layer[0][0], linear):
            ((_, of_readout),) = layer
            constants |= {f"{name}_{index}": x for name, x in of_readout.items()}
            xs = add("MatMul", [xs, f"w_o_{index}"], [f"product_{index}"])
            xs = add("Add", [xs, f"b_o_{index}"], [f"x_{index}"])
            continue
        operator, attributes, arrays = _operator(layer)
        attributes |= {"direction": "reverse"} if reverse else {}
        constants |= {f"{role}_{index}": x for role, x in arrays.items()}
        names = {"X": xs, **{role: f"{role}_{index}" for role in arrays}}
        names |= {"sequence_lens": "lengths"} if lengths else {}
        states = [f"h_{index}", f"c_{index}"] if operator == "LSTM" else [f"h_{index}"]
        if carry:
            names |= dict(zip(("initial_h", "initial_c"), states, strict=False))
            shape = [len(layer), "B", attributes["hidden_size"]]
            inputs |= dict.fromkeys(states, shape)
            outputs |= {f"{state}_last": shape for state in states}
        ends = [f"y_{index}", *(f"{state}_last" for state in states)]
        xs = add(operator, [names.get(role, "") for role in INPUTS[operator]], ends, **attributes)
        xs = add("Transpose", [xs], [f"turned_{index}"], perm=[0, 2, 1, 3])  # (T, B, D, H)
        xs = add("Reshape", [xs, "joined"], [f"x_{index}"])
    add("Identity", [xs], ["ys"])
    info = helper.make_tensor_value_info
    given, made = ([info(k, dtype, x) for k, x in named.items()] for named in (inputs, outputs))
    given += [info("lengths", TensorProto.INT32, ["B"])] if lengths else []
    tensors = [numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()]
    graph = helper.make_graph(nodes, "jaxrnn", given, made, tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return model


def _operator(layer: Layer) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The operator of a layer, its attributes, and its tensors with an axis of directions."""
    layouts = [layout.holding(LAYOUTS, cell)[0] for cell, _ in layer]
    kinds = {(x.name, *x.options.items(), len(x.rows)) for x in layouts}
    check.require(
        len(kinds) == 1, "cell", [expression_of(cell) for cell, _ in layer], "one kind both ways"
    )
    written = [layout.write(LAYOUTS, cell, params) for cell, params in layer]
    attributes: dict[str, Any] = {"hidden_size": written[0]["R"].shape[-1]}
    attributes["direction"] = "bidirectional" if len(layer) == 2 else "forward"
    if (operator := layouts[0].name.removeprefix("onnx.")) == "GRU":
        attributes["linear_before_reset"] = int(layouts[0].options["reset_after"])
    if operator == "RNN":
        names = (expression_of(cell.activation) for cell, _ in layer)
        attributes["activations"] = [name.capitalize() for name in names]
    return operator, attributes, {r: np.stack([x[r] for x in written]) for r in written[0]}
