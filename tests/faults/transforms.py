"""Faults in the transformations of cells and steps."""

from faults.planting import Fault, fault

MASKING, RESETS = "transforms/masking.py", "transforms/resets.py"
ADJOINT, SUBSTITUTE_CARRY, ROWS, DETACH = (
    f"transforms/{name}.py" for name in ("adjoint", "substitute_carry", "rows", "h_detach")
)
NOISE, CARRY_NOISE = "transforms/noise.py", "transforms/carry_noise.py"
ZONEOUT, KERNELS = "transforms/zoneout.py", "cells/kernels.py"
STEP_LOSS, AUTOREGRESSIVE = "transforms/step_loss.py", "transforms/autoregressive.py"

ALONE = "test_sequence_laws.py::test_rows_of_every_cell_equal_rows_alone"
MASKS = "transforms/test_masks_and_resets.py::test"
ADJOINTS = "transforms/test_adjoint.py::test"
OUTPUTS = f"{ADJOINTS}_a_readout_inside_a_plain_step_belongs_to_the_loss_of_its_step"
CLIPPED = f"{ADJOINTS}_every_control_equals_a_python_loop"
NOISES = "transforms/test_noise.py::test"
NOISY = f"{NOISES}_one_key_gives_one_result_and_gradient_under_every_loop"
EXPRESSIONS = "interop/test_expressions.py::test"

MASKING_FAULTS = (
    fault(
        MASKING,
        "MaskedCell.advance",
        "carry not held",
        "tree.where(z.mask, new_carry, carry)",
        "new_carry",
        f"{ALONE}[lstm]",
    ),
    fault(
        MASKING,
        "MaskedCell.adjoint",
        "λ does not pass",
        "tree.where(mask, d_previous, d_carry)",
        "d_previous",
        f"{ALONE}[lstm]",
    ),
    fault(
        MASKING,
        "MaskedCell.adjoint",
        "δ at held steps",
        "tree.zero_unmasked(mask, d_carry)",
        "d_carry",
        f"{ALONE}[lstm]",
    ),
    fault(
        MASKING,
        "MaskedCell.project",
        "NaN let in",
        "tree.fill_unmasked(xs.mask, xs.xs, self.fill_value)",
        "xs.xs",
        f"{MASKS}_nan_where_the_mask_is_false_reaches_nothing",
    ),
    fault(
        MASKING,
        "MaskedCell.project",
        "mask on the axes of features",
        "xs.mask, xs.xs, self.num_feature_axes",
        "xs.mask, xs.xs, 1",
        "test_tokens.py::test_a_cell_may_take_tokens_itself",
    ),
    fault(
        MASKING,
        "MaskedStep.__call__",
        "plain carry not held",
        "tree.where(x.mask, new_carry, carry)",
        "new_carry",
        f"{ALONE}[plain]",
    ),
    # Nothing keeps a plain step, which may close over traced values.
    Fault(
        "plain steps kept",
        MASKING,
        "masked",
        (("def masked(", "@__import__('functools').cache\ndef masked("),),
        f"{EXPRESSIONS}_a_plain_step_is_not_kept[masked]",
    ),
    # The expression of a cell calls the function that makes it.
    fault(
        MASKING,
        "MaskedCell",
        "another name in the expression",
        'expression_name = "masked"',
        'expression_name = "MaskedCell"',
        f"{EXPRESSIONS}_a_transformation_prints_and_is_read_back[masked-0]",
    ),
)

RESET_FAULTS = (
    fault(
        RESETS,
        "ResettableCell.adjoint",
        "λ crosses",
        "tree.zero_unmasked(~reset, d_previous)",
        "d_previous",
        f"{ALONE}[lstm]",
    ),
    fault(
        RESETS,
        "ResettableCell.adjoint",
        "adjoint at the old carry",
        "_of_inner_cell(w, residuals)",
        "residuals._replace(z=residuals.z.xs)",
        f"{ALONE}[lstm]",
    ),
    fault(
        RESETS,
        "ResettableCell.adjoint",
        "start's λ at all steps",
        "tree.zero_unmasked(reset, d_previous)",
        "d_previous",
        f"{ALONE}[lstm]",
    ),
    fault(
        RESETS,
        "ResettableCell.gradients",
        "gradients at the old carry",
        "_of_inner_cell(w, residuals)",
        "residuals._replace(z=residuals.z.xs)",
        f"{ALONE}[lstm]",
    ),
    fault(
        RESETS,
        "ResettableCell.gradients",
        "start of one row alone",
        "axis=tuple(range(d.ndim - jnp.ndim(c)))",
        "axis=0",
        f"{MASKS}_a_start_without_batch_axes_is_that_of_all_rows",
    ),
)

ADJOINT_FAULTS = (
    fault(
        ADJOINT,
        "RuledCell.adjoint",
        "rule ignored by hand",
        "d_carry, d_probe = self.rule(d_carry,",
        "_, d_probe = self.rule(d_carry,",
        f"{CLIPPED}[clip-lstm-bptt]",
    ),
    fault(
        ADJOINT,
        "RuledCell.advance",
        "rule by hand alone",
        "apply_rule(self.rule, batch_rank, new_carry, z.probe)",
        "new_carry",
        f"{CLIPPED}[clip-gru-scan]",
    ),
    fault(
        ROWS,
        "flatten_rows",
        "norm over all rows",
        "collapse(part, num_batch_axes)",
        "collapse(part, 0)",
        f"{CLIPPED}[clip-lstm-bptt]",
    ),
    fault(
        ROWS,
        "num_batch_axes",
        "features counted as rows",
        "isinstance(step, Part) and shapes",
        "False",
        "test_feature_axes.py::test_a_clipped_row_has_the_limit_as_its_norm",
    ),
    fault(
        DETACH,
        "detach_adjoint._draw",
        "one draw for each feature",
        "*batch_axes(self.cell, carry)",
        "*jax.tree.leaves(carry)[0].shape[:-1]",
        "test_feature_axes.py::test_what_is_detached_is_detached_in_whole_rows",
    ),
    fault(
        ROWS,
        "row_norm",
        "squares that underflow",
        "one_where_zero(jnp.max(sizes, axis=-1, initial=0))",
        "jnp.ones_like(sizes[..., 0])",
        f"{ADJOINTS}_zero_and_extreme_adjoints_are_normalised",
    ),
    fault(
        SUBSTITUTE_CARRY,
        "with_watched_carry",
        "y passes by",
        "changed = {*watched}",
        "changed = set()",
        OUTPUTS,
    ),
    fault(
        SUBSTITUTE_CARRY,
        "with_watched_carry",
        "a rule run twice",
        "not changed.isdisjoint(jaxprs.reads([eqn]))",
        "True",
        f"{ADJOINTS}_a_rule_that_does_not_scale_runs_once_a_step",
    ),
    fault(
        SUBSTITUTE_CARRY,
        "_flat_jaxpr",
        "a rule unwrapped",
        "jax.make_jaxpr(step,",
        'jax.make_jaxpr(getattr(step, "__wrapped__", step),',
        f"{ADJOINTS}_a_rule_of_the_users_own_is_kept[custom_vjp-clip_adjoint]",
    ),
    fault(
        SUBSTITUTE_CARRY,
        "_flat_jaxpr.evaluate",
        "checkpoint hides y",
        "eqn.primitive.name in REMAT and",
        "False and",
        f"{ADJOINTS}_a_cell_under_jit_is_clipped_as_a_plain_step",
    ),
    fault(
        DETACH,
        "detach_adjoint.adjoint",
        "detached by autodiff alone",
        "_where_kept(residuals.z.noise, d_previous, zero)",
        "d_previous",
        f"{ADJOINTS}_h_detach_stops_the_gradient_of_h_alone",
    ),
)

NOISE_FAULTS = (
    fault(
        CARRY_NOISE,
        "draw_booleans.draw",
        "noise not laid",
        "*leading, *sharding.spec",
        "*leading",
        "test_composition.py::test_over_eight_devices_the_gradient_is_the_same[explicit]",
    ),
    fault(
        NOISE,
        "dropout_factors",
        "kept numbers not scaled",
        "1 / (1 - rate)",
        "1.0",
        f"{NOISES}_dropout_between_layers",
    ),
    fault(
        KERNELS,
        "recurrent_product_adjoint",
        "adjoint without mask",
        "scale(dot(deltas, kernel.w_t), kernel.dropout_mask)",
        "dot(deltas, kernel.w_t)",
        f"{NOISY}[bptt-variational]",
    ),
    fault(
        KERNELS,
        "recurrent_kernel_gradient",
        "gradient without mask",
        "scale(hs, kernel.dropout_mask)",
        "hs",
        f"{NOISY}[bptt-variational]",
    ),
    fault(
        ZONEOUT,
        "zoneout.adjoint",
        "held for new",
        "d_new = self._mix(hold, zero, d_carry)\n        d_held = self._mix(hold, d_carry, zero)",
        "d_new = self._mix(hold, d_carry, zero)\n        d_held = self._mix(hold, zero, d_carry)",
        f"{NOISY}[bptt-zoneout]",
    ),
    fault(
        ZONEOUT,
        "zoneout.adjoint",
        "adjoint at the mixed carry",
        "self._inner_residuals(residuals)",
        "self._inner_residuals(residuals)._replace(carry=residuals.carry)",
        f"{NOISY}[bptt-zoneout]",
    ),
    fault(
        ZONEOUT,
        "zoneout._mix",
        "mean turned",
        "p * c + (1 - p) * new_c",
        "(1 - p) * c + p * new_c",
        f"{NOISES}_zoneout_without_a_key_takes_the_mean",
    ),
)

OUTPUT_FAULTS = (
    fault(
        AUTOREGRESSIVE,
        "autoregressive.__call__",
        "input for output",
        "(inner_carry, next_x), Generated",
        "(inner_carry, x), Generated",
        "transforms/test_autoregressive.py::test_it_is_a_python_loop_and_differentiates[bptt]",
    ),
    fault(
        STEP_LOSS,
        "StepLossCell.advance",
        "targets shifted",
        "(new_carry, z.targets)",
        "(new_carry, carry[1])",
        "test_losses.py::test_a_loss_inside_the_loop_is_the_loss_of_the_outputs[gru]",
    ),
)

FAULTS = (*MASKING_FAULTS, *RESET_FAULTS, *ADJOINT_FAULTS, *NOISE_FAULTS, *OUTPUT_FAULTS)
