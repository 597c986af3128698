"""Faults in the backward pass that is derived from a plain step."""

from faults.planting import backward, fault

EXITS, GRAPH, JAXPRS, LINEARIZED, RECURRENCE, REGIONS = (
    f"loops/derived/{name}.py"
    for name in ("gradient_exits", "min_cut", "jaxprs", "linearized", "recurrence", "regions")
)
TEST = "loops/test_derived.py::test"
VALUES = f"{TEST}_values_and_gradient_equal_autodiff"
IN_THE_CARRY = f"{TEST}_what_rides_in_the_carry_has_the_gradient_of_autodiff"
CUT = "loops/test_min_cut.py::test"

LOOP_FAULTS = (
    backward(
        RECURRENCE,
        "Recurrence.adjoint",
        "λ does not go on",
        "d_previous = jaxprs.values_of(env, step.outputs.d_carry_in)",
        "d_previous = d_carry",
        "plain",
    ),
    backward(
        LINEARIZED, "_", "slope left out", "tangents[0] + tangents[1]", "tangents[1]", "plain"
    ),
    backward(
        RECURRENCE,
        "_stacks",
        "no shift",
        "tree.shift_right(first, stacks[after])",
        "stacks[after]",
        "plain",
    ),
    fault(
        RECURRENCE,
        "_gradients",
        "sums lost",
        "delta[v] if v in exits.summed else d",
        "d",
        f"{IN_THE_CARRY}[7-inner loop]",
    ),
    fault(
        RECURRENCE,
        "_gradients",
        "inputs' own gradients lost",
        "delta[v] if v in exits.direct else d",
        "d",
        f"{IN_THE_CARRY}[7-inner loop]",
    ),
    fault(
        RECURRENCE,
        "_split_at_carry",
        "readout's gradient lost",
        "unused.pop(v, None)",
        "None",
        f"{VALUES}[7-readout]",
    ),
    fault(
        RECURRENCE,
        "_split_at_carry",
        "readout's gradient twice",
        "unused.pop(v, None)",
        "unused.get(v)",
        f"{IN_THE_CARRY}[7-twice]",
    ),
)

REGION_FAULTS = (
    fault(
        REGIONS,
        "unchanged",
        "memory kept at every step",
        "v is out for",
        "False for",
        f"{TEST}_an_unchanged_array_of_the_carry_is_a_parameter",
    ),
    fault(
        REGIONS,
        "draws_otherwise_in_a_batch",
        "other draws in a batch",
        '"rbg"',
        '"RBG"',
        f"{TEST}_keys_of_every_kind_draw_the_same_numbers[rbg]",
    ),
    fault(
        REGIONS,
        "",
        "branches moved",
        'NEVER_BATCHED = {"cond", "while", "pure_callback", "rng_bit_generator"}',
        "NEVER_BATCHED = set()",
        f"{TEST}_branches_and_searches_stay_in_order",
    ),
    fault(
        REGIONS,
        "_enlarging",
        "outer products ahead",
        "if larger or eqn.primitive",
        "if eqn.primitive",
        f"{TEST}_an_outer_product_of_inputs_is_made_inside_the_loop",
    ),
    fault(
        LINEARIZED,
        "separate_sunk_inputs",
        "a search differentiated",
        "v not in carry_out and v in reached",
        "v not in carry_out and jaxprs.has_gradient(v)",
        f"{IN_THE_CARRY}[7-searched for outputs]",
    ),
)

JAXPR_FAULTS = (
    fault(
        JAXPRS,
        "evaluate",
        "a choice between a value and itself",
        'eqn.primitive.name == "select_n"',
        "False",
        f"{TEST}_an_unchanged_array_of_the_carry_is_a_parameter",
    ),
    fault(
        JAXPRS,
        "",
        "all made again",
        '*("mul", "div",',
        '*("mul", "tanh", "div",',
        f"{TEST}_no_more_is_kept_than_the_backward_pass_needs[attending with tanh]",
    ),
    fault(
        JAXPRS,
        "weight_product",
        "not transposed",
        "((contracted, (1,)), batch)",
        "((contracted, (0,)), batch)",
        f"{VALUES}[7-dense]",
    ),
    fault(
        JAXPRS,
        "weight_product.with_tangent",
        "a matrix's tangent lost",
        "if not isinstance(dw, SymbolicZero):",
        "if False:",
        f"{TEST}_what_rides_in_the_carry_has_a_gradient_of_its_gradient[stopped]",
    ),
)

EXITS_FAULTS = (
    fault(
        EXITS,
        "Exits.values",
        "w reached through F as well",
        "target[v] = x",
        "computed[v] = env[v] = x",
        f"{VALUES}[7-low rank]",
    ),
    fault(
        EXITS,
        "_costs",
        "large gradients stacked",
        "jaxprs.size_in_bytes(v) // 2",
        "jaxprs.size_in_bytes(v) * 2",
        f"{TEST}_a_large_parameter_has_its_gradient_summed_inside_the_loop",
    ),
    fault(
        EXITS,
        "_costs",
        "a matrix in two places",
        " and v not in exits",
        "",
        f"{IN_THE_CARRY}[7-product and branch]",
    ),
    fault(
        GRAPH,
        "smallest_cut",
        "the farthest cut",
        "graph - result.flow",
        "graph",
        f"{CUT}_it_is_the_cheapest_set_on_every_path",
    ),
    fault(
        GRAPH,
        "smallest_cut",
        "what must not be cut",
        "unlimited if cost is None else scaled",
        "scaled",
        f"{CUT}_what_must_not_be_in_it_is_not",
    ),
)

FAULTS = (*LOOP_FAULTS, *REGION_FAULTS, *JAXPR_FAULTS, *EXITS_FAULTS)
