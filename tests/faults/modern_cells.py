"""Faults in the cells of recent years: xLSTM."""

from faults.planting import backward, fault, forward

SLSTM, GATING, HEADS = "cells/slstm.py", "cells/exponential_gating.py", "cells/heads.py"

SLSTM_FAULTS = (
    forward(SLSTM, "slstm._advance", "gates exchanged", "o * c, c", "s * c, c", "slstm"),
    forward(
        GATING, "update_stabilizer", "sign in the share", "sigmoid(gap)", "sigmoid(-gap)", "slstm"
    ),
    forward(GATING, "update_stabilizer", "m of before", "+ m_tm1", "+ 0 * m_tm1", "slstm"),
    backward(SLSTM, "slstm._adjoint", "memory left out", "d_carry.c + ", "", "slstm"),
    backward(
        SLSTM,
        "slstm._adjoint",
        "c_t for c_{t-1}",
        "residuals.previous_carry.c",
        "residuals.carry.c",
        "slstm",
    ),
    backward(SLSTM, "slstm._adjoint", "share not kept back", "d_c * (1 - s)", "d_c", "slstm"),
    backward(
        GATING,
        "update_stabilizer_adjoint",
        "sign of the slope of s",
        "(1 - s) - d",
        "(1 - s) + d",
        "slstm",
    ),
    backward(
        GATING,
        "update_stabilizer_adjoint",
        "forget gate for its rest",
        "d_m_tm1 * (1 - f)",
        "d_m_tm1 * f",
        "slstm",
    ),
    backward(
        GATING, "update_stabilizer_adjoint", "stabiliser left out", "d_m * s + d", "d", "slstm"
    ),
    backward(
        HEADS,
        "recurrent_gates_gradient",
        "half the gradient",
        "delta.astype(kernel.w.dtype)",
        "delta.astype(kernel.w.dtype) / 2",
        "slstm",
    ),
    fault(
        "transforms/dropout.py",
        "variational_dropout._draw",
        "mask of the heads",
        "math.prod(recurrent[0].w.shape[:-1])",
        "recurrent[0].w.shape[0]",
        "cells/test_xlstm.py::test_dropout_of_the_state_has_a_number_for_each_unit_of_each_head",
    ),
)

FAULTS = SLSTM_FAULTS
