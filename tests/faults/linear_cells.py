"""Faults in cells that are linear in their state, and in the backward pass that they share."""

from faults.planting import LAWS, Fault, backward, fault, forward

LINEAR, LRU = "cells/linear.py", "cells/lru.py"
MIN_GRU, MIN_LSTM = "cells/min_gru.py", "cells/min_lstm.py"
RG_LRU, S5, SSM = "cells/rg_lru.py", "cells/s5.py", "cells/selective_ssm.py"
ADVANCE, ADJOINT, GRADIENTS = (f"LinearCell.{name}" for name in ("advance", "adjoint", "gradients"))
MODERN = "cells/test_modern_linear.py::test"
# The product of (A2), and that of (A3).
TIMES_A, D_A = "jnp.broadcast_to(a, d.shape) * d", "else d * c"

BACKWARD = (
    backward(LINEAR, ADJOINT, "a left out", TIMES_A, "d", "min_gru"),
    backward(
        LINEAR,
        GRADIENTS,
        "c_{t-1} for λ in ∂b",
        "Affine(d_a, deltas)",
        "Affine(d_a, carries)",
        "min_gru",
    ),
    backward(
        LINEAR,
        GRADIENTS,
        "c_t for c_{t-1}",
        "residuals.previous_carry",
        "residuals.carry",
        "min_lstm",
    ),
    backward(LINEAR, GRADIENTS, "sign of ∂a", D_A, "else -d * c", "min_lstm"),
    backward(LINEAR, ADJOINT, "conjugate of a", TIMES_A, f"jnp.conj({TIMES_A})", "lru"),
    backward(LINEAR, GRADIENTS, "conjugate of c", D_A, "else d * jnp.conj(c)", "lru"),
    backward(
        LINEAR,
        GRADIENTS,
        "c_t for c_{t-1}, constant a",
        "residuals.previous_carry",
        "residuals.carry",
        "lru",
    ),
    backward(LINEAR, GRADIENTS, "∂a left out", D_A, "else 0 * d * c", "lru"),
    backward(LINEAR, ADJOINT, "a left out", TIMES_A, "d", "rg_lru"),
    backward(LINEAR, ADJOINT, "conjugate of a", TIMES_A, f"jnp.conj({TIMES_A})", "s5"),
    backward(LINEAR, GRADIENTS, "sign of ∂a", D_A, "else -d * c", "s5"),
    backward(LINEAR, GRADIENTS, "sign of ∂a", D_A, "else -d * c", "selective_ssm"),
    backward(
        LINEAR,
        ADJOINT,
        "what is replaced gets a gradient",
        "jnp.zeros_like(d)",
        "d",
        "selective_ssm",
    ),
)

FORWARD = (
    forward(LINEAR, ADVANCE, "a left out", "jnp.broadcast_to(a, c.shape) * c", "c", "min_gru"),
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
    Fault(
        "γ left out",
        LRU,
        "lru.project",
        (
            ('kernels.scale(p["b_re"], gamma)', 'p["b_re"]'),
            ('kernels.scale(p["b_im"], gamma)', 'p["b_im"]'),
        ),
        f"{LAWS}_forward_equals_the_equations_in_numpy[lru]",
    ),
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

OF_RG_LRU = (
    forward(RG_LRU, "rg_lru.project", "c left out", "math.log(self.c) + ", "", "rg_lru"),
    forward(
        RG_LRU,
        "rg_lru.project",
        "r left out of a",
        "log_sigmoid(x_r), log_decay",
        "0 * x_r, log_decay",
        "rg_lru",
    ),
    forward(RG_LRU, "rg_lru.project", "i left out of b", "(sigmoid(x_i) * us)", "us", "rg_lru"),
    forward(
        RG_LRU,
        "rg_lru.project",
        "√(1 - a²) left out of b",
        "_input_scale(log_decays) * ",
        "",
        "rg_lru",
    ),
    forward(RG_LRU, "_input_scale", "√(1 - a) for √(1 - a²)", "-2 * ", "-", "rg_lru"),
    Fault(
        "sign of ∂m",
        RG_LRU,
        "_input_scale_jvp",
        (("0, slopes)", "0, -slopes)"),),
        f"{MODERN}_rg_lru_is_smooth_where_the_square_root_is_not",
        "rg_lru",
    ),
    fault(
        RG_LRU,
        "_input_scale_jvp",
        "slope without its limit",
        "jnp.where(is_zero, 0, slopes)",
        "jnp.where(is_zero, jnp.inf, slopes)",
        f"{MODERN}_rg_lru_has_finite_gradients_where_nothing_is_forgotten",
    ),
    fault(
        RG_LRU,
        "_block_product",
        "blocks transposed",
        "len(w)), w)",
        "len(w)), w.swapaxes(1, 2))",
        f"{MODERN}_rg_lru_with_blocks_equals_numpy",
    ),
)

OF_S5 = (
    forward(
        S5, "s5.prepare", "sign of a", "jnp.exp(_exponents(p))", "-jnp.exp(_exponents(p))", "s5"
    ),
    forward(
        S5,
        "_step",
        "Δ not exponentiated",
        'jnp.exp(jnp.minimum(p["log_step"], LARGEST_LOG_STEP))',
        'p["log_step"]',
        "s5",
    ),
    forward(
        S5, "_exponents", "Δ left out of Im Λ", 'p["lambda_im"] * step', 'p["lambda_im"]', "s5"
    ),
    forward(
        S5,
        "s5.project",
        "Euler's discretisation of B",
        "_integral_of_exp(_exponents(p))",
        "jnp.ones_like(_exponents(p))",
        "s5",
    ),
    forward(
        S5, "s5.project", "conjugate of B", 'p["b_re"], p["b_im"]', 'p["b_re"], -p["b_im"]', "s5"
    ),
    forward(S5, "s5.output", "sign of Im C", '@ p["c_re"] -', '@ p["c_re"] +', "s5"),
    forward(S5, "s5.output", "one mode of each pair", "(factor * ys)", "ys", "s5"),
    fault(
        S5,
        "s5.init",
        "B not conjugated",
        "-b @ v_im",
        "b @ v_im",
        f"{MODERN}_s5_starts_as_the_real_state_space_of_hippo",
    ),
    fault(
        S5,
        "_hippo_n",
        "another matrix",
        "+ 0.5)",
        "+ 1.0)",
        f"{MODERN}_s5_starts_as_the_real_state_space_of_hippo",
    ),
)

OF_SELECTIVE_SSM = (
    forward(SSM, "selective_ssm.prepare", "sign of A", "-jnp.exp(", "jnp.exp(", "selective_ssm"),
    forward(
        SSM,
        "selective_ssm.affine",
        "Δ left out of b",
        "(dt * candidate)",
        "(1.0 * candidate)",
        "selective_ssm",
    ),
    forward(
        SSM,
        "selective_ssm.affine",
        "Δ left out of a",
        "broadcast_to(dt[..., None]",
        "broadcast_to(0 * dt[..., None] + 1",
        "selective_ssm",
    ),
    forward(
        SSM,
        "selective_ssm.affine",
        "C for B",
        "b[..., None, :]",
        "c[..., None, :]",
        "selective_ssm",
    ),
    forward(
        SSM,
        "selective_ssm.project",
        "no softplus",
        "jax.nn.softplus(x_dt)",
        "x_dt",
        "selective_ssm",
    ),
    forward(
        SSM,
        "selective_ssm.output",
        "D left out",
        'kernels.scale(u, params["d"])',
        "u",
        "selective_ssm",
    ),
)

FAULTS = (*BACKWARD, *FORWARD, *OF_RG_LRU, *OF_S5, *OF_SELECTIVE_SSM)
