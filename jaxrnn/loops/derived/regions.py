"""The decision when each equation of a step runs.

An equation is invariant (it runs once), hoisted (it runs for all steps at once, before the loop),
recurrent (it runs in order), or sunk (it runs for all steps at once, after the loop).
"""

from collections.abc import Iterable
from typing import NamedTuple

from jaxrnn.loops.derived import jaxprs, min_cut
from jaxrnn.loops.derived.jaxprs import Atom, Equation, Jaxpr, Var

# What a value depends on: parameters; also inputs; also the carry. The order matters: an equation
# depends on the maximum of what it reads.
INVARIANT, STEPWISE, CARRIED = range(3)

# Batched over time, a cond runs every branch, and a while loop runs until the slowest step is done.
# A callback may have no batched form.
NEVER_BATCHED = {"cond", "while", "pure_callback", "rng_bit_generator"}


class Regions(NamedTuple):
    """The equations of a step by the time when they run, and the values between these groups.

    Fields:
        parameters: the invariant inputs: constants, parameters, and the arrays of the carry that
            the step passes on unchanged.
        carry_in: the other inputs of the carry, c_{t-1}.
        inputs: the inputs that are x_t.
        carry_out: c_t, the next values of `carry_in`.
        outputs: y_t.
        depends: INVARIANT, STEPWISE or CARRIED, for each variable and each equation.
        parameter_equations: the invariant equations, which depend on parameters alone.
        hoisted: the equations that depend on inputs and parameters.
        recurrent: the equations that run in order.
        sunk: the equations that only outputs need.
        invariant: the values of `parameter_equations`, or parameters, that other groups read.
        stepwise: the values of `hoisted`, or inputs, that `recurrent` or `sunk` read.
        sunk_inputs: the values of `recurrent`, or of `carry_in`, that `sunk` reads.
    """

    parameters: list[Var]
    carry_in: list[Var]
    inputs: list[Var]
    carry_out: list[Atom]
    outputs: list[Atom]
    depends: dict[Var | Equation, int]
    parameter_equations: list[Equation]
    hoisted: list[Equation]
    recurrent: list[Equation]
    sunk: list[Equation]
    invariant: list[Var]
    stepwise: list[Var]
    sunk_inputs: list[Var]


def unchanged(jaxpr: Jaxpr, constants: int, carries: int) -> list[bool]:
    """Returns for each array of the carry whether the step passes it on unchanged.

    The first `constants` inputs of the jaxpr are constants and parameters, the next `carries`
    inputs are the carry, the others are x_t. The first outputs are the carry.
    """
    carry_in = jaxprs.inputs_of(jaxpr)[constants:][:carries]
    pairs = zip(carry_in, jaxpr.outvars[:carries], strict=True)
    return [v is out for v, out in pairs]


def classify(jaxpr: Jaxpr, constants: int, carries: int) -> Regions:
    """Decides when each equation runs; `unchanged` describes the arguments."""
    variables = jaxprs.inputs_of(jaxpr)
    parameters = variables[:constants]
    inputs = variables[constants + carries :]
    outputs = jaxpr.outvars[carries:]
    carry_in: list[Var] = []
    carry_out: list[Atom] = []
    for before, after, is_unchanged in zip(
        variables[constants:][:carries],
        jaxpr.outvars[:carries],
        unchanged(jaxpr, constants, carries),
        strict=True,
    ):
        if is_unchanged:
            parameters.append(before)
        else:
            carry_in.append(before)
            carry_out.append(after)

    depends = _dependence(jaxpr.eqns, parameters, inputs, carry_in)
    enlarging = _enlarging(jaxpr.eqns, depends)

    def in_order(eqn: Equation) -> bool:
        return depends[eqn] == CARRIED or eqn in enlarging

    def must_run(eqn: Equation) -> bool:
        """Returns whether an equation stays in order even if nothing in the loop needs it."""
        stays = jaxprs.is_keyed(eqn) or _is_never_batched(eqn)
        return bool(eqn.effects) or (depends[eqn] == CARRIED and stays)

    def run_in_order(outs: list[Atom]) -> list[Equation]:
        return jaxprs.needed_for(outs, filter(in_order, jaxpr.eqns), must_run)

    # The next carry alone decides what the loop must compute. Then the cut decides which further
    # equations are cheaper inside the loop than the values that they would read after it.
    recurrent = run_in_order(carry_out)
    sunk_inputs = _sunk_inputs(jaxpr.eqns, recurrent, carry_in, carry_out, outputs, depends)
    recurrent = run_in_order([*carry_out, *sunk_inputs])
    in_loop = {*recurrent}
    after_loop = [eqn for eqn in jaxpr.eqns if depends[eqn] == CARRIED and eqn not in in_loop]
    sunk = jaxprs.needed_for(outputs, after_loop)

    # A value that no equation of the loop computes comes from before the loop.
    produced = jaxprs.producers(recurrent)
    sunk_reads = [*jaxprs.reads(sunk), *jaxprs.variables_of(outputs)]
    recurrent_reads = [*jaxprs.reads(recurrent), *jaxprs.variables_of(carry_out)]
    reads = jaxprs.unique([v for v in recurrent_reads if v not in produced] + sunk_reads)
    invariant = [v for v in reads if depends[v] == INVARIANT]
    stepwise = [v for v in reads if depends[v] == STEPWISE]

    def all_that_depend(on: int) -> list[Equation]:
        return [eqn for eqn in jaxpr.eqns if depends[eqn] == on]

    hoisted = jaxprs.needed_for(stepwise, all_that_depend(STEPWISE))
    invariant_reads = invariant + jaxprs.reads(hoisted)
    parameter_equations = jaxprs.needed_for(invariant_reads, all_that_depend(INVARIANT))
    return Regions(
        parameters=parameters,
        carry_in=carry_in,
        inputs=inputs,
        carry_out=carry_out,
        outputs=outputs,
        depends=depends,
        parameter_equations=parameter_equations,
        hoisted=hoisted,
        recurrent=recurrent,
        sunk=sunk,
        invariant=invariant,
        stepwise=stepwise,
        sunk_inputs=sunk_inputs,
    )


def _dependence(
    eqns: list[Equation], parameters: list[Var], inputs: list[Var], carry_in: list[Var]
) -> dict[Var | Equation, int]:
    """Returns the dependence of each equation and each variable."""
    depends: dict[Var | Equation, int] = {}
    depends |= dict.fromkeys(parameters, INVARIANT)
    depends |= dict.fromkeys(inputs, STEPWISE)
    depends |= dict.fromkeys(carry_in, CARRIED)
    for eqn in eqns:
        dependence = max((depends[v] for v in jaxprs.reads([eqn])), default=INVARIANT)
        never_batched = dependence == STEPWISE and _is_never_batched(eqn)
        if eqn.effects or never_batched or has_rule_of_parameters(eqn, dependence):
            dependence = CARRIED  # so that it runs in order
        depends |= dict.fromkeys([eqn, *eqn.outvars], dependence)
    return depends


def has_rule_of_parameters(eqn: Equation, dependence: int) -> bool:
    """Returns whether a custom rule for reverse mode may act on parameters alone.

    Then each step has to apply it to its own cotangent. For all steps at once, it would act on the
    sum of their cotangents, and it need not be linear.
    """
    return jaxprs.has_custom_vjp(eqn) and (_is_nested_rule(eqn) or dependence == INVARIANT)


def _is_nested_rule(eqn: Equation) -> bool:
    """Returns whether an equation, such as a loop, contains a custom rule.

    Then it is not known what the rule's arguments depend on.
    """
    return jaxprs.has_custom_vjp(eqn) and eqn.primitive.name != "custom_vjp_call"


def _is_never_batched(eqn: Equation) -> bool:
    """Returns whether an equation, or one inside it, must run step by step."""
    names = {e.primitive.name for e in jaxprs.with_inner(eqn)}
    is_never_batched = not names.isdisjoint(NEVER_BATCHED) or _is_nested_rule(eqn)
    return is_never_batched or draws_otherwise_in_a_batch(eqn)


def draws_otherwise_in_a_batch(eqn: Equation) -> bool:
    """Returns whether an equation draws other numbers in a batch than one by one.

    Keys other than threefry do.
    """
    variables = (v for e in jaxprs.with_inner(eqn) for v in (*jaxprs.reads([e]), *e.outvars))
    is_generator = any(e.primitive.name == "rng_bit_generator" for e in jaxprs.with_inner(eqn))
    return is_generator or any("rbg" in str(jaxprs.dtype_of(v)) for v in variables)


def _enlarging(eqns: list[Equation], depends: dict[Var | Equation, int]) -> set[Equation]:
    """Returns the equations that would only enlarge inputs if they ran before the loop.

    One kind is a broadcast. The other is a cheap equation whose results are larger than the values
    from which it is computed through other such equations, such as an outer product of inputs.
    """
    enlarging: set[Equation] = set()
    origins: dict[Var, set[Var]] = {}  # the values before a chain of enlarging equations
    for eqn in eqns:
        read = [v for v in jaxprs.reads([eqn]) if depends[v] == STEPWISE]
        origin = set[Var]().union(*(origins.get(v, {v}) for v in read))
        cheap = eqn.primitive.name in jaxprs.CHEAP or _is_outer_product(eqn)
        larger = cheap and depends[eqn] == STEPWISE and _size(eqn.outvars) > _size(origin)
        if larger or eqn.primitive.name == "broadcast_in_dim":
            enlarging.add(eqn)
            origins |= dict.fromkeys(eqn.outvars, origin)
    return enlarging


def _sunk_inputs(
    eqns: list[Equation],
    recurrent: list[Equation],
    carry_in: list[Var],
    carry_out: list[Atom],
    outputs: list[Atom],
    depends: dict[Var | Equation, int],
) -> list[Var]:
    """Returns the smallest set of values that separates the loop from the outputs.

    These values and their gradients are stacked over time, and everything after them runs after the
    loop. A product with a parameter always runs after the loop, where it is one product for all
    steps.
    """
    edges: list[tuple[Var, Var]] = []
    ends = [v for v in jaxprs.variables_of(outputs) if depends[v] == CARRIED]
    in_loop = {*carry_in, *jaxprs.producers(recurrent)}
    for eqn in jaxprs.needed_for(outputs, [e for e in eqns if depends[e] == CARRIED]):
        if in_loop.isdisjoint(eqn.outvars):
            read = jaxprs.unique(jaxprs.reads([eqn]))
            carried = [v for v in read if depends[v] == CARRIED]
            edges += [(v, out) for v in carried for out in eqn.outvars]
            if _is_contraction(eqn) and any(depends[v] == INVARIANT for v in read):
                ends += carried
    costs: dict[Var, int | None] = {}
    for v in jaxprs.unique([*ends, *(v for edge in edges for v in edge)]):
        # The backward pass is likely to keep c_t anyway, so it costs only its gradient.
        share = 2 if v in jaxprs.variables_of(carry_out) else 1
        costs[v] = jaxprs.size_in_bytes(v) // share
    begins = [v for v in costs if v in in_loop]
    # The graph is reversed, so that among cuts of the same cost the nearest to the loop is chosen.
    reversed_edges = [(end, begin) for begin, end in edges]
    cut, _ = min_cut.smallest_cut(costs, reversed_edges, ends, begins)
    return cut


def _is_contraction(eqn: Equation) -> bool:
    return eqn.primitive.name in ("dot_general", "conv_general_dilated")


def _is_outer_product(eqn: Equation) -> bool:
    if eqn.primitive.name != "dot_general":
        return False
    (left, right), _ = eqn.params["dimension_numbers"]
    return not left and not right


def _size(variables: Iterable[Var]) -> int:
    return sum(map(jaxprs.size_in_bytes, variables))
