"""Faults in running a part over a sequence: its direction, masks and resets, networks, checks."""

from faults.planting import fault

SEQUENCE, RUNNER, NETWORKS, TREE = (
    f"{name}.py" for name in ("sequence", "runner", "networks", "tree")
)
ARRAYS, OPTIONS = "check/arrays.py", "check/options.py"

LAWS = "test_sequence_laws.py::test"
ALONE = f"{LAWS}_rows_of_every_loop_equal_rows_alone"
NETS = "test_networks.py::test"
DROPOUT = "transforms/test_noise.py::test_dropout_between_layers"
DEVICES = "test_composition.py::test_over_eight_devices_the_gradient_is_the_same"
TOKENS = "test_tokens.py::test"

SEQUENCE_FAULTS = (
    fault(
        RUNNER,
        "Runner._of_part",
        "one draw for all parts",
        "types.loop_of_part(self.loop, index)",
        "self.loop",
        "loops/test_randomized.py::test_each_part_of_a_network_draws_for_itself",
    ),
    fault(
        RUNNER,
        "Runner._of_part",
        "one key for all parts",
        "jax.random.fold_in(self.key, index)",
        "self.key",
        DROPOUT,
    ),
    fault(
        RUNNER,
        "Runner._reset_in_direction",
        "reset not turned",
        "previous_states(no_reset, reset, True, types.time_axis_of(self.loop))",
        "reset",
        f"{ALONE}[bptt-masked-resets-reverse]",
    ),
    fault(
        RUNNER,
        "Runner._reset_in_direction",
        "reset wraps around",
        "jnp.zeros_like(reset[0])",
        "reset[0]",
        f"{ALONE}[bptt-masked-resets-reverse]",
    ),
    fault(
        RUNNER,
        "Runner._run_step",
        "reset to the argument",
        "zero_carry(step, params, xs, self.reset.shape[1:])",
        "carry",
        f"{ALONE}[bptt-resets]",
    ),
    fault(
        RUNNER,
        "HistoryRunner._run_loop",
        "states one step off",
        "previous_states(c, cs, False, axis)",
        "cs",
        "test_history.py::test_every_gate_of_an_lstm",
    ),
    fault(
        RUNNER,
        "zero_carry",
        "state not laid",
        "if not any(row_sharding.spec)",
        "if True",
        f"{DEVICES}[explicit]",
    ),
    fault(
        SEQUENCE,
        "_checked_run",
        "outputs not zero",
        "tree.zero_unmasked(mask, ys)",
        "ys",
        f"{ALONE}[bptt-masked]",
    ),
    fault(
        SEQUENCE,
        "_checked_run",
        "NaN let into layers",
        "tree.fill_unmasked(mask, xs, runner.fill_value)",
        "xs",
        f"{NETS}_nan_in_the_padding_reaches_no_layer",
    ),
    fault(
        SEQUENCE,
        "lengths_to_mask",
        "lengths off by one",
        " < lengths[None]",
        " <= lengths[None]",
        f"{LAWS}_lengths_are_a_mask",
    ),
)

NETWORK_FAULTS = (
    fault(
        NETWORKS,
        "stacked.num_feature_axes",
        "tokens with features",
        "self.parts[0].num_feature_axes",
        "1",
        f"{TOKENS}_every_network_starts_from_its_zero_state[()-stacked]",
    ),
    fault(
        NETWORKS,
        "bidirectional.run_parts",
        "directions swapped",
        "self._merged(ys, backward_ys)",
        "self._merged(backward_ys, ys)",
        f"{NETS}_both_directions_equal_two_runs_by_hand[concatenated-alone]",
    ),
    fault(
        NETWORKS,
        "bidirectional.run_parts",
        "second not turned",
        "reverse=True",
        "reverse=False",
        f"{NETS}_both_directions_equal_two_runs_by_hand[summed-with both]",
    ),
    fault(
        NETWORKS,
        "residual.run_parts",
        "shortcut left out",
        "ys + jnp.asarray(xs, ys.dtype)",
        "ys",
        f"{NETS}_a_stack_is_its_parts_one_after_another",
    ),
)

TREE_FAULTS = (
    fault(
        TREE,
        "fill_unmasked.fill",
        "padded tokens filled",
        "value if is_inexact(x) else 0",
        "value",
        f"{TOKENS}_ragged_rows_are_each_row_alone[projected]",
    ),
    fault(
        TREE,
        "sparse_cotangents.is_zero",
        "float0 let in",
        ' or getattr(ct, "dtype", None) == jax.dtypes.float0',
        "",
        "loops/test_bptt.py::test_integers_in_the_carry_may_pass_through_an_outer_scan",
    ),
    fault(
        TREE,
        "to_varying",
        "nothing varies",
        "tuple(axes - ",
        "tuple(axes & ",
        f"{DEVICES}[shard_map]",
    ),
)

CHECK_FAULTS = (
    fault(
        ARRAYS,
        "require_same_tree",
        "batches broadcast",
        "leaf.shape == wanted.shape",
        "True",
        "test_check.py::test_bad_input_raises_our_error_before_anything_compiles",
    ),
    fault(
        OPTIONS,
        "require_callable",
        "loop not asked",
        "if takes is not None:",
        "if False:",
        "test_bad_input.py::test_bad_input_raises_our_error_before_anything_compiles",
    ),
    fault(
        ARRAYS,
        "float_dtype",
        "dtype of the widest",
        "return min(floats",
        "return max(floats",
        "cells/test_lstm_variants.py::test_narrow_params_may_have_a_start_that_is_learned_and_wide",
    ),
)

FAULTS = (*SEQUENCE_FAULTS, *NETWORK_FAULTS, *TREE_FAULTS, *CHECK_FAULTS)
