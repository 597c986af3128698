"""Faults in cells that are linear in their state: minGRU, minLSTM, and the complex LRU."""

from faults.planting import backward, forward

LINEAR, LRU = "cells/linear.py", "cells/lru.py"
MIN_GRU, MIN_LSTM = "cells/min_gru.py", "cells/min_lstm.py"

BACKWARD = (
    backward(LINEAR, "adjoint", "a left out", "_times_a(d_h, w, residuals.z)", "d_h", "min_gru"),
    backward(
        LINEAR,
        "gradients",
        "h_{t-1} for λ in ∂b",
        "kernels.scale(deltas,",
        "kernels.scale(residuals.previous_carry,",
        "min_gru",
    ),
    backward(
        LINEAR,
        "gradients",
        "h_t for h_{t-1}",
        "residuals.previous_carry",
        "residuals.carry",
        "min_lstm",
    ),
    backward(
        LINEAR, "gradients", "sign of ∂a", "Affine(d_a, d_b)", "Affine(-d_a, d_b)", "min_lstm"
    ),
    backward(LINEAR, "adjoint", "conjugate of a", "d_h, w,", "d_h, jnp.conj(w),", "lru"),
    backward(
        LINEAR,
        "gradients",
        "conjugate of x",
        "bias_gradient(d_a)",
        "bias_gradient(deltas * jnp.conj(residuals.previous_carry))",
        "lru",
    ),
    backward(
        LINEAR,
        "gradients",
        "h_t for h_{t-1}, constant a",
        "bias_gradient(d_a)",
        "bias_gradient(deltas * residuals.carry)",
        "lru",
    ),
    backward(
        LINEAR,
        "gradients",
        "∂a left out",
        "kernels.bias_gradient(d_a)",
        "0 * kernels.bias_gradient(d_a)",
        "lru",
    ),
)

FORWARD = (
    forward(LINEAR, "advance", "a left out", "_times_a(h_tm1, w, z)", "h_tm1", "min_gru"),
    forward(
        MIN_GRU,
        "min_gru.project",
        "gates swapped",
        "sigmoid(-x_z), sigmoid(x_z)",
        "sigmoid(x_z), sigmoid(-x_z)",
        "min_gru",
    ),
    forward(
        MIN_LSTM,
        "min_lstm.project",
        "gates swapped",
        "log_sigmoid(x_f) - log_sigmoid(x_i)",
        "log_sigmoid(x_i) - log_sigmoid(x_f)",
        "min_lstm",
    ),
    forward(
        MIN_LSTM,
        "min_lstm.project",
        "gates not normalised",
        "sigmoid(log_odds)",
        "sigmoid(x_f)",
        "min_lstm",
    ),
    forward(LRU, "lru.project", "γ left out", "kernels.scale(p[name], gamma)", "p[name]", "lru"),
    forward(LRU, "lru.output", "sign of Im C", '@ p["c_re"] -', '@ p["c_re"] +', "lru"),
    forward(
        LRU,
        "lru.prepare",
        "phase not exponentiated",
        'jnp.exp(p["theta_log"])',
        'p["theta_log"]',
        "lru",
    ),
)

FAULTS = (*BACKWARD, *FORWARD)
