"""Faults in what all cells share: their starts, their dtypes, how arrays lie over devices."""

from faults.planting import fault

KERNELS, GATED, ORTHOGONAL = "cells/kernels.py", "cells/gated.py", "cells/orthogonal.py"
ORTHONORMAL = "cells/test_orthogonal.py::test"
DEVICES = "test_composition.py::test_over_eight_devices_the_gradient_is_the_same"

FAULTS = (
    fault(
        "cells/wide.py",
        "WideCell.advance",
        "step narrow",
        "tree.cast((carry, z), kernels.at_least_float32(dtype))",
        "(carry, z)",
        "cells/test_cells.py::test_a_narrow_step_computes_in_float32",
    ),
    fault(
        GATED,
        "GateParameters.init",
        "one gate for all",
        "orthogonal(key_h,",
        "orthogonal(keys_h[0],",
        "cells/test_cells.py::test_gates_start_apart",
    ),
    fault(
        KERNELS,
        "kernel_gradient",
        "weights not laid",
        "jax.typeof(w).sharding",
        "None",
        f"{DEVICES}[explicit]",
    ),
    fault(
        ORTHOGONAL,
        "orthogonal",
        "a start by LAPACK",
        "polar(jax.random.normal(key, (max(shape), min(shape)), dtype))",
        "jnp.linalg.qr(jax.random.normal(key, (max(shape), min(shape)), dtype))[0]",
        "test_hangs.py::test_no_start_calls_lapack[lstm]",
    ),
    fault(
        ORTHOGONAL,
        "orthogonal",
        "a start of uniform numbers",
        "jax.random.normal(key, (max(shape), min(shape)), dtype)",
        "jax.random.uniform(key, (max(shape), min(shape)), dtype, -1, 1)",
        f"{ORTHONORMAL}_moments_are_those_of_the_uniform_distribution",
    ),
    fault(
        ORTHOGONAL,
        "polar.is_far",
        "a start that stops too soon",
        "> tolerance",
        "> 0.1",
        f"{ORTHONORMAL}_rows_or_columns_are_orthonormal_to_rounding",
    ),
    fault(
        ORTHOGONAL,
        "",
        "a start that gives up",
        "MAX_ITERATIONS = 100",
        "MAX_ITERATIONS = 20",
        f"{ORTHONORMAL}_the_worst_conditioned_matrices_have_their_polar_factor",
    ),
)
