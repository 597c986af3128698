"""Faults in cells with one gate: the simple recurrent cell, and the independently recurrent one."""

from faults.planting import LAWS, backward, fault, forward

ELMAN, INDRNN, GATED = "cells/elman.py", "cells/indrnn.py", "cells/gated.py"

ELMAN_FAULTS = (
    backward(ELMAN, "", "sign in the slope", "(1 - h * h)", "(1 + h * h)", "elman"),
    backward(ELMAN, "", "slope left out", "d_h * (1 - h * h)", "d_h * 1", "elman"),
    backward(
        ELMAN,
        "SimpleCell._adjoint",
        "slope elsewhere",
        "residuals.saved.a",
        "0 * residuals.saved.a",
        "elman_softplus",
    ),
    backward(
        ELMAN,
        "SimpleCell._gradients",
        "h_t for h_{t-1}",
        "residuals.previous_carry",
        "residuals.carry",
        "elman",
    ),
    backward(
        ELMAN,
        "elman._product_adjoint",
        "kernel transposed",
        "kernels.recurrent_product_adjoint(delta, w)",
        "delta @ w.w",
        "elman",
    ),
    forward(
        ELMAN,
        "elman._product",
        "kernel transposed",
        "kernels.recurrent_product(h, w)",
        "h @ w.w_t",
        "elman",
    ),
    forward(
        GATED,
        "GateParameters.project_gates",
        "input bias left out",
        "[kernels.add_bias(xs @ w, b)",
        "[xs @ w",
        "elman",
    ),
)

INDRNN_FAULTS = (
    backward(ELMAN, "", "slope of relu left out", "jnp.where(h > 0, d_h, 0)", "d_h", "indrnn"),
    backward(ELMAN, "", "slope of tanh left out", "d_h * (1 - h * h)", "d_h", "indrnn_tanh"),
    backward(
        INDRNN,
        "indrnn._product_adjoint",
        "u left out",
        "kernels.scale(delta, w)",
        "delta",
        "indrnn",
    ),
    backward(INDRNN, "indrnn._product_gradient", "∂u without δ", "hs * deltas", "hs", "indrnn"),
    backward(
        ELMAN,
        "SimpleCell._gradients",
        "h_t for h_{t-1}",
        "residuals.previous_carry",
        "residuals.carry",
        "indrnn",
    ),
    forward(INDRNN, "indrnn._product", "u left out", "kernels.scale(h, w)", "h", "indrnn"),
    forward(
        ELMAN,
        "SimpleCell._advance",
        "other activation",
        "self.activation(a)",
        "abs(a)",
        "indrnn",
    ),
)

# Equal arguments give equal cells, so that no second call compiles anything.
EQUALITY_FAULTS = (
    fault(
        "cells/gru.py",
        "gru",
        "equal only to itself",
        "def __post_init__",
        "__eq__, __hash__ = object.__eq__, object.__hash__\n\n    def __post_init__",
        f"{LAWS}_a_second_call_compiles_nothing[bptt-gru]",
    ),
)

FAULTS = (*ELMAN_FAULTS, *INDRNN_FAULTS, *EQUALITY_FAULTS)
