"""Faults in the kernels of `fused`: indices, the carry, and what is brought on chip."""

from faults.planting import fault

TPU, BODY, LOOP = (f"loops/fused/{name}.py" for name in ("tpu", "body", "loop"))
TEST = "loops/test_fused.py::test"
GRADIENT = f"{TEST}_values_and_gradient_equal_autodiff[gru]"

FAULTS = (
    fault(
        TPU,
        "_chunk_at",
        "off by one chunk",
        "np.int32(num_chunks - 1) - i",
        "np.int32(num_chunks - 1) - jnp.maximum(i, 1)",
        GRADIENT,
    ),
    fault(
        TPU,
        "_run_chunk",
        "stale carry: each chunk starts anew",
        "i == 0",
        "i >= 0",
        GRADIENT,
    ),
    fault(
        TPU,
        "_run_chunk.end",
        "the carry before the first step is returned",
        "last_ref, carry_ref",
        "last_ref, first_ref",
        GRADIENT,
    ),
    fault(
        TPU,
        "_run_chunk",
        "padding of the last chunk is run",
        "jnp.minimum(np.int32(chunk), np.int32(kernel.steps) - chunk_index * np.int32(chunk))",
        "np.int32(chunk)",
        GRADIENT,
    ),
    fault(
        TPU,
        "_run_chunk.run_step",
        "off by one step, backward",
        "steps - np.int32(1) - n",
        "jnp.maximum(steps - np.int32(2) - n, np.int32(0))",
        GRADIENT,
    ),
    fault(
        BODY,
        "Body.__call__",
        "swapped residuals",
        "[*constants, *carry, *x]",
        "[*constants, *carry, *x[:-2], x[-1], x[-2]]",
        GRADIENT,
    ),
    fault(
        BODY,
        "trace",
        "everything is brought on chip",
        "{*jaxprs.reads(equations), *jaxprs.variables_of(jaxpr.outvars)}",
        "{*variables}",
        f"{TEST}_constants_and_inputs_that_nobody_reads_stay_outside",
    ),
    fault(
        TPU,
        "Stored.unpack",
        "booleans stay integers",
        "x != 0 if self.original.dtype == jnp.bool_ else x",
        "x",
        f"{TEST}_transformed_cells_keep_their_gradient[masks and resets]",
    ),
    fault(
        "loops/fused/kernel.py",
        "ScanKernel.run_as_scan",
        "a gradient of a gradient in the other direction",
        "reverse=self.reverse",
        "reverse=not self.reverse",
        f"{TEST}_forward_over_reverse_and_a_vmap_of_it",
    ),
    fault(
        LOOP,
        "_derivative",
        "values with another batch axis than the kernel's",
        "_run(kernel, *primals), tangents_out",
        "kernel.run_as_scan(*primals), tangents_out",
        f"{TEST}_a_hessian",
    ),
    fault(
        TPU,
        "TpuKernel.require_room",
        "room is not asked for",
        "needed <= vmem_bytes()",
        "True",
        f"{TEST}_what_does_not_fit_is_refused_before_anything_is_compiled",
    ),
)
