"""Faults in the certificate and in the diagnostics."""

from faults.planting import fault

FLOW, SPECTRUM, NONFINITE, TRUNCATION, DIAGNOSIS, DECOMPOSITIONS = (
    f"diagnostics/{name}.py"
    for name in ("flow", "spectrum", "nonfinite", "truncation", "diagnosis", "linear_algebra")
)
FLOWS, BIAS, FINDINGS, DECOMPOSED = (
    f"diagnostics/test_{name}.py::test"
    for name in ("flow", "truncation", "diagnosis", "linear_algebra")
)
DECAY = f"{BIAS}_of_a_geometric_decay_it_finds_the_least_power_of_two"
SINGULAR = "diagnostics/test_spectrum.py::test_singular_values_and_norms_equal_those_of_jacobians"
FINDING = f"{FINDINGS}_a_finding_is_a_sentence_with_its_numbers"
HANGS = "test_hangs.py::test"
DYNAMICS, SQUARES = "diagnostics/dynamics.py", "diagnostics/least_squares.py"
POINTS = "diagnostics/test_dynamics.py::test"
LINEAR = f"{POINTS}_a_linear_map_has_one_fixed_point_in_closed_form"
UNCONVERGED = f"{POINTS}_starts_that_do_not_converge_are_counted"

GRADIENT_FAULTS = (
    fault(
        "certify.py",
        "draw_arguments",
        "certificate of features",
        "if cell.num_feature_axes == 0:",
        "if False:",
        "test_tokens.py::test_the_certificate_draws_tokens[GRU]",
    ),
    fault(
        FLOW,
        "per_step_gradients.with_parameters_per_step.step_with_increment",
        "steps contribute alike",
        "tree.add_sparse(params, increment)",
        "tree.add_sparse(params, jax.tree.map(lambda z: z / 2, increment))",
        f"{FLOWS}_per_step_gradients_are_those_of_single_steps_and_sum_to_the_gradient",
    ),
    fault(
        FLOW,
        "saturation.shares_of",
        "padding saturates",
        " & valid[..., None]",
        "",
        f"{FLOWS}_saturation_counts_what_the_mask_leaves",
    ),
    fault(
        NONFINITE,
        "_first",
        "backward pass searched forward",
        "np.argmax(indices[:, 0]) if last else 0",
        "0",
        "diagnostics/test_nonfinite.py::test_the_backward_pass_alone",
    ),
    fault(
        "diagnostics/distance.py",
        "error_and_angle",
        "error of ĝ",
        "(gradient - exact) / np.linalg.norm(exact)",
        "(gradient - exact) / np.linalg.norm(gradient)",
        f"{BIAS}_rows_are_errors_and_angles_of_truncated_gradients",
    ),
    fault(
        TRUNCATION,
        "adaptive_truncation",
        "k for k / 2",
        "k // 2, bias, loops[k // 2]",
        "k, bias, loops[k]",
        DECAY,
    ),
    fault(TRUNCATION, "_bound", "no tail", "change / (1 - ratio)", "change", DECAY),
)

SPECTRUM_FAULTS = (
    fault(
        SPECTRUM,
        "jacobian_spectrum",
        "QR by LAPACK",
        "linear_algebra.qr",
        "jnp.linalg.qr",
        f"{HANGS}_no_question_calls_lapack[jacobian_spectrum]",
    ),
    fault(
        SPECTRUM,
        "jacobian_spectrum",
        "singular values by LAPACK",
        "linear_algebra.singular_values",
        "jnp.linalg.svdvals",
        f"{HANGS}_no_command_calls_lapack",
    ),
    fault(
        SPECTRUM,
        "jacobian_spectrum",
        "product from the wrong end",
        "(previous_carries, xs), reverse=True",
        "(previous_carries, xs)",
        f"{SINGULAR}[lstm]",
    ),
    fault(
        SPECTRUM,
        "jacobian_spectrum.backward.cotangent",
        "cotangent not conjugated",
        "jax.tree.map(jnp.conj, vjp(row)[0])",
        "vjp(row)[0]",
        f"{SINGULAR}[complex]",
    ),
    fault(
        SPECTRUM,
        "memory_horizon",
        "rate through the origin",
        "(lags - jnp.average(lags, 0, weights, keepdims=True))",
        "lags",
        f"{SINGULAR}[lstm]",
    ),
    fault(
        DECOMPOSITIONS,
        "qr.eliminate",
        "reflected the other way",
        "jnp.where(below[k] < 0, -length, length)",
        "jnp.where(below[k] < 0, length, -length)",
        f"{DECOMPOSED}_qr_is_a_qr_decomposition_column_by_column",
    ),
    fault(
        DECOMPOSITIONS,
        "qr",
        "columns not brought to one length",
        "_replace_zeros(_row_lengths(a.T))[None]",
        "jnp.ones_like(a[:1])",
        f"{DECOMPOSED}_qr_is_a_qr_decomposition_column_by_column",
    ),
    fault(
        DECOMPOSITIONS,
        "singular_values.is_unfinished",
        "rotations that stop too soon",
        "> eps * (size + 10)",
        "> 0.1",
        f"{DECOMPOSED}_singular_values_are_those_of_lapack",
    ),
    fault(
        DECOMPOSITIONS,
        "singular_values.sweep",
        "a pair that never meets",
        "2 * half - 1",
        "2 * half - 2",
        f"{DECOMPOSED}_singular_values_are_those_of_lapack",
    ),
)

DIAGNOSIS_FAULTS = (
    fault(
        DIAGNOSIS,
        "diagnose",
        "vanishing one step short",
        "0 < steps >= 2 * row.horizon",
        "0 < steps > row.horizon",
        f"{FINDING}[of a good model]",
    ),
    fault(
        DIAGNOSIS,
        "diagnose",
        "half of the sequence is enough",
        "0 < steps >= 2 * row.horizon",
        "0 < steps > 2 * row.horizon",
        f"{FINDING}[half]",
    ),
    fault(
        DIAGNOSIS,
        "diagnose",
        "exploding and vanishing at once",
        "for row in others if 0 < steps",
        "for row in rows if 0 < steps",
        f"{FINDING}[overflow]",
    ),
)

FIXED_POINT_FAULTS = (
    fault(DYNAMICS, "fixed_points", "J without I", " + np.eye(starts.shape[1])", "", LINEAR),
    fault(
        DYNAMICS,
        "fixed_points",
        "slow points are fixed",
        "is_fixed=np.sqrt(2 * ends.speeds[rows]) <= tolerance",
        "is_fixed=np.isfinite(ends.speeds[rows])",
        f"{POINTS}_a_slow_point_is_where_the_speed_is_least",
    ),
    fault(
        DYNAMICS,
        "_merge",
        "each end is a point",
        "remaining[gaps > distance]",
        "remaining[1:]",
        LINEAR,
    ),
    fault(
        DYNAMICS,
        "FixedPoints.num_unstable",
        "a line of points that grows",
        " + MARGIN",
        " - MARGIN",
        f"{POINTS}_a_line_of_fixed_points_is_marginal_and_solved_although_singular",
    ),
    fault(
        SQUARES,
        "minimise_squares",
        "all starts converge",
        "return now, is_zero | is_minimum",
        "return now, np.isfinite(speeds)",
        UNCONVERGED,
    ),
    fault(
        SQUARES,
        "Evaluation.speeds",
        "NaN is a speed",
        "np.where(is_finite, speeds, np.inf)",
        "speeds",
        UNCONVERGED,
    ),
    fault(
        SQUARES,
        "_damped_steps",
        "steps along the gradient",
        "-np.linalg.solve(normal, gradients[..., None])[..., 0]",
        "-gradients / damping[:, None]",
        f"{POINTS}_points_of_a_scalar_tanh_are_those_of_bisection[2.0-0.1-kinds1]",
    ),
    fault(
        "transforms/rows.py",
        "unflatten_rows",
        "real and imaginary parts change places",
        "jax.lax.complex(*parts)",
        "jax.lax.complex(*parts[::-1])",
        f"{POINTS}_rows_are_flattened_and_back[complex128]",
    ),
)

FAULTS = (*GRADIENT_FAULTS, *SPECTRUM_FAULTS, *DIAGNOSIS_FAULTS, *FIXED_POINT_FAULTS)
