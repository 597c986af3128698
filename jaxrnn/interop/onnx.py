"""ONNX: reads the operators RNN, GRU and LSTM of a model, and writes models with them.

The package `onnx` is imported only when a model is read or written.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrnn import check
from jaxrnn.cells import LSTMCarry, elman
from jaxrnn.interop import layout
from jaxrnn.interop.expressions import expression_of, input_size_of
from jaxrnn.interop.recurrent_layers import Layer, join_layers, split_layers
from jaxrnn.layers import linear
from jaxrnn.networks import Directions
from jaxrnn.types import Params, Part

# The first version whose operators have all attributes that are used here, and the version of the
# file format of that time.
OPSET = 14
IR_VERSION = 8
INPUTS = {"RNN": ["X", "W", "R", "B", "sequence_lens", "initial_h"]}
INPUTS |= {"GRU": INPUTS["RNN"], "LSTM": [*INPUTS["RNN"], "initial_c", "P"]}
ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
# Attributes that no cell of jaxrnn has.
UNSUPPORTED = "clip", "activation_alpha", "activation_beta", "input_forget"

LAYOUTS = layout.load_layouts("onnx")


class Node(NamedTuple):
    """A recurrent node of a model: `unroll(node.cell, node.params, xs, **node.unroll_options)`.

    Fields:
        cell: a Cell, or `bidirectional` of two.
        params: the parameters of the cell.
        unroll_options: the arguments `carry`, `lengths` and `reverse` of `unroll`, as far as they
            are constants of the model.
    """

    cell: Part
    params: Params
    unroll_options: dict[str, Any]


def load(path: Path | str, *, name: str | None = None) -> Node:
    """Reads a recurrent node of a model in a file; see `read`.

    Args:
        path: the path of an ONNX file.
        name: the name of the node; needed if there are several RNN, GRU and LSTM nodes.

    Returns:
        A Node.

    Raises:
        OSError: if the file cannot be read.
        ValueError, TypeError: if the file is not an ONNX model, and for the reasons of `read`.
    """
    import onnx
    from google.protobuf.message import DecodeError

    check.require_path("path", path)
    try:
        return read(onnx.load(path), name=name)
    except DecodeError as error:
        raise ValueError(f"path: got {str(path)!r} ({error}), expected a model of ONNX") from None


def read(model: Any, *, name: str | None = None) -> Node:
    """Returns a recurrent node of a model: the cell, its parameters, and options of `unroll`.

    Args:
        model: an `onnx.ModelProto`.
        name: the name of the node; needed if there are several RNN, GRU and LSTM nodes.

    Returns:
        A Node. Inputs of jaxrnn are time-major for both values of the attribute `layout`. Lengths
        and initial states that are not constants of the model are not part of the Node; pass them
        to `unroll`.

    Raises:
        ValueError, TypeError: with the name of the attribute that no cell of jaxrnn has, or of the
            tensor that is missing, surplus, of a wrong shape or dtype, or computed in the graph.
    """
    from onnx import helper, numpy_helper

    check.require_type(hasattr(model, "graph"), "model", model, "an onnx.ModelProto")
    nodes = [n for n in model.graph.node if n.op_type in INPUTS and name in (None, n.name)]
    got = f"{name!r}, which {[node.name for node in nodes]} have"
    check.require(len(nodes) == 1, "name", got, "that of one RNN, GRU or LSTM")
    (node,) = nodes
    operator = node.op_type
    attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
    for attribute in UNSUPPORTED:
        value = attributes.get(attribute)
        check.require(not value, attribute, value, "none")
    direction = attributes.get("direction", b"forward").decode()
    check.require(direction in DIRECTIONS, "direction", direction, f"one of {[*DIRECTIONS]}")

    constants = {x.name: x for x in model.graph.initializer}
    for other in model.graph.node:
        if other.op_type == "Constant":
            constants[other.output[0]] = other.attribute[0].t
    inputs = {role: x for role, x in zip(INPUTS[operator], node.input, strict=False) if x}
    arrays = {
        role: numpy_helper.to_array(constants[x]) for role, x in inputs.items() if x in constants
    }
    weights = sorted(inputs.keys() & {"W", "R", "B", "P"})
    for role in weights:
        check.require(role in arrays, role, f"{inputs[role]!r} computed in the graph", "a constant")

    reset_after = bool(attributes.get("linear_before_reset"))
    layouts = [x for x in LAYOUTS if x.name == f"onnx.{operator}"]
    # Both variants of a GRU have tensors of the same shapes.
    layouts = [x for x in layouts if x.options.get("reset_after", reset_after) == reset_after]
    defaults = ACTIVATIONS[operator]
    # One list for both directions, one direction after the other.
    activations = [x.decode() for x in attributes.get("activations", ())] or defaults * 2
    layer: Layer = []
    for index in range(DIRECTIONS[direction]):
        chosen = activations[index * len(defaults) :][: len(defaults)]
        if operator == "RNN":
            layouts = layout.with_activation(layouts, "activations", chosen[0].lower())
        else:
            check.require(chosen == defaults, "activations", chosen, f"{defaults} for {operator}")
        layer.append(layout.read(layouts, {role: arrays[role][index] for role in weights}))
    hidden_size = attributes.get("hidden_size")
    size = len(layer[0][1]["w_h"])
    check.require(hidden_size in (None, size), "hidden_size", hidden_size, f"{size}, as of R")

    unroll_options: dict[str, Any] = {}
    if direction == "reverse":
        unroll_options["reverse"] = True
    if "sequence_lens" in arrays:
        unroll_options["lengths"] = jnp.asarray(arrays["sequence_lens"])
    if "initial_h" in arrays:
        # With layout=1, the axis of directions comes after the batch.
        direction_axis = int(bool(attributes.get("layout")))
        initial_h = arrays["initial_h"]
        initial_c = arrays.get("initial_c", np.zeros_like(initial_h))
        h = jnp.moveaxis(jnp.asarray(initial_h), direction_axis, 0)
        c = jnp.moveaxis(jnp.asarray(initial_c), direction_axis, 0)
        carries = [*h]
        if operator == "LSTM":
            carries = [*map(LSTMCarry, h, c)]
        unroll_options["carry"] = carries[0]
        if len(carries) == 2:
            unroll_options["carry"] = Directions(*carries)
    return Node(*join_layers([layer]), unroll_options)


def write(
    cell: Part, params: Params, *, reverse: bool = False, lengths: bool = False, carry: bool = False
) -> Any:
    """Returns an ONNX model that computes the same function as a cell or network.

    Args:
        cell: `elman` with an activation that ONNX has, `gru`, `lstm`, `peephole_lstm`, a
            bidirectional network of these, or a stack of these, also with `linear` at the end.
        params: the parameters of the cell, in float16, float32 or float64. Not every runtime
            supports all three.
        reverse: as in `unroll`; for a single Cell only.
        lengths: whether the model has the input `lengths`, int32 `(B,)`.
        carry: whether the model has its initial states as inputs and its last states as outputs.
            The inputs are `h_0` for layer 0 and so on, for an LSTM also `c_0`; the outputs are
            `h_0_last` and `c_0_last`. Each is `(D, B, H)`, where D is 2 for both directions.
            Without `carry`, the initial states are zero.

    Returns:
        An `onnx.ModelProto` with the input `xs`, `(T, B, I)`, and the output `ys`, `(T, B, O)`.

    Raises:
        ValueError: if ONNX has no such cell.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    size = input_size_of(cell, params)
    for name, value in (("reverse", reverse), ("lengths", lengths), ("carry", carry)):
        check.require_bool(name, value)
    float_dtype = check.float_dtype(params)
    is_supported = float_dtype in (np.float16, np.float32, np.float64)
    got = f"the dtype {float_dtype}"
    expected = "one that ONNX's operators have"
    check.require(is_supported, "params", got, expected)

    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(float_dtype))
    constants: dict[str, Any] = {"joined": [0, 0, -1]}  # a shape that joins the last two axes
    inputs: dict[str, list[Any]] = {"xs": ["T", "B", size]}
    outputs: dict[str, list[Any]] = {"ys": ["T", "B", None]}
    nodes = []
    xs = "xs"
    layers = split_layers(cell, params)
    is_cell = len(layers[0]) == len(layers) == 1
    check.require(not reverse or is_cell, "reverse", reverse, "one Cell")

    def add(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        """Adds a node to the graph; returns the name of its first output."""
        nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs[0]

    for index, layer in enumerate(layers):
        if isinstance(layer[0][0], linear):
            ((_, linear_params),) = layer
            constants |= {f"{name}_{index}": x for name, x in linear_params.items()}
            xs = add("MatMul", [xs, f"w_o_{index}"], [f"product_{index}"])
            xs = add("Add", [xs, f"b_o_{index}"], [f"x_{index}"])
            continue
        operator, attributes, arrays = _operator_of(layer)
        if reverse:
            attributes["direction"] = "reverse"
        constants |= {f"{role}_{index}": x for role, x in arrays.items()}
        names = {"X": xs, **{role: f"{role}_{index}" for role in arrays}}
        if lengths:
            names["sequence_lens"] = "lengths"
        states = [f"h_{index}"]
        if operator == "LSTM":
            states.append(f"c_{index}")
        if carry:
            names |= dict(zip(("initial_h", "initial_c"), states, strict=False))
            shape = [len(layer), "B", attributes["hidden_size"]]
            inputs |= dict.fromkeys(states, shape)
            outputs |= {f"{state}_last": shape for state in states}
        results = [f"y_{index}", *(f"{state}_last" for state in states)]
        arguments = [names.get(role, "") for role in INPUTS[operator]]
        xs = add(operator, arguments, results, **attributes)
        # The operator's output is (T, D, B, H). A layer of ours reads (T, B, D·H).
        xs = add("Transpose", [xs], [f"transposed_{index}"], perm=[0, 2, 1, 3])
        xs = add("Reshape", [xs, "joined"], [f"x_{index}"])
    add("Identity", [xs], ["ys"])

    make_info = helper.make_tensor_value_info
    input_infos = [make_info(name, dtype, shape) for name, shape in inputs.items()]
    output_infos = [make_info(name, dtype, shape) for name, shape in outputs.items()]
    if lengths:
        input_infos.append(make_info("lengths", TensorProto.INT32, ["B"]))
    tensors = [numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()]
    graph = helper.make_graph(nodes, "jaxrnn", input_infos, output_infos, tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return model


def _operator_of(layer: Layer) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Returns a layer's operator, its attributes, and its tensors with an axis of directions."""
    layouts = [layout.select_by_cell(LAYOUTS, cell)[0] for cell, _ in layer]
    variants = {(x.name, *x.options.items(), len(x.rows)) for x in layouts}
    got = [repr(cell) for cell, _ in layer]
    check.require(len(variants) == 1, "cell", got, "one kind both ways")
    tensors = [layout.write(LAYOUTS, cell, params) for cell, params in layer]
    attributes: dict[str, Any] = {"hidden_size": tensors[0]["R"].shape[-1]}
    attributes["direction"] = "forward"
    if len(layer) == 2:
        attributes["direction"] = "bidirectional"
    operator = layouts[0].name.removeprefix("onnx.")
    if operator == "GRU":
        attributes["linear_before_reset"] = int(layouts[0].options["reset_after"])
    if operator == "RNN":
        activations = [cell.activation for cell, _ in layer if isinstance(cell, elman)]
        attributes["activations"] = [expression_of(f).capitalize() for f in activations]
    return operator, attributes, {role: np.stack([x[role] for x in tensors]) for role in tensors[0]}
