"""Faults in the loops: exact, truncated, checkpointed, random; and in running by chunks."""

from faults.planting import backward, fault

SAVING, RECOMPUTING, LINEAR_ADJOINT, CHUNKS = (
    f"loops/{name}.py" for name in ("saving", "recomputing", "linear_adjoint", "chunks")
)
TRUNCATED, CHECKPOINTED = "loops/truncated.py", "loops/checkpointed.py"
RANDOMIZED, CARRY_GRADIENT = "loops/randomized.py", "transforms/carry_gradient.py"
DRAWN = "loops/test_randomized.py::test"

SAVING_FAULTS = (
    backward(
        SAVING,
        "_backward.backward",
        "output's adjoint left out",
        "tree.add_sparse(d_carry, d_carry_t)",
        "d_carry",
        "gru",
    ),
    backward(
        SAVING,
        "_backward",
        "λ_T left out",
        "tree.add_sparse(tree.zero_cotangents(carry), d_last)",
        "jax.tree.map(lambda c: 0 * c, carry)",
        "elman",
    ),
    backward(
        SAVING,
        "_backward",
        "time runs forward",
        "reverse=True",
        "reverse=False",
        "elman",
    ),
    backward(
        SAVING, "_backward", "no shift", "tree.shift_right(carry, carries)", "carries", "lstm"
    ),
    fault(
        "loops/checked_cell.py",
        "CheckedCell.adjoint",
        "carry not checked",
        'check.require_same_tree("adjoint(...)[0]", d_previous, d_carry, ", as d_carry")',
        "pass",
        "test_own_cells.py::test_cotangents_of_a_wrong_form_are_named",
    ),
    fault(
        "loops/checked_cell.py",
        "_require_cotangents",
        "forms not compared",
        "check.require_same_tree(name, full, primals, why)",
        "pass",
        "test_own_cells.py::test_cotangents_of_a_wrong_form_are_named",
    ),
    fault(
        CHUNKS,
        "in_chunks_of",
        "chunks turned",
        "jax.tree.map(split, xs))",
        "jax.tree.map(split, xs), reverse=True)",
        "loops/test_bptt.py::test_a_long_sequence_is_run_in_chunks",
    ),
)

# `bptt` as it runs on a GPU.
RECOMPUTED = "loops/test_recomputing.py::test_values_and_gradient_equal_autodiff"
RECOMPUTING_FAULTS = (
    fault(
        RECOMPUTING,
        "InOrder.cotangents.backward",
        "output's adjoint left out",
        "tree.add_sparse(d_carry, d_carry_t)",
        "d_carry",
        f"{RECOMPUTED}[gru-11]",
    ),
    fault(
        RECOMPUTING,
        "Solver.previous_carries",
        "no shift",
        "tree.shift_right(carry, carries)",
        "carries",
        f"{RECOMPUTED}[lstm-11]",
    ),
    fault(
        RECOMPUTING,
        "_backward",
        "δ of the first step at all steps",
        "(w, residuals, lambdas)",
        "(w, residuals, jax.tree.map(lambda d: 0 * d + d[:1], lambdas))",
        f"{RECOMPUTED}[gru-11]",
    ),
    fault(
        LINEAR_ADJOINT,
        "_combine_scalings",
        "the last of several factors",
        "(*before.factors, factor)",
        "(factor,)",
        f"{RECOMPUTED}[lstm-11]",
    ),
)

# Segments of another length than the loop says it has.
SEGMENTS = "k1 = self.k1\n        k2 = self.window_length"
TRUNCATED_FAULTS = (
    backward(
        TRUNCATED,
        "truncated.__call__",
        "cut one step early",
        SEGMENTS,
        "k1 = k2 = self.k1 - 1",
        "elman",
        "truncated:4",
    ),
    backward(
        TRUNCATED,
        "truncated.__call__",
        "cut one step late",
        SEGMENTS,
        "k1 = k2 = self.k1 + 1",
        "elman",
        "truncated:4",
    ),
    backward(
        TRUNCATED,
        "truncated.__call__.window",
        "first carry cut",
        "(s > 0) | (head > 0)",
        "s >= 0",
        "elman",
        "truncated:4",
    ),
    backward(
        TRUNCATED,
        "truncated.__call__",
        "rest not cut",
        "_stop_gradient(start, True)",
        "_stop_gradient(start, False)",
        "elman",
        "truncated:4",
    ),
    backward(
        TRUNCATED,
        "_stop_gradient",
        "no cut",
        "jax.lax.stop_gradient(c)",
        "c",
        "elman",
        "truncated:4",
    ),
    backward(
        TRUNCATED,
        "truncated.__call__.window",
        "windows begin late",
        "tree.slice_time(xs_s, k1, k2)",
        "jax.tree.map(jax.lax.stop_gradient, tree.slice_time(xs_s, k1, k2))",
        "elman",
        "truncated:2:5",
    ),
    backward(
        TRUNCATED,
        "truncated.__call__",
        "head cut",
        "last, head_ys = run(start,",
        "last, head_ys = run(_stop_gradient(start, True),",
        "elman",
        "truncated:2:5",
    ),
)

CHECKPOINTED_FAULTS = (
    backward(
        CHECKPOINTED,
        "_backward.run_backward",
        "λ not handed on",
        "pull((d_carry, d_ys))",
        "pull((jax.tree.map(jnp.zeros_like, d_carry), d_ys))",
        "elman",
        "checkpointed",
    ),
    backward(
        CHECKPOINTED,
        "_backward.backward",
        "one segment's weights",
        "tree.add_sparse(d_params, d_params_here)",
        "tree.add_sparse(d_params_here, None)",
        "elman",
        "checkpointed",
    ),
    backward(
        CHECKPOINTED,
        "_backward",
        "head's weights left out",
        "d_params = tree.add_sparse(d_params, d_params_here)",
        "pass",
        "elman",
        "checkpointed",
    ),
    backward(
        CHECKPOINTED,
        "_backward.backward",
        "inputs one segment off",
        "_update_steps(d_xs, d_xs_here, start)",
        "_update_steps(d_xs, d_xs_here, start - plan.head)",
        "elman",
        "checkpointed",
    ),
    backward(
        CHECKPOINTED,
        "_backward.backward",
        "states one slot off",
        "s[load]",
        "s[load - 1]",
        "elman",
        "checkpointed:3",
    ),
)

RANDOMIZED_FAULTS = (
    fault(
        RANDOMIZED,
        "randomized",
        "a loop that draws inside another",
        'gradient = "stochastic"',
        'gradient = "exact"',
        "test_bad_input.py::test_bad_input_raises_our_error_before_anything_compiles",
    ),
    fault(
        RANDOMIZED,
        "randomized.__call__",
        "not rescaled",
        "1 / p",
        "1.0",
        f"{DRAWN}_the_mean_over_keys_is_the_exact_gradient[cell]",
    ),
    fault(
        CARRY_GRADIENT,
        "ScaledCell.adjoint",
        "factor ignored by hand",
        "_times(d, factor)",
        "d",
        f"{DRAWN}_one_draw_is_a_product_of_factors[cell]",
    ),
)

CUDNN, CUDNN_TEST = "loops/cudnn.py", "loops/test_cudnn.py::test"
CUDNN_FAULTS = (
    fault(
        "cells/lstm.py",
        "lstm.cudnn_weights",
        "kernels swapped",
        'params["w_x"].T, params["w_h"].T',
        'params["w_h"].T, params["w_x"].T',
        f"{CUDNN_TEST}_the_weights_are_packed_in_the_order_of_cudnn",
    ),
    fault(
        "cells/lstm.py",
        "lstm.cudnn_weights",
        "kernels not transposed",
        'params["w_h"].T',
        'params["w_h"]',
        f"{CUDNN_TEST}_values_and_gradient_are_those_of_scan[batch0]",
    ),
    fault(
        CUDNN,
        "_run_valid_steps",
        "rolled in the wrong direction",
        "t + valid.first[None]",
        "t - valid.first[None] + 0",
        f"{CUDNN_TEST}_lengths[True]",
    ),
    fault(
        CUDNN,
        "_run_valid_steps",
        "an empty row advances",
        "jnp.where(is_empty, h_0, h) * factor",
        "h * factor",
        f"{CUDNN_TEST}_lengths[False]",
    ),
    fault(
        CUDNN,
        "_run_valid_steps",
        "padding is not the held state",
        "h_0[None], h[None]",
        "h_0[None], h_0[None]",
        f"{CUDNN_TEST}_lengths[False]",
    ),
    fault(
        CUDNN,
        "_valid_steps",
        "a gap is not seen",
        "jnp.any(mask != is_in_run, axis=0)",
        "jnp.zeros(mask.shape[1], bool)",
        f"{CUDNN_TEST}_a_mask_with_a_gap",
    ),
    fault(
        CUDNN,
        "_require_lstm",
        "a subclass counts as the LSTM",
        '"cudnn_weights" in vars(type(cell))',
        'hasattr(cell, "cudnn_weights")',
        f"{CUDNN_TEST}_what_cudnn_does_not_run_is_refused",
    ),
)

FAULTS = (
    *SAVING_FAULTS,
    *RECOMPUTING_FAULTS,
    *TRUNCATED_FAULTS,
    *CHECKPOINTED_FAULTS,
    *RANDOMIZED_FAULTS,
    *CUDNN_FAULTS,
)
