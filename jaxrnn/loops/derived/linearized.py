"""One differentiated step: its equations forward and backward, and the values kept between them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

from jaxrnn.loops.derived import jaxprs, min_cut
from jaxrnn.loops.derived.gradient_exits import Exits
from jaxrnn.loops.derived.jaxprs import Atom, Environment, Equation, Var
from jaxrnn.loops.derived.regions import Regions

Values = list[Any]


class Inputs(NamedTuple):
    """The inputs of one step, forward and backward.

    Fields:
        invariant: the values of `Regions.invariant`.
        transposed: the transposes of the matrices on the right of products.
        stepwise: the values of `Regions.stepwise`.
        carry_in: c_{t-1}.
        d_carry_out: λ_t, for the arrays that have a gradient.
        d_sunk_inputs: the gradients of `Regions.sunk_inputs`, for the values that have a gradient
            and are not part of c_t.
    """

    invariant: list[Any]
    transposed: list[Any]
    stepwise: list[Any]
    carry_in: list[Any]
    d_carry_out: list[Any]
    d_sunk_inputs: list[Any]


class Outputs(NamedTuple):
    """The outputs of one step.

    Fields:
        carry_out: c_t.
        sunk_inputs: the values that the equations after the loop read.
        for_gradients: the values that the gradients of parameters and inputs read.
        d_carry_in: (∂c_t/∂c_{t-1})ᵀ λ_t, for the arrays that have a gradient.
        deltas: δ_t, one for each value of `Exits.cut`.
    """

    carry_out: list[Any]
    sunk_inputs: list[Any]
    for_gradients: list[Any]
    d_carry_in: list[Any]
    deltas: list[Any]


class Linearized(NamedTuple):
    """A step in both directions.

    Fields:
        inputs: variables.
        outputs: variables, or literals.
        constants: the values of variables that are not inputs.
        forward: the equations that need no cotangent.
        backward: the other equations.
        kept: the values that each step keeps for the backward pass, in addition to `sunk_inputs`
            and inputs.
        from_next: for each array of c_{t-1}, whether the backward pass reads it from the stack of
            c_t.
        reads_sunk_inputs: for each of `sunk_inputs`, whether the backward pass or the gradients
            read it.
        reads_stepwise: for each stepwise value, whether the backward pass or the gradients read it.
        recomputed: the equations of `forward` that the backward pass runs again.
        recomputed_for_gradients: the equations of `forward` that run again for the gradients of
            parameters and inputs.
    """

    inputs: Inputs
    outputs: Outputs
    constants: Environment
    forward: list[Equation]
    backward: list[Equation]
    kept: list[Var]
    from_next: list[bool]
    reads_sunk_inputs: list[bool]
    reads_stepwise: list[bool]
    recomputed: list[Equation]
    recomputed_for_gradients: list[Equation]

    def shared(self, invariant: Values, transposed: Values) -> Environment:
        """Returns the values that are the same at all steps, by their variables here."""
        variables = self.inputs.invariant + self.inputs.transposed
        return self.constants | dict(zip(variables, invariant + transposed, strict=True))


def compress(chosen: Iterable[bool], values: Iterable[Any]) -> list[Any]:
    """Returns the chosen values, as `np.compress` does."""
    return [x for is_chosen, x in zip(chosen, values, strict=True) if is_chosen]


def expand(chosen: Iterable[bool], values: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    """Returns `others` with the chosen places filled by `values`; the inverse of `compress`."""
    remaining = iter(values)
    pairs = zip(chosen, others, strict=True)
    return [next(remaining) if is_chosen else other for is_chosen, other in pairs]


def linearize(regions: Regions, exits: Exits, matrices: list[Var]) -> Linearized:
    """Differentiates one step by JAX, and decides which values are kept.

    `matrices` are the parameters whose transposes are inputs too.
    """
    jaxpr, constants, inputs, outputs = _traced(regions, exits, matrices)
    forward, backward = _directions(jaxpr.eqns, inputs, outputs)
    cotangents = {*inputs.d_carry_out, *inputs.d_sunk_inputs, *jaxprs.producers(backward)}
    excluded = {*constants, *inputs.invariant, *inputs.transposed, *cotangents}

    def from_forward(atoms: Iterable[Atom]) -> list[Var]:
        return [v for v in jaxprs.unique(jaxprs.variables_of(atoms)) if v not in excluded]

    for_backward = from_forward([*jaxprs.reads(backward), *outputs.d_carry_in, *outputs.deltas])
    for_gradients = from_forward(outputs.for_gradients)
    for_exits = [v in exits.needed_stepwise for v in regions.stepwise]
    is_input = [v in regions.inputs for v in regions.stepwise]
    free = [a or b for a, b in zip(is_input, for_exits, strict=True)]
    wanted = for_backward + for_gradients
    chosen = _cheapest(forward, inputs, outputs, compress(free, inputs.stepwise), wanted)
    recomputed = _recomputed(for_backward, forward, chosen)
    recomputed_for_gradients = _recomputed(for_gradients, forward, chosen)
    recomputed_reads = jaxprs.reads(recomputed + recomputed_for_gradients)
    read = {*from_forward([*for_backward, *for_gradients, *recomputed_reads])}
    read -= jaxprs.producers(recomputed).keys() | jaxprs.producers(recomputed_for_gradients).keys()

    produced = jaxprs.producers(forward)
    sunk_inputs = {*jaxprs.variables_of(outputs.sunk_inputs)}
    stacked = {v for v in produced if v in read or v in sunk_inputs}
    pairs = zip(inputs.carry_in, outputs.carry_out, strict=True)
    from_next = [c in read and not jaxprs.is_literal(out) and out in stacked for c, out in pairs]
    next_carries = compress(from_next, outputs.carry_out)
    candidates = [*inputs.carry_in, *produced]
    kept_anyway = {*compress(from_next, inputs.carry_in), *sunk_inputs}
    return Linearized(
        inputs=inputs,
        outputs=outputs,
        constants=constants,
        forward=forward,
        backward=backward,
        kept=[v for v in candidates if v in read and v not in kept_anyway],
        from_next=from_next,
        reads_sunk_inputs=[
            not jaxprs.is_literal(v) and (v in read or v in next_carries)
            for v in outputs.sunk_inputs
        ],
        reads_stepwise=[
            v in read or for_exit for v, for_exit in zip(inputs.stepwise, for_exits, strict=True)
        ],
        recomputed=recomputed,
        recomputed_for_gradients=recomputed_for_gradients,
    )


def _traced(
    regions: Regions, exits: Exits, matrices: list[Var]
) -> tuple[Any, Environment, Inputs, Outputs]:
    """Returns the jaxpr of a step and its pullback, its constants, inputs and outputs."""
    has_in = [jaxprs.has_gradient(v) for v in regions.carry_in]
    has_out = [jaxprs.has_gradient(v) for v in regions.carry_out]
    separate = separate_sunk_inputs(regions)

    def forward_and_backward(args: Inputs) -> Outputs:
        variables = regions.invariant + regions.stepwise
        shared = dict(zip(variables, args.invariant + args.stepwise, strict=True))
        transposes = dict(zip(matrices, args.transposed, strict=True))

        def step(inexact: Values, moves: Values) -> Any:
            carry = expand(has_in, inexact, args.carry_in)
            env = shared | dict(zip(regions.carry_in, carry, strict=True))
            moves_by_variable = dict(zip(exits.cut, moves, strict=True))
            read = _run_moved(regions.recurrent, env, moves_by_variable, transposes)
            carry_out = [read(v) for v in regions.carry_out]
            sunk_inputs = [read(v) for v in regions.sunk_inputs]
            for_gradients = [read(v) for v in exits.needed_constants]
            differentiated = compress(has_out, carry_out), compress(separate, sunk_inputs)
            return differentiated, (carry_out, sunk_inputs, for_gradients)

        moves = [jaxprs.zeros_like(v) for v in exits.cut]
        _, pull, values = jax.vjp(step, compress(has_in, args.carry_in), moves, has_aux=True)
        return Outputs(*values, *pull((args.d_carry_out, args.d_sunk_inputs)))

    variables = Inputs(
        regions.invariant,
        matrices,
        regions.stepwise,
        regions.carry_in,
        compress(has_out, regions.carry_out),
        compress(separate, regions.sunk_inputs),
    )
    args = Inputs(*([jaxprs.abstract_value(v) for v in part] for part in variables))
    args = args._replace(transposed=[jaxprs.abstract_transpose(v) for v in matrices])
    jaxpr, constants, output_structure = jaxprs.flat_jaxpr(forward_and_backward, args)
    new_variables = [*jaxpr.constvars, *jaxpr.invars]
    env = dict(zip(new_variables, constants, strict=False))
    input_structure: Any = jax.tree.structure(args)
    inputs = input_structure.unflatten(new_variables[len(constants) :])
    return jaxpr, env, inputs, output_structure.unflatten(jaxpr.outvars)


def separate_sunk_inputs(regions: Regions) -> list[bool]:
    """Returns for each sunk input whether it has a gradient of its own.

    It has none if it is part of c_t, since its gradient is then part of λ_t. It has none either if
    the outputs depend on it only through a `stop_gradient` or through values without a gradient.
    """
    reached = {v for v in jaxprs.variables_of(regions.outputs) if jaxprs.has_gradient(v)}
    for eqn in reversed(regions.sunk):
        if eqn.primitive.name != "stop_gradient" and not reached.isdisjoint(eqn.outvars):
            reached.update(v for v in jaxprs.reads([eqn]) if jaxprs.has_gradient(v))
    carry_out = jaxprs.variables_of(regions.carry_out)
    return [v not in carry_out and v in reached for v in regions.sunk_inputs]


def _run_moved(
    eqns: list[Equation], env: Environment, moves: Environment, transposes: Environment
) -> Any:
    """Runs equations, and returns the function that reads a value.

    Every read of a value of F adds its move, a zero whose gradient is δ.
    """
    env = dict(env)

    def read(atom: Atom) -> Any:
        value = jaxprs.value_of(env, atom)
        is_moved = not jaxprs.is_literal(atom) and atom in moves
        return _moved(value, moves[atom]) if is_moved else value

    for eqn in eqns:
        values = [read(v) for v in eqn.invars]
        is_weighted = jaxprs.is_weight_product(eqn) and jaxprs.has_gradient(eqn.invars[0])
        if is_weighted and eqn.invars[1] in transposes:
            x, w = values
            results = [jaxprs.weight_product(eqn, x, w, transposes[eqn.invars[1]])]
        else:
            results = jaxprs.evaluate(eqn, values)
        env |= zip(eqn.outvars, results, strict=True)
    return read


@jax.custom_jvp
def _moved(value: jax.Array, move: jax.Array) -> jax.Array:
    """Returns the value plus a move that is zero, without computing the sum."""
    return value


@_moved.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return primals[0], tangents[0] + tangents[1]


def _directions(
    eqns: list[Equation], inputs: Inputs, outputs: Outputs
) -> tuple[list[Equation], list[Equation]]:
    """Returns the equations that need no cotangent, and those that do."""
    cotangents = {*inputs.d_carry_out, *inputs.d_sunk_inputs}
    forward, backward = [], []
    for eqn in eqns:
        if cotangents.isdisjoint(jaxprs.reads([eqn])):
            forward.append(eqn)
        else:
            backward.append(eqn)
            cotangents.update(eqn.outvars)
    return forward, jaxprs.needed_for([*outputs.d_carry_in, *outputs.deltas], backward)


def _recomputed(wanted: list[Var], forward: list[Equation], chosen: set[Var]) -> list[Equation]:
    """Returns the equations that compute the wanted values from the chosen ones."""
    missing = {v for v in wanted if v not in chosen}
    recomputed = []
    for eqn in reversed(forward):
        if not missing.isdisjoint(eqn.outvars):
            recomputed.append(eqn)
            missing.update(v for v in jaxprs.reads([eqn]) if v not in chosen)
    return recomputed[::-1]


def _cheapest(
    forward: list[Equation], inputs: Inputs, outputs: Outputs, free: list[Var], wanted: list[Var]
) -> set[Var]:
    """Returns the smallest set of values from which cheap equations compute the wanted ones.

    Sunk inputs and stepwise inputs are kept anyway. The stack of c_{t-1} is the stack of c_t
    shifted by one step, so keeping one of them keeps both.
    """
    sunk_inputs = {*jaxprs.variables_of(outputs.sunk_inputs)}
    costs: dict[Any, int | None] = {}
    sources: list[Any] = []
    edges: list[tuple[Any, Any]] = []
    for v in inputs.stepwise:
        # A projected input is in memory during the forward pass, so keeping it costs less.
        costs[v] = 0 if v in free else jaxprs.size_in_bytes(v) * 3 // 4
        sources.append(v)
    for v in inputs.carry_in:
        costs[v] = jaxprs.size_in_bytes(v)
        sources.append(v)
    costly = set()
    for eqn in forward:
        costs |= {v: jaxprs.size_in_bytes(v) for v in eqn.outvars}
        if eqn.primitive.name in jaxprs.CHEAP and not jaxprs.is_keyed(eqn):
            read = [v for v in jaxprs.unique(jaxprs.reads([eqn])) if v in costs]
            edges += [(v, out) for v in read for out in eqn.outvars]
        else:
            sources += eqn.outvars
            costly.update(eqn.outvars)
    pairs: dict[int, tuple[Var, Var]] = {}
    for i, (before, after) in enumerate(zip(inputs.carry_in, outputs.carry_out, strict=True)):
        if jaxprs.is_literal(after) or after not in costs:
            continue
        if after in sunk_inputs:
            costs[before] = jaxprs.size_in_bytes(before) // 4  # a temporary copy
        elif after in costly:
            pairs[i] = before, after
            costs[i], costs[before], costs[after] = costs[before], None, None
            edges += [(i, before), (i, after)]
            sources.append(i)
    costs |= {v: 0 for v in sunk_inputs if v in costs}
    sources += [v for v in sunk_inputs if v in costs]
    sources = [v for v in sources if not any(v in pair for pair in pairs.values())]
    cut, _ = min_cut.smallest_cut(costs, edges, sources, [v for v in wanted if v in costs])
    chosen = {v for v in cut if v not in pairs}
    return chosen.union(*(pairs[i] for i in cut if i in pairs))
