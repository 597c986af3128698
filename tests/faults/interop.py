"""Faults in the exchange of parameters with other libraries and with files."""

from faults.planting import fault

TABLES, LAYOUT, LAYERS, ONNX = (
    f"interop/{name}" for name in ("layouts.toml", "layout.py", "recurrent_layers.py", "onnx.py")
)
TORCH, FLAX, HAIKU, KERAS, OF_ONNX = (
    f"interop/test_{name}.py::test" for name in ("torch", "flax", "haiku", "keras", "onnx")
)
OF_TORCH = f"{TORCH}_values_and_gradients_are_those_of_pytorch"
OF_HAIKU = f"{HAIKU}_values_and_gradients_are_those_of_haiku"

TABLE_FAULTS = (
    fault(TABLES, "", "z and r of b_hh swapped", "b.rz b_n", "b.zr b_n", f"{OF_TORCH}[GRU]"),
    fault(TABLES, "", "z not turned", "{}.w_i = w_x.-zrn", "{}.w_i = w_x.zrn", f"{OF_HAIKU}[GRU]"),
    fault(
        TABLES,
        "",
        "no 1 at the forget gate",
        "offsets = [0.0, 1.0",
        "offsets = [0.0, 0.0",
        f"{OF_HAIKU}[LSTM]",
    ),
    fault(
        TABLES,
        "",
        "second bias of Keras in another order",
        "b.zrn / b.zr b_n",
        "b.zrn / b.rz b_n",
        f"{KERAS}_values_and_gradients_are_those_of_keras[GRU]",
    ),
    fault(
        TABLES,
        "",
        "peepholes in another order",
        "p_i p_o p_f",
        "p_i p_f p_o",
        f"{OF_ONNX}_a_node_gives_the_numbers_of_onnxruntime[all inputs-LSTM peepholes]",
    ),
)

LAYOUT_FAULTS = (
    fault(
        LAYOUT,
        "Layout.to_tensors",
        "a shared gate read once",
        "tensors[name] += tensor",
        "pass",
        f"{FLAX}_values_and_gradients_are_those_of_flax[linen.MGUCell]",
    ),
    fault(
        LAYOUT,
        "Layout.to_tensors.block",
        "both biases written",
        "if not repeat and key in written:",
        "if False:",
        f"{TORCH}_there_and_back_gives_the_same_bits[GRU]",
    ),
    fault(
        LAYOUT,
        "write",
        "what cannot be held is written",
        "np.allclose(",
        "True or np.allclose(",
        f"{FLAX}_a_bias_that_flax_lacks_has_to_be_zero",
    ),
    fault(
        LAYOUT,
        "write",
        "offset added twice",
        "layout.subtract_offsets(params)",
        "layout.add_offsets(params)",
        f"{HAIKU}_there_and_back_gives_the_same_bits[LSTM]",
    ),
    fault(
        LAYOUT,
        "tensors_of.array",
        "float64 rounded",
        "canonicalize_dtype(dtype) == dtype",
        "canonicalize_dtype(dtype) is not None",
        "interop/test_safetensors.py::test_float64_is_never_rounded_in_silence",
    ),
    fault(
        LAYERS,
        "join_layers",
        "directions swapped",
        "Directions(*params)",
        "Directions(*params[::-1])",
        f"{OF_TORCH}[GRU both ways]",
    ),
    fault(
        LAYERS,
        "join_layers",
        "dropout left out",
        "if parts and dropout_rate:",
        "if False:",
        f"{TORCH}_dropout_stands_between_the_layers",
    ),
    fault(
        ONNX,
        "read",
        "states not turned",
        'int(bool(attributes.get("layout")))',
        "0",
        f"{OF_ONNX}_batch_major_states_are_turned",
    ),
    fault(
        "interop/stablehlo.py",
        "_by_name",
        "params in another order",
        "for name in names",
        "for name in names[::-1]",
        "interop/test_stablehlo.py::test_programs_compute_the_same[deep-open]",
    ),
    fault(
        "interop/stablehlo.py",
        "write.sequence",
        "a carry forgotten",
        "carry=whole, ",
        "",
        "interop/test_stablehlo.py::test_a_sequence_goes_on_from_its_carry",
    ),
)

FAULTS = (*TABLE_FAULTS, *LAYOUT_FAULTS)
