"""Faults in the kernel of `fused` for a GPU: indices, the carry, and what lies where."""

from faults.planting import fault

GPU, EQUATIONS, PLAN, VALUES = (
    f"loops/fused/{name}.py" for name in ("gpu", "gpu_equations", "gpu_plan", "gpu_values")
)
TEST = "loops/test_fused_gpu.py::test"
GRADIENT = f"{TEST}_values_and_gradient_equal_autodiff[gru]"

FAULTS = (
    fault(
        GPU,
        "_run_block.run_step",
        "off by one step: the next inputs are those of this step",
        "load_x(n + np.int32(1))",
        "load_x(n)",
        GRADIENT,
    ),
    fault(
        GPU,
        "_run_block.time",
        "off by one step, backward",
        "np.int32(steps - 1) - n",
        "jnp.maximum(np.int32(steps - 2) - n, np.int32(0))",
        GRADIENT,
    ),
    fault(
        GPU,
        "_run_block.run_step",
        "stale carry",
        "[result(v) for v in inner.new_carry], next_x",
        "carry, next_x",
        GRADIENT,
    ),
    fault(
        GPU,
        "_run_block.run_step",
        "swapped residuals",
        "[*carry, *x]",
        "[*carry, *x[:-2], x[-1], x[-2]]",
        GRADIENT,
    ),
    fault(
        GPU,
        "_run_block",
        "all blocks of threads run the same rows",
        'lax.axis_index("block") * np.int32(partition.rows)',
        'lax.axis_index("block") * np.int32(0)',
        GRADIENT,
    ),
    fault(
        GPU,
        "OnChip.product",
        "the groups of a product overwrite each other",
        "self.operand[j]",
        "self.operand[0]",
        GRADIENT,
    ),
    fault(
        GPU,
        "OnChip.product.add_rows",
        "all groups of a product take the first rows of W",
        "k + np.int32(j * partition.unit)",
        "k",
        GRADIENT,
    ),
    fault(
        GPU,
        "OnChip.product",
        "rows in registers meet other features",
        "np.int32(in_memory + i)",
        "np.int32(i)",
        f"{TEST}_rows_that_do_not_fit_are_kept_in_registers[lstm]",
    ),
    fault(
        EQUATIONS,
        "_reduce",
        "padding is summed",
        "column < partition.unit",
        "column < partition.columns",
        f"{TEST}_values_and_gradient_equal_autodiff[layer_norm_lstm]",
    ),
    fault(
        VALUES,
        "Partition.unpack",
        "booleans stay integers",
        "x != 0 if aval.dtype == jnp.bool_ else x",
        "x",
        f"{TEST}_booleans_and_integers_are_inputs_carries_and_outputs",
    ),
    fault(
        PLAN,
        "require_room",
        "room is not asked for",
        "plan.shared_bytes <= SHARED_MEMORY",
        "True",
        f"{TEST}_what_does_not_fit_is_refused_before_anything_is_compiled",
    ),
)
