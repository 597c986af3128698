"""The structure of a recurrence: which arrays of the carry it solves together, and how.

An array of the carry that depends on others, which do not depend on it, is solved after them. So
an mLSTM's stabiliser comes first, then its memory, which is affine once the stabiliser is known.
Arrays that depend on each other form one component and are solved together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Jaxpr, Var
from jaxrnn.loops.parallel.dependence import dependences
from jaxrnn.types import PyTree

Leaves = list[Any]  # arrays
Recurrence = Callable[[Leaves, PyTree], Leaves]  # (leaves of c_{t-1}, inputs of step t) -> c_t


class Component(NamedTuple):
    """Arrays of the carry that are solved together, once those that they depend on are known.

    Fields:
        leaves: their positions among the arrays of the carry.
        is_recurrent: whether they depend on themselves.
        is_affine: whether they are affine in themselves.
        is_elementwise: whether each element depends on itself alone among them.
        num_row_axes: the number of leading axes along which they are elementwise.
        is_differentiable: whether JAX can differentiate them.
    """

    leaves: tuple[int, ...]
    is_recurrent: bool
    is_affine: bool
    is_elementwise: bool
    num_row_axes: int
    is_differentiable: bool


def components(recurrence: Recurrence, carry: Leaves, inputs: PyTree) -> list[Component]:
    """Returns the components in the order in which they are solved.

    Args:
        recurrence: f, which returns c_t.
        carry: the arrays of c_{t-1}, or their shapes and dtypes.
        inputs: the inputs of one step, or their shapes and dtypes.
    """
    traced = jaxprs.trace(recurrence, carry, inputs)
    variables = traced.arguments[: len(carry)]
    reads = {j: set[int]() for j, _ in enumerate(carry)}
    for source, variable in enumerate(variables):
        for j, found in enumerate(dependences(traced.jaxpr, [variable])):
            if found is not None:
                reads[j].add(source)
    reaches = transitive_closure(reads)
    return [
        # All arrays of a group reach each other, so the first one reaches itself if any does.
        _component(traced.jaxpr, variables, group, is_recurrent=group[0] in reaches[group[0]])
        for group in strongly_connected(reaches)
    ]


def strongly_connected(reaches: dict[int, set[int]]) -> list[tuple[int, ...]]:
    """Returns the groups of nodes that reach each other; a group comes after those it reaches.

    For example, {0: {0}, 1: {0, 1, 2}, 2: {0, 1, 2}} has the groups (0,) and (1, 2).
    """

    def group_of(node: int) -> tuple[int, ...]:
        mutual = [other for other in reaches[node] if node in reaches[other]]
        return tuple(sorted({node, *mutual}))

    groups = {group_of(node) for node in reaches}
    # A group that reads another reaches more nodes than it.
    return sorted(groups, key=lambda group: (len(reaches[group[0]] | {*group}), group))


def transitive_closure(reads: dict[int, set[int]]) -> dict[int, set[int]]:
    """Returns all nodes that each node reaches, from those that it reads.

    Source: S. Warshall, "A theorem on Boolean matrices", Journal of the ACM 9 (1962).
    """
    reaches = {j: set(sources) for j, sources in reads.items()}
    for middle in reaches:
        for sources in reaches.values():
            if middle in sources:
                sources |= reaches[middle]
    return reaches


def _component(
    jaxpr: Jaxpr, variables: list[Var], leaves: tuple[int, ...], *, is_recurrent: bool
) -> Component:
    found = dependences(jaxpr, [variables[j] for j in leaves])
    own = [dependence for j in leaves if (dependence := found[j]) is not None]
    ndims = [len(jaxprs.shape_of(variables[j])) for j in leaves]
    # An axis must stay in its place, since element n of c_t has to depend on element n of c_{t-1}.
    kept_axes = [{i for i, p in dependence.axes if i == p} for dependence in own]
    row_axes = 0
    while row_axes < min(ndims) and all(row_axes in axes for axes in kept_axes):
        row_axes += 1
    return Component(
        leaves,
        is_recurrent,
        is_affine=all(d.is_affine for d in own),
        is_elementwise=len(leaves) == 1 and row_axes == ndims[0],
        num_row_axes=row_axes,
        is_differentiable=all(d.is_differentiable for d in own),
    )
