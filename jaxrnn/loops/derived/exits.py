"""Where the gradients of parameters and inputs leave the loop, and how they follow from there.

Parameters and inputs enter a step linearly, and go on linearly for a while: F is where that ends. A
gradient δ = ∂L/∂F of every step is all that the gradients of parameters need of the loop.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax

from jaxrnn import tree
from jaxrnn.loops.derived import graph, jaxprs
from jaxrnn.loops.derived.jaxprs import Environment, Equation, Var
from jaxrnn.loops.derived.regions import CARRIED, INVARIANT, Regions

Values = list[Any]


class Exits:
    """F, and the equations that lead to it from parameters and inputs.

    F is the cheapest set of values between them and everything else, by the bytes of δ: a stack of
    it over time costs its bytes at every step. If a parameter is no larger than the value that it
    enters, its gradient is summed inside the loop; if an input is no larger, its gradient is
    computed there, step by step.

    Attributes:
        summed: parameters whose gradients are summed inside the loop.
        direct: inputs whose gradients are taken inside the loop, step by step.
        computed: the rest of F, values that the loop computes.
        cut: all three.
        constants: what the equations that lead to `computed` read beside parameters and inputs.
    """

    def __init__(self, regions: Regions) -> None:
        """Find the cut."""
        self._regions = regions
        self._invariant = [v for v in regions.invariant if jaxprs.has_gradient(v)]
        self._stepwise = [v for v in regions.stepwise if jaxprs.has_gradient(v)]
        sources = [*self._invariant, *self._stepwise]
        edges, exits = _paths(regions, sources)
        costs = _costs(regions, sources, edges, exits)
        cut, self._before = graph.smallest_cut(costs, edges, sources, exits)
        self.cut: list[Var] = cut
        self.summed = [v for v in cut if v in self._invariant]
        self.direct = [v for v in cut if v in self._stepwise]
        self.computed = [v for v in cut if v not in sources]
        self.equations = self._equations()
        reads = jaxprs.unique(jaxprs.reads(self.equations))
        made = jaxprs.producers(self.equations)
        inside = [v for v in made if v not in self.computed]
        given = [v for v in (*regions.invariant, *regions.stepwise) if v not in cut]
        self.constants = [v for v in reads if v not in inside and v not in given]

    def _equations(self) -> list[Equation]:
        """The equations between sources and `computed`, in order."""
        makers = jaxprs.producers(self._regions.recurrent)
        found: set[Any] = set()
        wanted = [*self.computed]
        while wanted:
            eqn = makers.get(wanted.pop())
            if eqn is not None and eqn not in found:
                found.add(eqn)
                reads = jaxprs.reads([eqn])
                # What has no gradient, an index say, is made again here if inputs alone make it.
                wanted += [v for v in reads if v in self._before or self._of_inputs(v)]
        return [eqn for eqn in self._regions.recurrent if eqn in found]

    def _of_inputs(self, v: Var) -> bool:
        return not jaxprs.has_gradient(v) and self._regions.depends[v] != CARRIED

    def values(self, invariant: Values, stepwise: Values, constants: Values) -> Values:
        """F of one step, as a function of parameters and inputs."""
        regions = self._regions
        env: Environment = {
            **dict(zip(regions.invariant, invariant, strict=True)),
            **dict(zip(regions.stepwise, stepwise, strict=True)),
            **dict(zip(self.constants, constants, strict=True)),
        }
        found: Environment = {}
        for eqn in self.equations:
            made = jaxprs.evaluate(eqn, [jaxprs.value_of(env, v) for v in eqn.invars])
            for v, x in zip(eqn.outvars, made, strict=True):
                # Whatever reads F reads a constant: its gradient has left the loop here.
                (found if v in self.computed else env)[v] = x
        return [found[v] for v in self.computed]

    def gradients(
        self, steps: int, invariant: Values, stepwise: Values, constants: Values, deltas: Values
    ) -> tuple[Values, Values]:
        """The gradients of parameters and inputs, for all steps at once (6).

        `stepwise`, `constants` and `deltas`, of `computed` alone, are stacked over time.
        """
        over_time = jax.vmap(self.values, in_axes=(None, 0, 0), axis_size=steps)
        pull = tree.vjp_inexact(lambda w, zs: over_time(w, zs, constants), invariant, stepwise)
        ((d_invariant, d_stepwise),) = pull(deltas)
        return d_invariant, d_stepwise

    @functools.cached_property
    def needed_constants(self) -> list[Var]:
        """The constants whose values the gradients read."""
        return [v for v in self.constants if v in self._reads]

    @functools.cached_property
    def needed_stepwise(self) -> list[Var]:
        """The inputs whose values the gradients read."""
        return [v for v in self._regions.stepwise if v in self._reads]

    @functools.cached_property
    def _reads(self) -> set[Var]:
        """The subset of the gradients's arguments that its equations read."""
        regions = self._regions
        variables = regions.invariant, regions.stepwise, self.constants, self.computed

        def at_one_step(
            invariant: Values, stepwise: Values, constants: Values, deltas: Values
        ) -> Any:
            pull = tree.vjp_inexact(lambda w, z: self.values(w, z, constants), invariant, stepwise)
            return pull(deltas)

        forms = [[jaxprs.abstract_value(v) for v in some] for some in variables]
        jaxpr, constants, _ = jaxprs.flat_jaxpr(at_one_step, *forms)
        eqns = jaxprs.needed_for(jaxpr.outvars, jaxpr.eqns)
        read = {*jaxprs.reads(eqns), *jaxprs.variables_of(jaxpr.outvars)}
        places = [*jaxpr.constvars, *jaxpr.invars][len(constants) :]
        originals = [v for some in variables for v in some]
        return {v for v, place in zip(originals, places, strict=True) if place in read}


def _paths(regions: Regions, sources: Iterable[Var]) -> tuple[list[tuple[Var, Var]], list[Var]]:
    """The ways of parameters and inputs through the loop, and the values at which they must end."""
    on_the_way = {*sources}
    edges: list[tuple[Var, Var]] = []
    exits: list[Var] = []
    for eqn in regions.recurrent:
        entering = [v for v in jaxprs.unique(jaxprs.reads([eqn])) if v in on_the_way]
        if jaxprs.is_opaque(eqn) or eqn.effects:
            exits += entering
            continue
        linear = eqn.primitive.name in jaxprs.STRUCTURAL
        results = [v for v in eqn.outvars if jaxprs.has_gradient(v)]
        for v in entering if results else ():
            # The gradient of an input is of one step: where it meets the carry it is taken there.
            of_inputs = CARRIED not in (regions.depends[v], regions.depends[eqn])
            if linear or regions.depends[v] == INVARIANT or of_inputs:
                edges += [(v, out) for out in results]
                on_the_way.update(results)
            else:
                exits.append(v)
    leaving = [*jaxprs.variables_of(regions.carry_out), *regions.sunk_inputs]
    return edges, exits + [v for v in leaving if v in on_the_way]


def _costs(
    regions: Regions, sources: Iterable[Var], edges: list[tuple[Var, Var]], exits: list[Var]
) -> dict[Var, int | None]:
    """The bytes that δ costs at each step if it is taken at a value; None where it must not be.

    A stack is written by the loop and read by the gradients; a sum stays where it is, so it counts
    half. The gradient of a matrix is not summed in the loop, since outside it is one product for
    all steps; but it is if the matrix also enters an equation that has equations of its own, or is
    handed on as a carry, and so has to have a gradient there.
    """
    costs: dict[Var, int | None] = {}
    for v in jaxprs.unique([*sources, *(v for edge in edges for v in edge)]):
        costs[v] = jaxprs.size_in_bytes(v)
        if regions.depends[v] == INVARIANT and v in regions.invariant:
            costs[v] = jaxprs.size_in_bytes(v) // 2
    for eqn in regions.recurrent:
        if _is_matrix_product(eqn):
            matrices = [v for v in jaxprs.variables_of(eqn.invars) if v in regions.invariant]
            costs |= {v: None for v in matrices if v in costs and v not in exits}
    return costs


def _is_matrix_product(eqn: Equation) -> bool:
    """Whether it is a product that has no batch, as those with weights are."""
    return eqn.primitive.name == "dot_general" and eqn.params["dimension_numbers"][1] == ((), ())
