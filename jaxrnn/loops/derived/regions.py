"""When each equation of a step has to run.

Compilers have words for it: an equation is invariant (run once), hoisted (run for all steps at
once, before the loop), recurrent (run in order), or sunk (run for all steps at once, after it).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxrnn.loops.derived import graph, jaxprs
from jaxrnn.loops.derived.jaxprs import Atom, Equation, Var

# The strongest dependence of a value; each kind may also depend on the kinds before it.
INVARIANT, STEPWISE, CARRIED = range(3)

# Batched over time, a cond runs every branch and a while loop runs until the slowest step is done;
# a callback may have no batched form.
NEVER_BATCHED = {"cond", "while", "pure_callback", "rng_bit_generator"}


class Regions(NamedTuple):
    """The equations of a step by when they run, and the values that go from one part to the next.

    Fields:
        parameters: the invariant inputs: constants, parameters, and what the carry hands on as it
            is.
        carry_in: the inputs that are the rest of the carry, c_{t-1}.
        inputs: the inputs that are x_t.
        carry_out: what becomes of `carry_in`, c_t.
        outputs: y_t.
        depends: INVARIANT, STEPWISE or CARRIED, of each variable.
        parameter_equations: the invariant equations, of parameters alone.
        hoisted: equations of inputs and parameters.
        recurrent: equations that run in order.
        sunk: equations that only outputs need.
        invariant: values of `parameter_equations`, or parameters, that others read.
        stepwise: values of `hoisted`, or inputs, that `recurrent` or `sunk` read.
        sunk_inputs: values of `recurrent`, or of `carry_in`, that `sunk` reads.
    """

    parameters: list[Var]
    carry_in: list[Var]
    inputs: list[Var]
    carry_out: list[Atom]
    outputs: list[Atom]
    depends: dict[Any, int]
    parameter_equations: list[Equation]
    hoisted: list[Equation]
    recurrent: list[Equation]
    sunk: list[Equation]
    invariant: list[Var]
    stepwise: list[Var]
    sunk_inputs: list[Var]


def unchanged(jaxpr: Any, constants: int, carries: int) -> list[bool]:
    """Of each array of the carry, whether the step hands it on as it is.

    The inputs of the jaxpr are so many constants, so many arrays of the carry, and x_t; its outputs
    begin with the carry.
    """
    variables = [*jaxpr.constvars, *jaxpr.invars]
    pairs = zip(variables[constants:][:carries], jaxpr.outvars, strict=False)
    return [v is out for v, out in pairs]


def classify(jaxpr: Any, constants: int, carries: int) -> Regions:
    """Decide when each equation runs; see `unchanged` for the arguments."""
    variables = [*jaxpr.constvars, *jaxpr.invars]
    carry_in, inputs = variables[constants:][:carries], variables[constants + carries :]
    kept = unchanged(jaxpr, constants, carries)
    parameters = variables[:constants] + [v for v, k in zip(carry_in, kept, strict=True) if k]
    carry_out = [v for v, k in zip(jaxpr.outvars, kept, strict=False) if not k]
    carry_in = [v for v, k in zip(carry_in, kept, strict=True) if not k]
    outputs = jaxpr.outvars[carries:]

    depends = _dependence(jaxpr.eqns, parameters, inputs, carry_in)
    enlarging = _enlarging(jaxpr.eqns, depends)

    def in_order(eqn: Equation) -> bool:
        return depends[eqn] == CARRIED or eqn in enlarging

    def must_run(eqn: Equation) -> bool:
        """Whether an equation stays in order, also where nothing in the loop needs it."""
        unmoved = jaxprs.is_keyed(eqn) or _is_never_batched(eqn)
        return bool(eqn.effects) or (depends[eqn] == CARRIED and unmoved)

    def run_in_order(outs: list[Atom]) -> list[Equation]:
        return jaxprs.needed_for(outs, filter(in_order, jaxpr.eqns), must_run)

    recurrent = run_in_order(carry_out)
    sunk_inputs = _sunk_inputs(jaxpr.eqns, recurrent, carry_in, carry_out, outputs, depends)
    recurrent = run_in_order([*carry_out, *sunk_inputs])
    sunk = [e for e in jaxpr.eqns if depends[e] == CARRIED and e not in {*recurrent}]
    sunk = jaxprs.needed_for(outputs, sunk)
    made = jaxprs.producers(recurrent)
    sunk_reads = [*jaxprs.reads(sunk), *jaxprs.variables_of(outputs)]
    recurrent_reads = [*jaxprs.reads(recurrent), *jaxprs.variables_of(carry_out)]
    given = jaxprs.unique([v for v in recurrent_reads if v not in made] + sunk_reads)
    invariant = [v for v in given if depends[v] == INVARIANT]
    stepwise = [v for v in given if depends[v] == STEPWISE]

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
) -> dict[Any, int]:
    """What each equation and each variable depends on."""
    given = (parameters, inputs, carry_in)
    depends: dict[Any, int] = {v: on for on, some in enumerate(given) for v in some}
    for eqn in eqns:
        on = max((depends[v] for v in jaxprs.reads([eqn])), default=INVARIANT)
        stays = eqn.effects or (on == STEPWISE and _is_never_batched(eqn))
        depends |= dict.fromkeys([eqn, *eqn.outvars], CARRIED if stays else on)
    return depends


def _is_never_batched(eqn: Equation) -> bool:
    """Whether an equation, or one inside it, has to run step by step.

    Keys of another kind than threefry draw other numbers in a batch than one by one.
    """
    keys = [v.aval.dtype for v in (*jaxprs.reads([eqn]), *eqn.outvars)]
    if eqn.primitive.name in NEVER_BATCHED or any("rbg" in str(dtype) for dtype in keys):
        return True
    inner = jaxprs.inner_jaxprs(eqn)
    return any(_is_never_batched(e) for jaxpr in inner for e in jaxpr.eqns)


def _enlarging(eqns: list[Equation], depends: dict[Any, int]) -> set[Any]:
    """The equations that would only make inputs larger if they ran ahead of the loop.

    A broadcast is one; so is a cheap equation that makes more than the values that it comes from,
    by way of others like it, such as an outer product of inputs.
    """
    found: set[Any] = set()
    origins: dict[Var, set[Var]] = {}
    for eqn in eqns:
        read = [v for v in jaxprs.reads([eqn]) if depends[v] == STEPWISE]
        origin = set().union(*(origins.get(v, {v}) for v in read))
        cheap = eqn.primitive.name in jaxprs.CHEAP or _is_outer_product(eqn)
        larger = cheap and depends[eqn] == STEPWISE and _size(eqn.outvars) > _size(origin)
        if larger or eqn.primitive.name == "broadcast_in_dim":
            found.add(eqn)
            origins |= dict.fromkeys(eqn.outvars, origin)
    return found


def _sunk_inputs(
    eqns: list[Equation],
    recurrent: list[Equation],
    carry_in: list[Var],
    carry_out: list[Atom],
    outputs: list[Atom],
    depends: dict[Any, int],
) -> list[Var]:
    """The values of least size that separate the loop from the outputs.

    They, and their gradients, stand in memory for all steps at once. What lies behind them runs
    after the loop. A product with a parameter always does, since there it is a single product for
    all steps.
    """
    costs: dict[Var, int | None] = {}
    edges: list[tuple[Var, Var]] = []
    ends = [v for v in jaxprs.variables_of(outputs) if depends[v] == CARRIED]
    made = {*carry_in, *jaxprs.producers(recurrent)}
    for eqn in jaxprs.needed_for(outputs, [e for e in eqns if depends[e] == CARRIED]):
        if made.isdisjoint(eqn.outvars):
            read = jaxprs.unique(jaxprs.reads([eqn]))
            carried = [v for v in read if depends[v] == CARRIED]
            edges += [(v, out) for v in carried for out in eqn.outvars]
            if _is_contraction(eqn) and any(depends[v] == INVARIANT for v in read):
                ends += carried
    for v in jaxprs.unique([*ends, *(v for edge in edges for v in edge)]):
        # What the backward pass is likely to keep anyway costs its gradient alone.
        share = 2 if v in jaxprs.variables_of(carry_out) else 1
        costs[v] = jaxprs.size_in_bytes(v) // share
    begins = [v for v in costs if v in made]
    # Backward, so that of cuts that cost the same it is the one nearest to the loop.
    cut, _ = graph.smallest_cut(costs, [(b, a) for a, b in edges], ends, begins)
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
