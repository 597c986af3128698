"""The recurrent connections between units, through which e-prop sends no gradient."""

from collections.abc import Iterable

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Atom, Equation, Var
from jaxrnn.loops.parallel.structure import strongly_connected, transitive_closure
from jaxrnn.online.sparsity import Pattern, along, results, rows_of

Cuts = dict[int, set[int]]  # position of an equation: the operands that get no gradient


def recurrent_mixing(eqns: list[Equation], carries: list[Var], new_carries: list[Atom]) -> Cuts:
    """Returns the operands at which the units of a layer are mixed on the way to its next carry.

    An equation mixes units if its operands depend on one unit at each position, and a result does
    not; an example is h W. A layer is a set of arrays of the carry that depend on each other. What
    one layer sends to the next one is not cut, nor what goes to the loss alone.
    """
    cuts: Cuts = {}
    for layer in layers(eqns, carries, new_carries):
        targets = {v for j in layer for v in jaxprs.variables_of([new_carries[j]])}
        reaching = _variables_that_reach(eqns, targets)
        for source in (carries[j] for j in layer if jaxprs.has_gradient(carries[j])):
            for axis, size in enumerate(jaxprs.shape_of(source)):
                if size > 1:
                    _cut_mixing_along(source, axis, eqns, reaching, cuts)
    return cuts


def layers(
    eqns: list[Equation], carries: list[Var], new_carries: list[Atom]
) -> list[tuple[int, ...]]:
    """Returns the positions of the arrays of the carry that depend on each other, in order.

    A layer comes after the layers that it reads.
    """
    reads = {}
    for j, new in enumerate(new_carries):
        reaching = _variables_that_reach(eqns, set(jaxprs.variables_of([new])))
        reads[j] = {k for k, carry in enumerate(carries) if carry in reaching}
    return strongly_connected(transitive_closure(reads))


def _variables_that_reach(eqns: list[Equation], targets: Iterable[Var]) -> set[Var]:
    found = set(targets)
    for eqn in reversed(eqns):
        if not found.isdisjoint(eqn.outvars):
            found.update(jaxprs.reads([eqn]))
    return found


def _cut_mixing_along(
    source: Var, axis: int, eqns: list[Equation], reaching: set[Var], cuts: Cuts
) -> None:
    known: dict[Var, Pattern] = {source: along(source, axis)}
    for position, eqn in enumerate(eqns):
        operands = jaxprs.facts_of(known, eqn.invars)
        dependent = {i for i, pattern in enumerate(operands) if pattern is not None}
        if not dependent or reaching.isdisjoint(eqn.outvars):
            continue
        found = results(eqn, operands)
        if all(map(_is_one_to_one, eqn.outvars, found)):
            pairs = zip(eqn.outvars, found, strict=True)
            known |= {v: pattern for v, pattern in pairs if pattern is not None}
        else:
            # No gradient flows here, so the results do not depend on the source any more.
            cuts.setdefault(position, set()).update(dependent)


def _is_one_to_one(v: Var, pattern: Pattern | None) -> bool:
    """Returns whether each element depends on one position of the source's axis at most."""
    if pattern is None:
        return True
    if not pattern:  # no axis is listed, so an element may depend on all positions
        return False
    size = next(iter(pattern.values())).shape[1]
    num_read = rows_of(pattern, jaxprs.shape_of(v), size).sum(axis=1)
    return int(num_read.max(initial=0)) <= 1
