"""The cheapest set of values that separates two parts of a graph."""

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

Node = TypeVar("Node", bound=Hashable)

LARGEST = 2**28  # the largest sum of all capacities, so that sums fit into 32 bits


def smallest_cut(
    costs: Mapping[Node, int | None],
    edges: Iterable[tuple[Node, Node]],
    sources: Iterable[Node],
    sinks: Iterable[Node],
) -> tuple[list[Node], set[Node]]:
    """Returns the cheapest set of nodes that every path from a source to a sink goes through.

    If several sets have the least total cost, it is the one nearest to the sinks. Sources and sinks
    may be in it. Each node becomes an edge from its entrance to its exit, whose capacity is its
    cost. The cut is the set of edges that a maximum flow saturates (L. Ford, D. Fulkerson 1956).

    For example, in x → a → y and x → b → y with the costs x 5, a 1, b 1, y 4, the cut between x and
    y is {a, b}.

    Args:
        costs: the cost of each node, at least 0; None for a node that must not be in the cut.
        edges: pairs of nodes.
        sources: the nodes where paths begin.
        sinks: the nodes where paths end.

    Raises:
        ValueError: if a path consists of nodes that must not be in the cut.

    Returns:
        The nodes of the cut, in the order of `costs`, and the set of nodes that lie before the cut
        or lead to no sink.
    """
    if not costs:
        return [], set()
    # Node i has its entrance at 2 i and its exit at 2 i + 1.
    place = {node: i for i, node in enumerate(costs)}
    start = 2 * len(costs)
    end = start + 1
    total = sum(filter(None, costs.values()))
    scale = min(1.0, LARGEST / max(1, total))
    unlimited = 2 * LARGEST  # more than any flow can be
    capacity: dict[tuple[int, int], int] = {}
    for node, i in place.items():
        cost = costs[node]
        scaled = max(1, round(cost * scale)) if cost else 0  # only a cost of 0 becomes 0
        capacity[2 * i, 2 * i + 1] = unlimited if cost is None else scaled
    for before, after in edges:
        capacity[2 * place[before] + 1, 2 * place[after]] = unlimited
    for node in sources:
        capacity[start, 2 * place[node]] = unlimited
    for node in sinks:
        capacity[2 * place[node] + 1, end] = unlimited
    rows, columns = np.array(list(capacity)).T
    limits = np.array(list(capacity.values()), np.int32)
    shape = end + 1, end + 1
    graph = coo_matrix((limits, (rows, columns)), shape).tocsr()
    result = maximum_flow(graph, start, end)
    if result.flow_value >= unlimited:
        raise ValueError("costs: got a path of nodes that must not be cut, expected none")
    residual = (graph - result.flow).tocsr()
    residual.eliminate_zeros()
    # The nodes from which a sink is reached through edges that are not saturated.
    behind = np.zeros(end + 1, bool)
    behind[breadth_first_order(residual.T.tocsr(), end, return_predecessors=False)] = True
    cut = [node for node, i in place.items() if behind[2 * i + 1] and not behind[2 * i]]
    return cut, {node for node, i in place.items() if not behind[2 * i + 1]}
