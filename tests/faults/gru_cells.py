"""Faults in the GRU, in both its variants, in the MGU, and in the GRU with layer normalisation."""

from faults.planting import LAWS, Fault, backward, forward

GRU, MGU, LAYER_NORM_GRU = "cells/gru.py", "cells/mgu.py", "cells/layer_norm_gru.py"
KERNELS, NORM = "cells/kernels.py", "cells/norm.py"
BEFORE = "gru_reset_before"

GRU_BACKWARD = (
    backward(GRU, "interpolate_adjoint", "sign of δ_z", "d_h * (h_tm1 -", "-d_h * (h_tm1 -", "gru"),
    backward(GRU, "interpolate_adjoint", "sign of δ_n", "d_h * (1 - z)", "d_h * (z - 1)", "gru"),
    backward(GRU, "step_after_adjoint", "sign of δ_r", "r * (1 - r)", "r * (r - 1)", "gru"),
    backward(GRU, "step_after_adjoint", "δ_r without q", "delta_n * q * r", "delta_n * r", "gru"),
    backward(
        GRU,
        "_adjoint_after",
        "λ z left out",
        "d_h * residuals.saved.z + d_recurrent",
        "d_recurrent",
        "gru",
    ),
    backward(GRU, "product_cotangent", "δ_n without r", "delta.n * r", "delta.n", "gru"),
    backward(
        GRU, "product_cotangent", "gates swapped", "delta.r, delta.z", "delta.z, delta.r", "gru"
    ),
    backward(
        GRU,
        "_gradients_after",
        "h_t for h_{t-1}",
        "residuals.previous_carry",
        "residuals.carry",
        "gru",
    ),
    backward(GRU, "_gradients_after", "∂b_n without r", "deltas.n * r", "deltas.n", "gru"),
    backward(
        KERNELS,
        "recurrent_kernel",
        "kernel turned",
        "RecurrentKernel(w, w.T)",
        "RecurrentKernel(w, w.T[:, ::-1])",
        "gru",
    ),
)

RESET_BEFORE_BACKWARD = (
    backward(GRU, "_adjoint_before", "u r left out", " + u * r", "", BEFORE),
    backward(GRU, "_adjoint_before", "sign of δ_r", "r * (1 - r)", "r * (r - 1)", BEFORE),
    backward(
        GRU,
        "_adjoint_before",
        "kernel transposed",
        "kernels.recurrent_product_adjoint(delta_n, w.candidate)",
        "delta_n @ w.candidate.w",
        BEFORE,
    ),
    backward(GRU, "_gradients_before", "gradient without r", "r * h_tm1", "h_tm1", BEFORE),
)

GRU_FORWARD = (
    forward(
        GRU,
        "step_after",
        "recurrent bias left out",
        "kernels.add_bias(p_n, b_n)",
        "p_n",
        "gru",
    ),
    Fault(
        "reset before for after",
        GRU,
        "gru",
        (
            (
                "if self.reset_after:\n            return ResetAfterWeights(",
                "if not self.reset_after:\n            return ResetAfterWeights(",
            ),
            (
                "if self.reset_after:\n            return _advance_after(",
                "if not self.reset_after:\n            return _advance_after(",
            ),
        ),
        f"{LAWS}_forward_equals_the_equations_in_numpy[gru]",
    ),
    Fault(
        "gates swapped",
        GRU,
        "step_after",
        (
            ("    r = sigmoid(x.gates.r + p_r)", "    r = sigmoid(x.gates.z + p_z)"),
            ("    z = sigmoid(x.gates.z + p_z)", "    z = sigmoid(x.gates.r + p_r)"),
        ),
        f"{LAWS}_forward_equals_the_equations_in_numpy[gru]",
    ),
    forward(
        GRU,
        "interpolate",
        "z for 1 - z",
        "n + z * (h_tm1 - n)",
        "h_tm1 + z * (n - h_tm1)",
        "gru",
    ),
    forward(
        GRU,
        "_advance_before",
        "reset after for before",
        "kernels.recurrent_product(r * h_tm1, w.candidate)",
        "r * kernels.recurrent_product(h_tm1, w.candidate)",
        BEFORE,
    ),
)

MGU_FAULTS = (
    backward(MGU, "mgu._adjoint", "sign in δ_f", ") + u * h_tm1", ") - u * h_tm1", "mgu"),
    backward(MGU, "mgu._adjoint", "u h left out of δ_f", " + u * h_tm1", "", "mgu"),
    backward(MGU, "mgu._adjoint", "u f left out", " + u * f", "", "mgu"),
    backward(
        MGU,
        "mgu._adjoint",
        "f left out of δ_n",
        "kernels.scale(d_carry * f, x.dropout_mask)",
        "d_carry",
        "mgu",
    ),
    backward(MGU, "mgu._gradients", "gradient without f", "f * h_tm1", "h_tm1", "mgu"),
    forward(MGU, "mgu._advance", "f for 1 - f", "carry + f * (", "carry + (1 - f) * (", "mgu"),
    forward(MGU, "mgu._advance", "f left out of n", "f * carry", "carry", "mgu"),
)

LAYER_NORM_GRU_FAULTS = (
    backward(
        NORM,
        "Normalized.adjoint",
        "â's part left out",
        " - values * mean_product",
        "",
        "layer_norm_gru",
    ),
    backward(
        GRU, "step_after_adjoint", "sign of δ_r", "r * (1 - r)", "r * (r - 1)", "layer_norm_gru"
    ),
    backward(GRU, "product_cotangent", "δ_n without r", "delta.n * r", "delta.n", "layer_norm_gru"),
    backward(
        NORM,
        "product_adjoint",
        "gain_h left out",
        "kernels.scale(d_gained, gain_h)",
        "d_gained",
        "layer_norm_gru",
    ),
    backward(
        LAYER_NORM_GRU,
        "layer_norm_gru._adjoint",
        "λ z left out",
        "d_carry * z + d_recurrent",
        "d_recurrent",
        "layer_norm_gru",
    ),
    backward(
        LAYER_NORM_GRU,
        "layer_norm_gru._gradients",
        "∂b_n without r",
        "deltas.n * r",
        "deltas.n",
        "layer_norm_gru",
    ),
    forward(
        NORM,
        "normalize",
        "mean stays",
        "wide - jnp.mean(wide, axis=-1, keepdims=True)",
        "wide",
        "layer_norm_gru",
    ),
    forward(
        GRU,
        "step_after",
        "b_n outside of r",
        "r * q)",
        "r * (q - b_n[None]) + b_n[None])",
        "layer_norm_gru",
    ),
)

FAULTS = (
    *GRU_BACKWARD,
    *RESET_BEFORE_BACKWARD,
    *GRU_FORWARD,
    *MGU_FAULTS,
    *LAYER_NORM_GRU_FAULTS,
)
