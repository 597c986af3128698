"""Faults in cells of other kinds: matrix memories, images, oscillators, reservoirs, times."""

from faults.planting import backward, fault, forward

SLSTM, MLSTM = "cells/slstm.py", "cells/mlstm.py"
DELTA, CONV = "cells/delta_rule.py", "cells/conv_lstm.py"
CORNN, ECHO, CFC = "cells/cornn.py", "cells/echo_state.py", "cells/cfc.py"
GATING, HEADS = "cells/exponential_gating.py", "cells/heads.py"

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
        "math.prod(recurrent_kernels[0].w.shape[:-1])",
        "recurrent_kernels[0].w.shape[0]",
        "cells/test_xlstm.py::test_dropout_of_the_state_has_a_number_for_each_unit_of_each_head",
    ),
)

MLSTM_FAULTS = (
    forward(
        MLSTM, "mlstm._advance", "value for key", "(z.k - carry.n)", "(z.q - carry.n)", "mlstm"
    ),
    forward(MLSTM, "mlstm._advance", "sign of q n", "jnp.abs(product)", "-product", "mlstm"),
    forward(MLSTM, "mlstm.project", "key not scaled", "k / k.shape[-1] ** 0.5", "k", "mlstm"),
    backward(MLSTM, "mlstm._adjoint", "memory of later left out", "d_carry.c + ", "", "mlstm"),
    backward(
        MLSTM,
        "mlstm._adjoint",
        "sign of the denominator",
        "= -heads.inner",
        "= heads.inner",
        "mlstm",
    ),
    backward(
        MLSTM, "mlstm._adjoint", "bound without slope", "d_carry.m - d_bound", "d_carry.m", "mlstm"
    ),
    backward(MLSTM, "mlstm._adjoint", "normaliser without query", " + d_product * n", "", "mlstm"),
    backward(
        MLSTM,
        "mlstm._adjoint",
        "normaliser without share",
        "d_s += heads.inner(d_n, k - previous.n)",
        "",
        "mlstm",
    ),
    backward(MLSTM, "mlstm._adjoint", "c_t for c_{t-1}", "- previous.c)", "- c)", "mlstm"),
    backward(
        MLSTM,
        "mlstm._adjoint",
        "key without normaliser",
        "(heads.matrix_vector(d_c, v) + d_n)",
        "heads.matrix_vector(d_c, v)",
        "mlstm",
    ),
    fault(
        MLSTM,
        "_exp_of_minus",
        "no limit",
        "jnp.clip(m, -LARGEST_EXPONENT, LARGEST_EXPONENT)",
        "m",
        "cells/test_xlstm.py::test_a_stabilizer_of_any_size_has_finite_gradients",
    ),
)

DELTA_FAULTS = (
    forward(
        DELTA,
        "delta_rule._advance",
        "error without decay",
        "(z.k, kept)",
        "(z.k, carry.s)",
        "delta_rule",
    ),
    forward(
        DELTA,
        "delta_rule._advance",
        "query for key",
        "heads.outer(z.k,",
        "heads.outer(z.q,",
        "delta_rule",
    ),
    forward(
        DELTA, "delta_rule.project", "key not normalised", "_unit_vector(k)", "k", "delta_rule"
    ),
    backward(
        DELTA, "delta_rule._adjoint", "memory of later left out", "d_carry.s + ", "", "delta_rule"
    ),
    backward(
        DELTA,
        "delta_rule._adjoint",
        "sign of the replaced",
        "= d_s - heads",
        "= d_s + heads",
        "delta_rule",
    ),
    backward(
        DELTA,
        "delta_rule._adjoint",
        "key without the replaced",
        " - alpha * d_read",
        "",
        "delta_rule",
    ),
    backward(
        DELTA,
        "delta_rule._adjoint",
        "S_{t-1} for S_t",
        "heads.matrix_vector(s, d_h)",
        "heads.matrix_vector(s_tm1, d_h)",
        "delta_rule",
    ),
    backward(
        DELTA,
        "delta_rule._adjoint",
        "rate for decay",
        "alpha[..., None] * d_kept",
        "beta[..., None] * d_kept",
        "delta_rule",
    ),
)

CONV_FAULTS = (
    forward(
        CONV,
        "conv_lstm._advance",
        "gates exchanged",
        "o * tanh(c), c",
        "o * tanh(g), c",
        "conv_lstm",
    ),
    forward(
        CONV,
        "_convolve",
        "other padding",
        "((size - 1) // 2, size // 2)",
        "(size // 2, (size - 1) // 2)",
        "conv_lstm",
    ),
    backward(
        CONV,
        "conv_lstm.prepare",
        "kernel not mirrored",
        "jnp.flip(w, tuple(range(len(self.spatial_shape))))",
        "w",
        "conv_lstm",
    ),
    backward(
        CONV,
        "_convolve",
        "padding of the adjoint",
        "(right, left) for",
        "(left, right) for",
        "conv_lstm",
    ),
    backward(
        CONV,
        "conv_lstm._adjoint",
        "memory left out",
        "output_adjoint(residuals, d_carry)",
        "output_adjoint(residuals, d_carry._replace(c=0 * d_carry.c))",
        "conv_lstm",
    ),
    backward(
        CONV,
        "conv_lstm._gradients",
        "h_t for h_{t-1}",
        "residuals.previous_carry.h",
        "residuals.carry.h",
        "conv_lstm",
    ),
    fault(
        "networks.py",
        "stacked.init",
        "one feature axis",
        "*self.feature_shape(input_size)",
        "input_size",
        "cells/test_conv_lstm.py::test_a_stack_of_two",
    ),
    fault(
        "cells/conv_lstm.py",
        "conv_lstm.num_feature_axes",
        "one feature axis",
        "len(self.spatial_shape) + 1",
        "1",
        "cells/test_conv_lstm.py::test_padding_of_nan_has_no_effect",
    ),
)

CORNN_FAULTS = (
    forward(
        CORNN,
        "cornn._advance",
        "sign of the damping",
        "- self.epsilon * v",
        "+ self.epsilon * v",
        "cornn",
    ),
    backward(CORNN, "cornn._adjoint", "position left out", " + self.dt * d_carry.y", "", "cornn"),
    backward(
        CORNN, "cornn._adjoint", "stiffness left out", " - self.dt * self.gamma * d_v", "", "cornn"
    ),
    backward(
        CORNN,
        "cornn._adjoint",
        "sign of the damping",
        "(1 - self.dt * self.epsilon)",
        "(1 + self.dt * self.epsilon)",
        "cornn",
    ),
    backward(
        CORNN,
        "cornn._gradients",
        "states of after",
        "residuals.previous_carry",
        "residuals.carry",
        "cornn",
    ),
)

ECHO_FAULTS = (
    forward(
        ECHO,
        "echo_state._advance",
        "leak exchanged",
        "(1 - self.leak) * carry + self.leak * g",
        "self.leak * carry + (1 - self.leak) * g",
        "echo_state",
    ),
    backward(
        ECHO,
        "echo_state._adjoint",
        "leak left out",
        "(1 - self.leak) * d_carry + ",
        "",
        "echo_state",
    ),
    backward(
        ECHO, "echo_state._adjoint", "sign in the slope", "(1 - g * g)", "(1 + g * g)", "echo_state"
    ),
    backward(
        ECHO,
        "echo_state._adjoint",
        "leak of the force",
        "self.leak * d_carry * (1",
        "d_carry * (1",
        "echo_state",
    ),
    fault(
        ECHO,
        "echo_state.prepare",
        "kernel learns",
        'lax.stop_gradient(params["w_h"])',
        'params["w_h"]',
        "cells/test_echo_state.py::test_weights_have_no_gradient_and_inputs_have_one[scan]",
    ),
    fault(
        ECHO,
        "echo_state.project",
        "input weights learn",
        "jax.tree.map(lax.stop_gradient, params)",
        "params",
        "cells/test_echo_state.py::test_weights_have_no_gradient_and_inputs_have_one[bptt]",
    ),
    fault(
        ECHO,
        "spectral_radius",
        "share not halved",
        "share / 2",
        "share",
        "cells/test_echo_state.py::test_the_spectral_radius_is_the_largest_eigenvalue",
    ),
    fault(
        "certify.py",
        "_float64_errors",
        "differences of what is stopped",
        "jnp.where(jnp.any(g != 0), d, 0)",
        "d",
        "cells/test_echo_state.py::test_a_certificate_sees_a_gradient_where_the_step_stops_it",
    ),
)

CFC_FAULTS = (
    forward(
        CFC, "cfc._advance", "heads exchanged", "f + tau * (g - f), ", "g + tau * (f - g), ", "cfc"
    ),
    backward(
        CFC, "cfc._adjoint", "sign of the gate", "d_carry * (g - f)", "d_carry * (f - g)", "cfc"
    ),
    backward(
        CFC,
        "cfc._adjoint",
        "gate for its rest",
        "d_carry * (1 - tau) * (1 - f * f)",
        "d_carry * tau * (1 - f * f)",
        "cfc",
    ),
    backward(CFC, "cfc._adjoint", "slope of the backbone", "(1 - t * t)", "(1 - t)", "cfc"),
    backward(
        CFC,
        "cfc._gradients",
        "h_t for h_{t-1}",
        "residuals.previous_carry",
        "residuals.carry",
        "cfc",
    ),
    fault(
        CFC,
        "cfc._adjoint",
        "rate without time",
        "_times(delta_c, dt)",
        "delta_c",
        "cells/test_cfc.py::test_the_certificate_of_irregular_times",
    ),
    fault(
        CFC,
        "cfc._adjoint",
        "sign of the time",
        "jnp.sum(delta_c * rate",
        "-jnp.sum(delta_c * rate",
        "cells/test_cfc.py::test_the_certificate_of_irregular_times",
    ),
)

FAULTS = (
    *SLSTM_FAULTS,
    *MLSTM_FAULTS,
    *DELTA_FAULTS,
    *CONV_FAULTS,
    *CORNN_FAULTS,
    *ECHO_FAULTS,
    *CFC_FAULTS,
)
