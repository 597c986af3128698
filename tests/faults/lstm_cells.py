"""Faults in the LSTM, and in those with a projection, with peepholes, with layer normalisation."""

from faults.planting import LAWS, Fault, backward, fault, forward

LSTM, PROJECTED, PEEPHOLE = (
    f"cells/{name}.py" for name in ("lstm", "projected_lstm", "peephole_lstm")
)
LAYER_NORM_LSTM, NORM = "cells/layer_norm_lstm.py", "cells/norm.py"

LSTM_FAULTS = (
    backward(LSTM, "update_memory_adjoint", "sign of δ_i", "i * (1 - i)", "i * (i - 1)", "lstm"),
    backward(LSTM, "update_memory_adjoint", "sign of δ_f", "f * (1 - f)", "f * (f - 1)", "lstm"),
    backward(LSTM, "update_memory_adjoint", "sign of δ_g", "(1 - g * g)", "(g * g - 1)", "lstm"),
    backward(
        LSTM,
        "update_memory_adjoint",
        "c_t for c_{t-1}",
        "residuals.previous_carry.c",
        "residuals.carry.c",
        "lstm",
    ),
    backward(LSTM, "output_adjoint", "sign of δ_o", "o * (1 - o)", "o * (o - 1)", "lstm"),
    backward(
        LSTM,
        "output_adjoint",
        "L5 left out",
        "d_carry.c + d_carry.h * o * (1 - m * m)",
        "d_carry.c",
        "lstm",
    ),
    backward(LSTM, "output_adjoint", "slope of tanh(c) left out", "o * (1 - m * m)", "o", "lstm"),
    backward(LSTM, "lstm_adjoint", "f left out of μ", "d_c * residuals.saved.f", "d_c", "lstm"),
    backward(
        LSTM,
        "lstm_adjoint",
        "gates swapped",
        "join_gates(*delta)",
        "join_gates(*delta[::-1])",
        "lstm",
    ),
    backward(
        LSTM,
        "lstm_gradients",
        "h_t for h_{t-1}",
        "residuals.previous_carry.h",
        "residuals.carry.h",
        "lstm",
    ),
    Fault(
        "gates swapped",
        LSTM,
        "update_memory",
        (
            ("    i = sigmoid(x.i + p.i)", "    i = sigmoid(x.f + p.f)"),
            ("    f = sigmoid(x.f + p.f)", "    f = sigmoid(x.i + p.i)"),
        ),
        f"{LAWS}_forward_equals_the_equations_in_numpy[lstm]",
    ),
    forward(LSTM, "update_memory", "forget gate left out", "f * c_tm1", "c_tm1", "lstm"),
    forward(LSTM, "lstm_advance", "tanh of c left out", "o * tanh(c)", "o * c", "lstm"),
    fault(
        LSTM,
        "LSTMCell.initial_carry",
        "c narrow",
        "kernels.at_least_float32(dtype)",
        "dtype",
        "cells/test_lstm_variants.py::test_a_memory_sums_up_in_float32",
    ),
)

PROJECTED_FAULTS = (
    backward(
        PROJECTED,
        "projected_lstm.prepare",
        "projection turned",
        "w_p.T",
        "w_p.T[::-1]",
        "projected_lstm",
    ),
    backward(
        PROJECTED,
        "projected_lstm._adjoint",
        "sign of σ",
        "d_s = kernels",
        "d_s = -kernels",
        "projected_lstm",
    ),
    backward(
        PROJECTED,
        "projected_lstm._adjoint",
        "μ left out",
        "d_s, d_carry.c",
        "d_s, 0 * d_carry.c",
        "projected_lstm",
    ),
    backward(
        PROJECTED,
        "projected_lstm._gradients",
        "∂W_p without o",
        "residuals.saved.o * tanh",
        "tanh",
        "projected_lstm",
    ),
    backward(
        PROJECTED,
        "projected_lstm._gradients",
        "h_t for h_{t-1}",
        "lstm_gradients(w.w_h, residuals,",
        "lstm_gradients(w.w_h, residuals._replace(previous_carry=residuals.carry),",
        "projected_lstm",
    ),
    forward(
        PROJECTED,
        "projected_lstm._advance",
        "projection of the memory",
        "kernels.dot(s,",
        "kernels.dot(c,",
        "projected_lstm",
    ),
)

PEEPHOLE_FAULTS = (
    backward(
        PEEPHOLE,
        "peephole_lstm._adjoint",
        "p_o left out of μ",
        " + kernels.scale(delta_o, w.p_o)",
        "",
        "peephole_lstm",
    ),
    backward(
        PEEPHOLE,
        "peephole_lstm._adjoint",
        "p left out of μ_{t-1}",
        " + d_peepholes",
        "",
        "peephole_lstm",
    ),
    backward(
        PEEPHOLE,
        "peephole_lstm._adjoint",
        "p_i for p_f",
        "(delta.f, w.p_f)",
        "(delta.f, w.p_i)",
        "peephole_lstm",
    ),
    backward(
        PEEPHOLE,
        "peephole_lstm._gradients",
        "c_{t-1} for c_t",
        "deltas.o * c",
        "deltas.o * c_tm1",
        "peephole_lstm",
    ),
    backward(
        PEEPHOLE,
        "peephole_lstm._gradients",
        "c_t for c_{t-1}",
        "deltas.f * c_tm1",
        "deltas.f * c",
        "peephole_lstm",
    ),
    forward(
        PEEPHOLE,
        "peephole_lstm._advance",
        "o sees c_{t-1}",
        "scale(c, w.p_o)",
        "scale(carry.c, w.p_o)",
        "peephole_lstm",
    ),
    Fault(
        "peepholes swapped",
        PEEPHOLE,
        "peephole_lstm._advance",
        (
            (
                "peephole_i = kernels.scale(carry.c, w.p_i)",
                "peephole_i = kernels.scale(carry.c, w.p_f)",
            ),
            (
                "peephole_f = kernels.scale(carry.c, w.p_f)",
                "peephole_f = kernels.scale(carry.c, w.p_i)",
            ),
        ),
        f"{LAWS}_forward_equals_the_equations_in_numpy[peephole_lstm]",
    ),
)

LAYER_NORM_LSTM_FAULTS = (
    backward(
        NORM,
        "Normalized.adjoint",
        "mean g left out",
        "g - mean_g",
        "g",
        "layer_norm_lstm",
    ),
    backward(
        NORM,
        "Normalized.adjoint",
        "1/σ left out",
        " * self.inverse_std",
        "",
        "layer_norm_lstm",
    ),
    backward(
        NORM,
        "product_adjoint",
        "gain_h left out",
        "kernels.scale(d_gained, gain_h)",
        "d_gained",
        "layer_norm_lstm",
    ),
    backward(
        LAYER_NORM_LSTM,
        "layer_norm_lstm._adjoint",
        "gain_c left out",
        "kernels.scale(d_k, w.gain_c)",
        "d_k",
        "layer_norm_lstm",
    ),
    backward(
        LAYER_NORM_LSTM,
        "layer_norm_lstm._adjoint",
        "norm of c_{t-1}",
        "residuals.carry.c",
        "residuals.previous_carry.c",
        "layer_norm_lstm",
    ),
    backward(
        LAYER_NORM_LSTM,
        "layer_norm_lstm._adjoint",
        "slope of the last tanh",
        " * (1 - m * m)",
        "",
        "layer_norm_lstm",
    ),
    backward(
        LAYER_NORM_LSTM,
        "layer_norm_lstm._gradients",
        "∂gain_c of c",
        "norm.normalize(residuals.carry.c, self.epsilon).values",
        "residuals.carry.c",
        "layer_norm_lstm",
    ),
    forward(NORM, "normalize", "ε left out", "variance + epsilon", "variance", "layer_norm_lstm"),
    forward(
        LAYER_NORM_LSTM,
        "_squash",
        "bias of ĉ left out",
        "kernels.add_bias(kernels.scale(c_hat, w.gain_c), w.b_c)",
        "kernels.scale(c_hat, w.gain_c)",
        "layer_norm_lstm",
    ),
)

FAULTS = (*LSTM_FAULTS, *PROJECTED_FAULTS, *PEEPHOLE_FAULTS, *LAYER_NORM_LSTM_FAULTS)
