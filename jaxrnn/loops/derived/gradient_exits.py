"""Where the gradients of parameters and inputs leave the loop, and how they are computed.

Parameters and inputs enter a step linearly. F is the set of values at which their linear paths end.
The gradients δ = ∂L/∂F of all steps are all that the gradients of parameters need from the loop.
"""

import functools
import itertools
from collections.abc import Iterable

import jax

from jaxrnn import tree
from jaxrnn.loops.derived import jaxprs, min_cut
from jaxrnn.loops.derived.jaxprs import Environment, Equation, Values, Var
from jaxrnn.loops.derived.regions import CARRIED, INVARIANT, Regions
from jaxrnn.types import PyTree


class Exits:
    """F, and the equations that lead to F from parameters and inputs.

    F is the cheapest set of values between parameters and inputs and everything else. The cost of a
    value is the bytes of its δ, since these are stacked over time. If a parameter is no larger than
    the value that it enters, its gradient is summed inside the loop. If an input is no larger, its
    gradient is computed inside the loop, step by step.

    For example, in `h = tanh(x @ u + h @ w + b)` the paths of x @ u, of w and of b all end in the
    argument of tanh. So F is that one value, and its δ gives the gradients of all three.

    Attributes:
        summed: parameters whose gradients are summed inside the loop.
        direct: inputs whose gradients are computed inside the loop, step by step.
        computed: the rest of F, values that the loop computes.
        cut: all three.
        constants: the values other than parameters and inputs that the equations before `computed`
            read.
    """

    def __init__(self, regions: Regions) -> None:
        """Computes the cut."""
        self._regions = regions
        self._invariant = [v for v in regions.invariant if jaxprs.has_gradient(v)]
        self._stepwise = [v for v in regions.stepwise if jaxprs.has_gradient(v)]
        sources = [*self._invariant, *self._stepwise]
        edges, exits = _paths(regions, sources)
        costs = _costs(regions, sources, edges, exits)
        cut, self._before = min_cut.smallest_cut(costs, edges, sources, exits)
        self.cut: list[Var] = cut
        self.summed = [v for v in cut if v in self._invariant]
        self.direct = [v for v in cut if v in self._stepwise]
        self.computed = [v for v in cut if v not in sources]
        self.equations = self._equations()
        reads = jaxprs.unique(jaxprs.reads(self.equations))
        produced = jaxprs.producers(self.equations)
        inside = [v for v in produced if v not in self.computed]
        arguments = [v for v in (*regions.invariant, *regions.stepwise) if v not in cut]
        self.constants = [v for v in reads if v not in inside and v not in arguments]

    def _equations(self) -> list[Equation]:
        """Returns the equations between sources and `computed`, in order."""
        producers = jaxprs.producers(self._regions.recurrent)
        needed: set[Equation] = set()
        wanted = [*self.computed]
        while wanted:
            eqn = producers.get(wanted.pop())
            if eqn is not None and eqn not in needed:
                needed.add(eqn)
                reads = jaxprs.reads([eqn])
                # A value without a gradient, such as an index, is recomputed here if it depends on
                # inputs alone.
                wanted += [v for v in reads if v in self._before or self._of_inputs(v)]
        return [eqn for eqn in self._regions.recurrent if eqn in needed]

    def _of_inputs(self, v: Var) -> bool:
        return not jaxprs.has_gradient(v) and self._regions.depends[v] != CARRIED

    def values(self, invariant: Values, stepwise: Values, constants: Values) -> Values:
        """Returns F of one step, as a function of parameters and inputs."""
        regions = self._regions
        env: Environment = {
            **dict(zip(regions.invariant, invariant, strict=True)),
            **dict(zip(regions.stepwise, stepwise, strict=True)),
            **dict(zip(self.constants, constants, strict=True)),
        }
        computed: Environment = {}
        for eqn in self.equations:
            results = jaxprs.evaluate(eqn, jaxprs.values_of(env, eqn.invars))
            for v, x in zip(eqn.outvars, results, strict=True):
                # An equation that reads F reads it as a constant, since the gradient of F leaves
                # the loop here. So a result in F does not replace the constant.
                target = computed if v in self.computed else env
                target[v] = x
        return [computed[v] for v in self.computed]

    def gradients(
        self, steps: int, invariant: Values, stepwise: Values, constants: Values, deltas: Values
    ) -> tuple[Values, Values]:
        """Returns the gradients of parameters and inputs, for all steps at once (6).

        `stepwise`, `constants` and `deltas` are stacked over time; `deltas` are those of `computed`
        alone.
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
        """The arguments of the gradients that their equations read."""
        regions = self._regions
        variables = [regions.invariant, regions.stepwise, self.constants, self.computed]

        def gradients_at_one_step(
            invariant: Values, stepwise: Values, constants: Values, deltas: Values
        ) -> PyTree:
            pull = tree.vjp_inexact(lambda w, z: self.values(w, z, constants), invariant, stepwise)
            return pull(deltas)

        arguments = [list(map(jaxprs.abstract_value, group)) for group in variables]
        traced = jaxprs.trace(gradients_at_one_step, *arguments)
        eqns = jaxprs.needed_for(traced.jaxpr.outvars, traced.jaxpr.eqns)
        read = {*jaxprs.reads(eqns), *jaxprs.variables_of(traced.jaxpr.outvars)}
        # The arguments of the traced function are the variables of the step, in this order.
        pairs = zip(itertools.chain(*variables), traced.arguments, strict=True)
        return {v for v, argument in pairs if argument in read}


def _paths(regions: Regions, sources: Iterable[Var]) -> tuple[list[tuple[Var, Var]], list[Var]]:
    """Returns the edges of the paths of parameters and inputs through the loop, and their ends.

    A path goes on through equations that move or add numbers, through equations of parameters and
    inputs alone, and through the equation where a parameter meets the carry, such as h W. The
    gradient of W then needs the carries of all steps, which are among the `constants` of `Exits`.
    """
    on_path = {*sources}
    edges: list[tuple[Var, Var]] = []
    exits: list[Var] = []
    for eqn in regions.recurrent:
        entering = [v for v in jaxprs.unique(jaxprs.reads([eqn])) if v in on_path]
        if jaxprs.is_opaque(eqn) or eqn.effects:
            exits += entering  # JAX differentiates the equation as a whole, inside the loop
            continue
        is_structural = eqn.primitive.name in jaxprs.STRUCTURAL
        results = [v for v in eqn.outvars if jaxprs.has_gradient(v)]
        if not results:
            continue
        for v in entering:
            # The gradient of an input belongs to one step, so its path ends where it meets the
            # carry.
            is_before_carry = CARRIED not in (regions.depends[v], regions.depends[eqn])
            if is_structural or regions.depends[v] == INVARIANT or is_before_carry:
                edges += [(v, out) for out in results]
                on_path.update(results)
            else:
                exits.append(v)
    leaving = [*jaxprs.variables_of(regions.carry_out), *regions.sunk_inputs]
    return edges, exits + [v for v in leaving if v in on_path]


def _costs(
    regions: Regions, sources: Iterable[Var], edges: list[tuple[Var, Var]], exits: list[Var]
) -> dict[Var, int | None]:
    """Returns the bytes of δ for each value and step; None for a value that must not be in F.

    The loop writes a stack and the gradients read it. A sum stays in place, so it counts half. The
    gradient of a matrix is not summed in the loop, since outside it is one product for all steps.
    There are two exceptions: the matrix also enters an equation that has equations of its own, or
    it is part of the next carry. Then it has a gradient inside the loop anyway.
    """
    costs: dict[Var, int | None] = {}
    for v in jaxprs.unique([*sources, *(v for edge in edges for v in edge)]):
        costs[v] = jaxprs.size_in_bytes(v)
        if v in regions.invariant:
            costs[v] = jaxprs.size_in_bytes(v) // 2
    for eqn in regions.recurrent:
        if _is_matrix_product(eqn):
            matrices = [v for v in jaxprs.variables_of(eqn.invars) if v in regions.invariant]
            costs |= {v: None for v in matrices if v in costs and v not in exits}
    return costs


def _is_matrix_product(eqn: Equation) -> bool:
    """Returns whether an equation is a product without batch axes, as those with weights are."""
    return eqn.primitive.name == "dot_general" and eqn.params["dimension_numbers"][1] == ((), ())
