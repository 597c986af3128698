"""One step, differentiated: its equations forward and backward, and the least to keep between."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

from jaxrnn.loops.derived import graph, jaxprs
from jaxrnn.loops.derived.exits import Exits
from jaxrnn.loops.derived.jaxprs import Atom, Environment, Equation, Var
from jaxrnn.loops.derived.regions import Regions

Values = list[Any]


class Inputs(NamedTuple):
    """What one step, forward and backward, is given.

    Fields:
        invariant: the values of `Regions.invariant`.
        transposed: the transposes of those that a product has on its right.
        stepwise: the values of `Regions.stepwise`.
        carry_in: c_{t-1}.
        d_carry_out: λ_t, for the arrays that have a gradient.
        d_sunk_inputs: the gradients of what is handed on and is not part of c_t, likewise.
    """

    invariant: list[Any]
    transposed: list[Any]
    stepwise: list[Any]
    carry_in: list[Any]
    d_carry_out: list[Any]
    d_sunk_inputs: list[Any]


class Outputs(NamedTuple):
    """What one step makes.

    Fields:
        carry_out: c_t.
        sunk_inputs: what the equations after the loop read of it.
        for_gradients: what the gradients read of it.
        d_carry_in: (∂c_t/∂c_{t-1})ᵀ λ_t, for the arrays that have a gradient.
        deltas: δ_t, one for each of `Exits.cut`.
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
        constants: the numbers of variables that are none of the inputs.
        forward: the equations that need no cotangent.
        backward: the others.
        kept: values that each step keeps for the way back, in addition to what is kept anyway.
        from_next: of each array of c_{t-1}, whether the way back takes it from the stack of c_t.
        reads_sunk_inputs: of what is handed on, whether the way back or the gradients read it.
        reads_stepwise: likewise of the stepwise values.
        recomputed: the equations of `forward` that the way back runs once more.
        recomputed_for_gradients: those that the gradients of parameters and inputs need once more.
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
        """The values that are the same at all steps, by their variables here."""
        variables = self.inputs.invariant + self.inputs.transposed
        return self.constants | dict(zip(variables, invariant + transposed, strict=True))


def where(chosen: Iterable[bool], values: Iterable[Any]) -> list[Any]:
    """The values that are chosen."""
    return [x for is_chosen, x in zip(chosen, values, strict=True) if is_chosen]


def linearize(regions: Regions, exits: Exits, matrices: list[Var]) -> Linearized:
    """Differentiate one step by JAX, and decide what is kept.

    `matrices` are the parameters whose transposes are there too.
    """
    jaxpr, constants, inputs, outputs = _traced(regions, exits, matrices)
    forward, backward = _directions(jaxpr.eqns, inputs, outputs)
    always = {*constants, *inputs.invariant, *inputs.transposed}
    elsewhere = {*always, *inputs.d_carry_out, *inputs.d_sunk_inputs, *jaxprs.producers(backward)}

    def outside(atoms: Iterable[Atom]) -> list[Var]:
        return [v for v in jaxprs.unique(jaxprs.variables_of(atoms)) if v not in elsewhere]

    for_way_back = outside([*jaxprs.reads(backward), *outputs.d_carry_in, *outputs.deltas])
    for_gradients = outside(outputs.for_gradients)
    gathered = [v in exits.needed_stepwise for v in regions.stepwise]
    free = [v in regions.inputs or g for v, g in zip(regions.stepwise, gathered, strict=True)]
    wanted = for_way_back + for_gradients
    chosen = _cheapest(forward, inputs, outputs, where(free, inputs.stepwise), wanted)
    recomputed = _recomputed(for_way_back, forward, chosen)
    recomputed_for_gradients = _recomputed(for_gradients, forward, chosen)
    recomputed_reads = jaxprs.reads(recomputed + recomputed_for_gradients)
    read = {*outside([*for_way_back, *for_gradients, *recomputed_reads])}
    read -= jaxprs.producers(recomputed).keys() | jaxprs.producers(recomputed_for_gradients).keys()

    made = jaxprs.producers(forward)
    stacked = {v for v in made if v in read or v in jaxprs.variables_of(outputs.sunk_inputs)}
    pairs = zip(inputs.carry_in, outputs.carry_out, strict=True)
    from_next = [c in read and not jaxprs.is_literal(out) and out in stacked for c, out in pairs]
    later = where(from_next, outputs.carry_out)
    candidates = [*inputs.carry_in, *made]
    taken = {*where(from_next, inputs.carry_in), *jaxprs.variables_of(outputs.sunk_inputs)}
    return Linearized(
        inputs=inputs,
        outputs=outputs,
        constants=constants,
        forward=forward,
        backward=backward,
        kept=[v for v in candidates if v in read and v not in taken],
        from_next=from_next,
        reads_sunk_inputs=[
            not jaxprs.is_literal(v) and (v in read or v in later) for v in outputs.sunk_inputs
        ],
        reads_stepwise=[v in read or g for v, g in zip(inputs.stepwise, gathered, strict=True)],
        recomputed=recomputed,
        recomputed_for_gradients=recomputed_for_gradients,
    )


def _traced(
    regions: Regions, exits: Exits, matrices: list[Var]
) -> tuple[Any, Environment, Inputs, Outputs]:
    """The jaxpr of a step and its pullback, the numbers in it, its inputs, its outputs."""
    has_in = [jaxprs.has_gradient(v) for v in regions.carry_in]
    has_out = [jaxprs.has_gradient(v) for v in regions.carry_out]
    apart = separate_sunk_inputs(regions)

    def both_ways(given: Inputs) -> Outputs:
        variables = regions.invariant + regions.stepwise
        shared = dict(zip(variables, given.invariant + given.stepwise, strict=True))
        transposes = dict(zip(matrices, given.transposed, strict=True))

        def step(inexact: Values, moves: Values) -> Any:
            left = iter(inexact)
            carry = [next(left) if h else c for h, c in zip(has_in, given.carry_in, strict=True)]
            env = shared | dict(zip(regions.carry_in, carry, strict=True))
            read = _run_moved(
                regions.recurrent, env, dict(zip(exits.cut, moves, strict=True)), transposes
            )
            parts = regions.carry_out, regions.sunk_inputs, exits.needed_constants
            carry_out, sunk_inputs, for_gradients = ([read(v) for v in part] for part in parts)
            slopes = where(has_out, carry_out), where(apart, sunk_inputs)
            return slopes, (carry_out, sunk_inputs, for_gradients)

        moves = [jaxprs.zeros_like(v) for v in exits.cut]
        _, pull, made = jax.vjp(step, where(has_in, given.carry_in), moves, has_aux=True)
        return Outputs(*made, *pull((given.d_carry_out, given.d_sunk_inputs)))

    variables = Inputs(
        regions.invariant,
        matrices,
        regions.stepwise,
        regions.carry_in,
        where(has_out, regions.carry_out),
        where(apart, regions.sunk_inputs),
    )
    forms = Inputs(*([jaxprs.abstract_value(v) for v in part] for part in variables))
    forms = forms._replace(transposed=[jaxprs.abstract_transpose(v) for v in matrices])
    jaxpr, constants, tree_of_outputs = jaxprs.flat_jaxpr(both_ways, forms)
    places = [*jaxpr.constvars, *jaxpr.invars]
    env = dict(zip(places, constants, strict=False))
    tree_of_inputs: Any = jax.tree.structure(forms)
    inputs = tree_of_inputs.unflatten(places[len(constants) :])
    return jaxpr, env, inputs, tree_of_outputs.unflatten(jaxpr.outvars)


def separate_sunk_inputs(regions: Regions) -> list[bool]:
    """Of what is handed on, whether it has a gradient of its own, being no part of c_t.

    It has none if all that outputs make of it goes through a `stop_gradient`, or has none itself.
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
    """Run equations, and return the function that reads a value; F is moved whenever it is read."""
    env = dict(env)

    def read(atom: Atom) -> Any:
        value = jaxprs.value_of(env, atom)
        moved = not jaxprs.is_literal(atom) and atom in moves
        return _moved(value, moves[atom]) if moved else value

    for eqn in eqns:
        values = [read(v) for v in eqn.invars]
        weighted = jaxprs.is_weight_product(eqn) and jaxprs.has_gradient(eqn.invars[0])
        if weighted and eqn.invars[1] in transposes:
            x, w = values
            made = [jaxprs.weight_product(eqn, x, w, transposes[eqn.invars[1]])]
        else:
            made = jaxprs.evaluate(eqn, values)
        env |= zip(eqn.outvars, made, strict=True)
    return read


@jax.custom_jvp
def _moved(value: jax.Array, move: jax.Array) -> jax.Array:
    """The value plus a move that is zero, without the addition."""
    return value


@_moved.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return primals[0], tangents[0] + tangents[1]


def _directions(
    eqns: list[Equation], inputs: Inputs, outputs: Outputs
) -> tuple[list[Equation], list[Equation]]:
    """The equations that need no cotangent, and those that do."""
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
    """The equations that make what is wanted out of what is chosen."""
    missing, found = {v for v in wanted if v not in chosen}, []
    for eqn in reversed(forward):
        if not missing.isdisjoint(eqn.outvars):
            found.append(eqn)
            missing.update(v for v in jaxprs.reads([eqn]) if v not in chosen)
    return found[::-1]


def _cheapest(
    forward: list[Equation], inputs: Inputs, outputs: Outputs, free: list[Var], wanted: list[Var]
) -> set[Var]:
    """The values of least size out of which all that is wanted can be made by cheap equations.

    What is handed on is kept anyway, and so are inputs. The stack of c_{t-1} is the stack of c_t
    shifted by one step, so keeping one keeps both.
    """
    sunk_inputs = {*jaxprs.variables_of(outputs.sunk_inputs)}
    costs: dict[Any, int | None] = {}
    sources: list[Any] = []
    edges: list[tuple[Any, Any]] = []
    for v in inputs.stepwise:
        costs[v] = 0 if v in free else jaxprs.size_in_bytes(v) * 3 // 4  # it is there already
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
            costs[before] = jaxprs.size_in_bytes(before) // 4  # a copy, for a while
        elif after in costly:
            pairs[i] = before, after
            costs[i], costs[before], costs[after] = costs[before], None, None
            edges += [(i, before), (i, after)]
            sources.append(i)
    costs |= {v: 0 for v in sunk_inputs if v in costs}
    sources += [v for v in sunk_inputs if v in costs]
    sources = [v for v in sources if not any(v in pair for pair in pairs.values())]
    cut, _ = graph.smallest_cut(costs, edges, sources, [v for v in wanted if v in costs])
    chosen = {v for v in cut if v not in pairs}
    return chosen.union(*(pairs[i] for i in cut if i in pairs))
