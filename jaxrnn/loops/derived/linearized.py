"""One differentiated step: its equations forward and backward, and the values kept between them."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from jaxrnn.loops.derived import jaxprs, min_cut
from jaxrnn.loops.derived.gradient_exits import Exits
from jaxrnn.loops.derived.jaxprs import Atom, Environment, Equation, Jaxpr, Values, Var
from jaxrnn.loops.derived.regions import Regions


class Inputs(NamedTuple):
    """The inputs of one step, forward and backward; their values, or their variables.

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
    """The outputs of one step; their values, or their variables and literals.

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

    Its equations come from a jaxpr of their own, whose variables are not those of `Regions`.

    Fields:
        inputs: variables of this jaxpr.
        outputs: variables of this jaxpr, or literals.
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
    jaxpr, constants, inputs, outputs = _trace_step_and_pullback(regions, exits, matrices)
    forward, backward = _split_by_direction(jaxpr.eqns, inputs, outputs)
    cotangents = {*inputs.d_carry_out, *inputs.d_sunk_inputs, *jaxprs.producers(backward)}
    excluded = {*constants, *inputs.invariant, *inputs.transposed, *cotangents}

    def from_forward(atoms: Iterable[Atom]) -> list[Var]:
        """Returns the values that the forward pass of each step has anew."""
        return [v for v in jaxprs.unique(jaxprs.variables_of(atoms)) if v not in excluded]

    for_backward = from_forward([*jaxprs.reads(backward), *outputs.d_carry_in, *outputs.deltas])
    for_gradients = from_forward(outputs.for_gradients)
    # The caller holds the inputs of the step, and the exits keep what they read, so neither takes
    # more memory if the backward pass reads it too.
    for_exits = [v in exits.needed_stepwise for v in regions.stepwise]
    is_free = [
        v in regions.inputs or for_exit
        for v, for_exit in zip(regions.stepwise, for_exits, strict=True)
    ]
    free = compress(is_free, inputs.stepwise)
    chosen = _cheapest(forward, inputs, outputs, free, for_backward + for_gradients)
    recomputed = _recomputed(for_backward, forward, chosen)
    recomputed_for_gradients = _recomputed(for_gradients, forward, chosen)
    recomputed_reads = jaxprs.reads(recomputed + recomputed_for_gradients)
    read = {*from_forward([*for_backward, *for_gradients, *recomputed_reads])}
    read -= jaxprs.producers(recomputed).keys()
    read -= jaxprs.producers(recomputed_for_gradients).keys()

    # c_{t-1} is read from the stack of c_t if that stack is there anyway.
    produced = jaxprs.producers(forward)
    sunk_inputs = {*jaxprs.variables_of(outputs.sunk_inputs)}
    stacked = {v for v in produced if v in read or v in sunk_inputs}
    pairs = zip(inputs.carry_in, outputs.carry_out, strict=True)
    from_next = [c in read and not jaxprs.is_literal(out) and out in stacked for c, out in pairs]
    next_carries = compress(from_next, outputs.carry_out)
    kept_anyway = {*compress(from_next, inputs.carry_in), *sunk_inputs}
    candidates = [*inputs.carry_in, *produced]
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


def _trace_step_and_pullback(
    regions: Regions, exits: Exits, matrices: list[Var]
) -> tuple[Jaxpr, Environment, Inputs, Outputs]:
    """Returns the jaxpr of a step and its pullback, its constants, inputs and outputs.

    The δ of F are the gradients of perturbations that are zero, one for each value of F.
    """
    has_in = [jaxprs.has_gradient(v) for v in regions.carry_in]
    has_out = [jaxprs.has_gradient(v) for v in regions.carry_out]
    separate = separate_sunk_inputs(regions)

    def forward_and_backward(args: Inputs) -> Outputs:
        variables = regions.invariant + regions.stepwise
        shared = dict(zip(variables, args.invariant + args.stepwise, strict=True))
        transposes = dict(zip(matrices, args.transposed, strict=True))

        def step(
            inexact: Values, perturbations: Values
        ) -> tuple[tuple[Values, Values], tuple[Values, Values, Values]]:
            """Returns the values that have cotangents, and all values."""
            carry = expand(has_in, inexact, args.carry_in)
            env = shared | dict(zip(regions.carry_in, carry, strict=True))
            perturbation_of = dict(zip(exits.cut, perturbations, strict=True))
            read = _run_perturbed(regions.recurrent, env, perturbation_of, transposes)
            carry_out = [read(v) for v in regions.carry_out]
            sunk_inputs = [read(v) for v in regions.sunk_inputs]
            for_gradients = [read(v) for v in exits.needed_constants]
            differentiated = compress(has_out, carry_out), compress(separate, sunk_inputs)
            return differentiated, (carry_out, sunk_inputs, for_gradients)

        inexact = compress(has_in, args.carry_in)
        perturbations = [jaxprs.zeros_like(v) for v in exits.cut]
        _, pull, values = jax.vjp(step, inexact, perturbations, has_aux=True)
        carry_out, sunk_inputs, for_gradients = values
        d_carry_in, deltas = pull((args.d_carry_out, args.d_sunk_inputs))
        return Outputs(carry_out, sunk_inputs, for_gradients, d_carry_in, deltas)

    abstract_value = jaxprs.abstract_value
    args = Inputs(
        invariant=list(map(abstract_value, regions.invariant)),
        transposed=list(map(jaxprs.abstract_transpose, matrices)),
        stepwise=list(map(abstract_value, regions.stepwise)),
        carry_in=list(map(abstract_value, regions.carry_in)),
        d_carry_out=list(map(abstract_value, compress(has_out, regions.carry_out))),
        d_sunk_inputs=list(map(abstract_value, compress(separate, regions.sunk_inputs))),
    )
    traced = jaxprs.trace(forward_and_backward, args)
    constant_variables = jaxprs.inputs_of(traced.jaxpr)[: len(traced.constants)]
    constants = dict(zip(constant_variables, traced.constants, strict=True))
    inputs = jax.tree.unflatten(jax.tree.structure(args), traced.arguments)
    outputs = traced.structure.unflatten(traced.jaxpr.outvars)
    return traced.jaxpr, constants, inputs, outputs


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


def _run_perturbed(
    eqns: list[Equation],
    env: Environment,
    perturbation_of: Environment,
    transposes: Environment,
) -> Callable[[Atom], Any]:
    """Runs equations, and returns the function that reads a value.

    Every read of a value of F adds its perturbation, a zero whose gradient is δ.
    """
    env = dict(env)

    def read(atom: Atom) -> Any:
        value = jaxprs.value_of(env, atom)
        (perturbation,) = jaxprs.facts_of(perturbation_of, [atom])
        return value if perturbation is None else _perturb(value, perturbation)

    for eqn in eqns:
        values = [read(v) for v in eqn.invars]
        transpose = None
        if jaxprs.is_weight_product(eqn) and jaxprs.has_gradient(eqn.invars[0]):
            _, transpose = jaxprs.facts_of(transposes, eqn.invars)
        if transpose is not None:
            x, w = values
            results = [jaxprs.weight_product(eqn, x, w, transpose)]
        else:
            results = jaxprs.evaluate(eqn, values)
        env |= zip(eqn.outvars, results, strict=True)
    return read


@jax.custom_jvp
def _perturb(value: jax.Array, perturbation: jax.Array) -> jax.Array:
    """Returns the value plus a perturbation that is zero, without computing the sum."""
    return value


@_perturb.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return primals[0], tangents[0] + tangents[1]


def _split_by_direction(
    eqns: list[Equation], inputs: Inputs, outputs: Outputs
) -> tuple[list[Equation], list[Equation]]:
    """Returns the equations that need no cotangent, and those that do."""
    cotangents = {*inputs.d_carry_out, *inputs.d_sunk_inputs}
    forward: list[Equation] = []
    backward: list[Equation] = []
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
    recomputed: list[Equation] = []
    for eqn in reversed(forward):
        if not missing.isdisjoint(eqn.outvars):
            recomputed.append(eqn)
            missing.update(v for v in jaxprs.reads([eqn]) if v not in chosen)
    return recomputed[::-1]


def _cheapest(
    forward: list[Equation], inputs: Inputs, outputs: Outputs, free: list[Var], wanted: list[Var]
) -> set[Var]:
    """Returns the smallest set of values from which cheap equations compute the wanted ones.

    It is a cut in the graph of the forward equations. Sources are the values that are not computed
    again: inputs and results of costly equations. Sinks are the wanted values. Every path between
    them must contain a kept value. Values that are kept anyway cost nothing. The stack of c_{t-1}
    is the stack of c_t shifted by one step, so keeping one of them keeps both.

    For example, after `h = tanh(a)` the backward pass reads 1 - h². A cheap equation computes it
    from h. No cheap equation computes h from a. So h is kept, or 1 - h² if that takes fewer bytes.

    Args:
        forward: the equations that need no cotangent.
        inputs: the inputs of the step.
        outputs: the outputs of the step.
        free: the stepwise inputs that cost nothing.
        wanted: the values that the backward pass and the gradients read.
    """
    sunk_inputs = {*jaxprs.variables_of(outputs.sunk_inputs)}
    # A node is a value. A number i stands for both c_{t-1} and c_t, see below.
    costs: dict[Var | int, int | None] = {}
    sources: list[Var | int] = []
    edges: list[tuple[Var | int, Var | int]] = []
    for v in inputs.stepwise:
        # A projected input is in memory during the forward pass, so keeping it costs less.
        costs[v] = 0 if v in free else jaxprs.size_in_bytes(v) * 3 // 4
        sources.append(v)
    for v in inputs.carry_in:
        costs[v] = jaxprs.size_in_bytes(v)
        sources.append(v)
    costly: set[Var] = set()
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
            # The stack of c_t is kept anyway, and that of c_{t-1} is a temporary copy of it.
            costs[before] = jaxprs.size_in_bytes(before) // 4
        elif after in costly:
            # Both are sources. One source takes their place, from which both are reached. It alone
            # can be cut. A c_t that a cheap equation computes is no source, so it has no pair.
            pairs[i] = before, after
            costs[i] = costs[before]
            costs[before] = None
            costs[after] = None
            edges += [(i, before), (i, after)]
            sources.append(i)
    in_pairs = {v for pair in pairs.values() for v in pair}
    free_sources = [v for v in sunk_inputs if v in costs]
    costs |= dict.fromkeys(free_sources, 0)
    sources = [v for v in [*sources, *free_sources] if v not in in_pairs]
    sinks = [v for v in wanted if v in costs]
    cut, _ = min_cut.smallest_cut(costs, edges, sources, sinks)
    chosen: set[Var] = set()
    for node in cut:
        chosen.update(pairs[node] if isinstance(node, int) else (node,))
    return chosen
