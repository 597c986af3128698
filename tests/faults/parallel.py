"""Faults in `parallel`: the associative scan, Newton's method, the structure of a step, devices."""

from faults.planting import Fault, fault

FOLDER = "loops/parallel"
SCAN, SOLVE, SOLVER, DEVICES, STRUCTURE, DEPENDENCE, VECTORS = (
    f"{FOLDER}/{name}.py"
    for name in (
        *("affine_scan", "solve", "solver", "devices", "structure", "dependence", "vectors"),
    )
)
PLAIN_STEP, JAXPRS = f"{FOLDER}/plain_step.py", "loops/derived/jaxprs.py"
TEST = "loops/test_parallel.py::test"
RULES = "loops/test_parallel_rules.py::test"
ANYWHERE = f"{RULES}_a_rule_anywhere_in_an_elementwise_step"
MIXED = f"{TEST}_steps_that_mix_their_units[gru-dense]"
LRU = f"{TEST}_values_and_gradient_equal_those_of_scan[lru]"
IN_ORDER = f"{TEST}_what_has_not_converged_runs_in_order[3-dense]"
ON_DEVICES = "loops/test_parallel_devices.py::test_everything_is_as_on_one_device"
AXES = f"{TEST}_what_is_affine_and_which_axes_are_rows"

SCAN_FAULTS = (
    fault(SCAN, "_combine_matrices", "transposed", "matmul(next_a, a,", "matmul(a, next_a,", MIXED),
    fault(SCAN, "_combine_diagonals", "b of the second alone", " + next_b", "", LRU),
    fault(
        SCAN,
        "_apply",
        "a reset lets NaN through",
        "else (a == 0) | (d == 0)",
        "else d == 0",
        f"{TEST}_nan_does_not_pass_a_reset",
    ),
    fault(SCAN, "affine_scan", "time runs forward", "reverse=reverse", "reverse=False", LRU),
    fault(
        SCAN,
        "_with_tangent",
        "the derivative of A left out",
        "_times(da, previous) + db",
        "db",
        f"{TEST}_a_hessian_of_a_linear_cell",
    ),
)
SOLVE_FAULTS = (
    fault(VECTORS, "diagonal", "a conjugate too many", "return slope", "return slope.conj()", LRU),
    fault(
        SOLVE,
        "_solve",
        "nothing runs in order",
        "states = _run_in_order(problem, states, first)",
        "",
        IN_ORDER,
    ),
    fault(
        SOLVE, "_run_in_order", "one step late", "begin = first, ", "begin = first + 1, ", IN_ORDER
    ),
    fault(
        SOLVE,
        "_run_in_order",
        "from the wrong state",
        "jnp.maximum(first, 1) - 1",
        "first",
        IN_ORDER,
    ),
    fault(
        SOLVE,
        "_first_step",
        "from the last violation",
        "jnp.argmax(ordered)",
        "len(marks) - 1 - jnp.argmax(jnp.flip(ordered))",
        IN_ORDER,
    ),
    fault(
        SOLVE,
        "_solve.iterate",
        "stops too early",
        "~jnp.any(is_violated(states, values))",
        "jnp.all(states == states)",
        f"{TEST}_few_iterations_where_the_method_converges",
    ),
    fault(
        SOLVE,
        "_Problem.corrections",
        "no damping",
        "slopes * (1 - damping)",
        "slopes",
        f"{TEST}_damping_keeps_the_solution",
    ),
    fault(
        SOLVE,
        "_violation",
        "NaN is a solution",
        "jnp.isnan(violation), jnp.inf",
        "jnp.isnan(violation), 0",
        f"{TEST}_nan_in_an_input_is_nan_in_the_states",
    ),
    fault(
        SOLVER,
        "InParallel.cotangents",
        "the output's adjoint left out of λ",
        "tree.add_sparse(self._before(d_last, us, reverse=True), d_carries)",
        "self._before(d_last, us, reverse=True)",
        LRU,
    ),
)
SOLVE_FAULTS += (
    Fault(
        "a diverged state hides errors",
        SOLVE,
        "_violation",
        (
            ("jnp.isfinite(values), jnp.abs(values), 0", "True, jnp.abs(states), 0"),
            ("jax.lax.cummax(scale, axis=0, reverse=reverse)", "jnp.max(scale, 0, keepdims=True)"),
        ),
        IN_ORDER,
    ),
    fault(
        SOLVE,
        "_violation",
        "an absolute tolerance",
        "jnp.where(scale == 0, 1, scale)",
        "jnp.maximum(scale, 1)",
        f"{TEST}_small_losses_and_small_states_are_solved_too[quasi_diagonal]",
    ),
)
STRUCTURE_FAULTS = (
    fault(
        DEPENDENCE,
        "_keeps_numbers",
        "a conversion that rounds is affine",
        "source.itemsize < target.itemsize",
        "source.itemsize > 0",
        f"{AXES}[<lambda>-False-2_5]",
    ),
    fault(
        STRUCTURE,
        "strongly_connected",
        "solved in the reverse order",
        "(len(reaches[group[0]] | {*group}), group)",
        "(-len(reaches[group[0]] | {*group}), group)",
        f"{TEST}_steps_of_a_user[triangular]",
    ),
    fault(
        DEPENDENCE,
        "_is_affine",
        "a choice by the carry is affine",
        "return not dependent[0]",
        "return True",
        f"{TEST}_a_choice_by_a_flag_of_the_carry_is_not_affine",
    ),
    fault(
        DEPENDENCE,
        "_is_affine",
        "a square is affine",
        "return sum(dependent) == 1",
        "return True",
        f"{AXES}[<lambda>-False-2_1]",
    ),
    fault(
        DEPENDENCE,
        "_results",
        "a while loop has a derivative",
        "jaxprs.has_derivative(eqn) and all",
        "all",
        f"{RULES}_a_while_loop_over_the_carry_runs_in_order[diagonal]",
    ),
    fault(
        DEPENDENCE,
        "_pad",
        "a shifted axis keeps its rows",
        "if any(sizes)",
        "if any(sizes[:1]) and sizes[0] < 0",
        f"{AXES}[<lambda>-True-1_5]",
    ),
)
DEVICE_FAULTS = (
    fault(
        DEVICES,
        "previous_states",
        "the first carry left out",
        "axis.position(reverse) == 0, first, received",
        "axis.position(reverse) < 0, first, received",
        f"{ON_DEVICES}[2 lru False]",
    ),
    fault(
        DEVICES,
        "gather_ends",
        "a device counts itself",
        "position > place",
        "position >= place",
        f"{ON_DEVICES}[2 lru False]",
    ),
    fault(
        DEVICES,
        "TimeAxis.devices",
        "devices in one order",
        "devices[::-1] if reverse != self.is_reversed else devices",
        "devices",
        f"{ON_DEVICES}[8 lru True]",
    ),
    fault(
        "runner.py",
        "Runner._reset_in_direction",
        "no reset from the next device",
        "types.time_axis_of(self.loop)",
        "None",
        f"{ON_DEVICES}[8 lru True]",
    ),
)

RULE_FAULTS = (
    fault(
        SOLVER,
        "_recurrence",
        "the slopes of the rule forward",
        "jaxprs.primal(recurrence, leaves, check.one_step(zs))",
        "recurrence",
        f"{RULES}_newtons_method_uses_the_derivative_of_the_function",
    ),
    fault(
        SOLVER,
        "InParallel.cotangents",
        "every adjoint is linear",
        "isinstance(cell, PlainStep) and not cell.has_custom_vjp",
        "True",
        f"{ANYWHERE}[clipped-state]",
    ),
    fault(
        SOLVE,
        "_runs_in_order",
        "the adjoint of a clipped norm is refused",
        "not is_adjoint or component.is_elementwise",
        "True",
        f"{ANYWHERE}[norm clipped-state]",
    ),
    fault(
        PLAIN_STEP,
        "PlainStep.adjoint",
        "the rule gets the cotangent of the state alone",
        "(advance, residuals.previous_carry)(d_carry)",
        "(advance, residuals.previous_carry)(d_carry._replace(y=tree.zero_cotangents(d_carry.y)))",
        f"{RULES}_the_rule_gets_the_sum_of_the_cotangents_of_state_and_output",
    ),
    fault(
        "loops/derived/__init__.py",
        "closed",
        "a rule of parameters gets the sum over all steps",
        "bool(rules) and _has_rule_of_params(traced, rules)",
        "False",
        f"{ANYWHERE}[clipped-parameter]",
    ),
    fault(
        "loops/derived/regions.py",
        "_dependence",
        "a rule of parameters runs once under bptt",
        "or has_rule_of_parameters(eqn, dependence)",
        "",
        f"{RULES}_a_rule_under_bptt[norm clipped-parameter]",
    ),
    fault(
        "loops/derived/regions.py",
        "has_rule_of_parameters",
        "a rule inside another equation is not seen",
        "(_is_nested_rule(eqn) or dependence == INVARIANT)",
        "dependence == INVARIANT",
        f"{RULES}_a_rule_of_a_parameter_inside_another_equation",
    ),
    fault(
        SOLVE,
        "_repair",
        "NaN spreads in a product of matrices",
        "jnp.where(is_finite, states, in_order)",
        "states",
        f"{RULES}_nan_stays_in_the_units_of_scan_where_matrices_are_multiplied",
    ),
    fault(
        JAXPRS,
        "_evaluate_primal",
        "a function without a derivative loses its rule",
        "inner is not None and all(map(has_derivative, inner.eqns))",
        "inner is not None",
        f"{RULES}_a_while_loop_with_a_rule_has_the_slopes_of_the_rule",
    ),
)

FAULTS = (*SCAN_FAULTS, *SOLVE_FAULTS, *STRUCTURE_FAULTS, *DEVICE_FAULTS, *RULE_FAULTS)
