"""Which numbers of the influence matrix S_t = ∂v_t/∂w are kept.

S is (N, P). But a weight of an elementwise recurrence influences one unit alone: that of its column
of the kernel. So S is kept in blocks, one for each weight array and layer. Column m of the weight
array, along one of its axes, has the rows `rows[m]`; all other numbers of S are zero, or dropped.
Which rows a column has is read from the equations of the step. A row is kept only if its unit acts
on a loss at a later step.

For example, the kernel `w_x` `(I, N)` of an elementwise recurrence has N columns along its axis 1,
and column m influences unit m alone. Its block has `rows = [[0], [1], ..., [N - 1]]`: one number is
kept for each weight. Its one seed is a vector of ones: D_t has one row for each unit, and the sum
of these rows has the number of unit m at weight (i, m), since all others have a zero there. Where a
column has several rows, units are colored: those of one color share a seed, and no column has two
units of one color. J_t is read in the same way, from a few sums of its rows (A. R. Curtis, M. J. D.
Powell, J. K. Reid, "On the estimation of sparse Jacobian matrices", 1974).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Jaxpr, Var
from jaxrnn.online.rows import AbstractWeights, Arguments, Leaves, Pullback, RowStep, Weights
from jaxrnn.online.sparsity import are_dependent, bool_product, patterns_along


class Block(NamedTuple):
    """Rows of the influence of one weight array.

    Fields:
        weight: the number of the weight array.
        axis: the axis of the weight array with M columns.
        rows: `(M, r)`, units of v, or -1; `(1, r)` if all columns have the same rows.
        seeds: `(r, N)`, the units that `rows[:, q]` contains, for each q.
    """

    weight: int
    axis: int
    rows: np.ndarray
    seeds: np.ndarray


class Pair(NamedTuple):
    """The numbers of J_t that lead from one block of a weight array to another.

    Fields:
        target: the number of the block that grows.
        source: the number of the block that is read.
        colors: `(M or 1, r, r')`, the row of the compressed J_t.
        columns: the same shape, its column.
        is_there: the same shape, whether the number may differ from zero.
    """

    target: int
    source: int
    colors: np.ndarray
    columns: np.ndarray
    is_there: np.ndarray


class Plan(NamedTuple):
    """What an algorithm keeps of S_t, and what it computes at each step.

    It depends on the equations of the step alone, not on numbers.

    Fields:
        blocks: the blocks of S.
        pairs: the numbers of J_t between them.
        seeds: `(C, N)`, sums of rows of J_t from which each number can be read.
        row: the step from which J_t is computed.
    """

    blocks: list[Block]
    pairs: list[Pair]
    seeds: np.ndarray
    row: RowStep

    def size(self, weights: AbstractWeights) -> int:
        """Returns how many numbers S has for one row of the batch."""
        total = 0
        for block in self.blocks:
            _, num_rows = block.rows.shape
            total += num_rows * int(np.prod(weights[block.weight].shape, dtype=int))
        return total


def plan(row: RowStep, arguments: Arguments, order: int | None, *, across_layers: bool) -> Plan:
    """Returns the plan of an online algorithm.

    Args:
        row: the step of one row.
        arguments: the arguments of one row, or their shapes and dtypes.
        order: the number of steps within which a kept weight influences a unit; None for any.
        across_layers: whether the influence on the units of later layers is kept.
    """
    direct, jacobian = _patterns(row, arguments)
    acting = _acting_units(row, jacobian)
    jacobian = jacobian & acting[:, None]
    layer_of = row.unit_layers()
    blocks: list[Block] = []
    for number, along_axes in enumerate(direct):
        of_acting = [rows & acting[:, None] for rows in along_axes]
        blocks += _blocks(number, of_acting, jacobian, layer_of, order, across_layers)
    places, needed = _places(blocks, jacobian)
    masked, sparse = _restricted(row, arguments, needed, jacobian)
    pairs, seeds = _pairs(places, needed, sparse)
    return Plan(blocks, pairs, seeds, masked)


def _restricted(
    row: RowStep, arguments: Arguments, needed: np.ndarray, jacobian: np.ndarray
) -> tuple[RowStep, np.ndarray]:
    """Returns the step from which J_t is computed, and which numbers of J_t it has.

    They contain the needed ones, see `jaxrnn.online.products`.
    """
    are_all_needed = not (jacobian & ~needed).any()
    found = [] if are_all_needed else row.products()
    if not found:
        return row, jacobian
    _, sparse = _patterns(row.without_products(found), arguments)
    masks: dict[int, np.ndarray] = {}
    for product in found:
        mask = product.mask(needed)
        masks[product.position] = mask
        sparse = sparse | product.jacobian(mask)
    return row.with_masks(masks), sparse & jacobian


def _patterns(row: RowStep, arguments: Arguments) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Returns which numbers of D_t and J_t may differ from zero.

    They are read from the equations of the pullback, whose sources are the cotangents of v_t. D_t
    is given for each weight array and each of its axes, as `(N, M)`; J_t is `(N, N)`.
    """
    shapes = [*(weight.shape for weight in arguments.w), (row.num_units,)]
    # For each result of the pullback and each of its axes. An array of the carry adds some rows.
    rows = [[np.zeros((0, columns), bool) for columns in shape] for shape in shapes]
    if row.num_units > 0:
        jaxpr, sources = _trace_pullback(row, arguments)
        for source in sources:
            (size,) = jaxprs.shape_of(source)
            for of_result, pattern in zip(rows, patterns_along(jaxpr, source, 0), strict=True):
                for axis, above in enumerate(of_result):
                    dense = np.full((above.shape[1], size), pattern is not None)
                    below = (pattern or {}).get(axis, dense).T
                    of_result[axis] = np.concatenate([above, below])
    *direct, (jacobian,) = rows
    return direct, jacobian


def _acting_units(row: RowStep, jacobian: np.ndarray) -> np.ndarray:
    """Returns which units act on the loss of the next step or of a later one, `(N,)`."""
    return _reachable(row.units_read_by_loss()[:, None], jacobian.T, None)[:, 0]


def _trace_pullback(row: RowStep, arguments: Arguments) -> tuple[Jaxpr, list[Var]]:
    """Returns the jaxpr of the pullback of one step, and its sources: the cotangents of v_t.

    There is one source for each floating-point array of the carry.
    """

    def pull_back(parts: Leaves, arguments: Arguments) -> tuple[Weights, jax.Array]:
        return pullback(row, arguments)(jnp.concatenate(parts))

    parts = [jax.ShapeDtypeStruct((size,), row.dtype) for size in row.sizes()]
    traced = jaxprs.trace(pull_back, parts, arguments)
    return traced.jaxpr, traced.arguments[: len(parts)]


def influencing_weights(row: RowStep, arguments: Arguments) -> list[int]:
    """Returns the numbers of the weight arrays that influence the carry."""
    if row.num_units == 0:
        return []
    jaxpr, sources = _trace_pullback(row, arguments)
    *of_weights, _ = are_dependent(jaxpr, sources)
    return [i for i, is_dependent in enumerate(of_weights) if is_dependent]


def pullback(row: RowStep, arguments: Arguments) -> Pullback:
    """Returns the function from ∂L/∂v_t to (∂L/∂w, ∂L/∂v_{t-1}), for one row at one step."""

    def new_v(w: Weights, v: jax.Array) -> jax.Array:
        return row(arguments._replace(w=w, v=v))[0]

    _, pull = jax.vjp(new_v, arguments.w, arguments.v)
    return pull


def _blocks(
    number: int,
    along_axes: list[np.ndarray],
    jacobian: np.ndarray,
    layer_of: np.ndarray,
    order: int | None,
    across_layers: bool,
) -> list[Block]:
    """Returns the blocks of one weight array, along the axis that needs the fewest numbers."""
    choices: list[list[Block]] = []
    for axis, rows in enumerate(along_axes):
        allowed = jacobian
        if not across_layers and rows.any():
            # Layers are in order, so the first one that the weights influence is their own.
            first = layer_of[rows.any(axis=1)].min()
            rows = rows & (layer_of == first)[:, None]
            allowed = jacobian & (layer_of[:, None] == layer_of[None, :])
        rows = _reachable(rows, allowed, order)
        of_layers = [rows & (layer_of == layer)[:, None] for layer in np.unique(layer_of)]
        choices.append([_block(number, axis, own) for own in of_layers if own.any()])
    return min(choices, key=_cost, default=[])


def _cost(blocks: list[Block]) -> tuple[int, float]:
    """Returns the numbers that are stored, and those of them that can differ from zero.

    Both are for one column, and all choices have the same number of weights.
    """
    stored = 0
    nonzero = 0.0
    for block in blocks:
        stored += block.rows.shape[1]
        nonzero += float(np.mean((block.rows >= 0).sum(axis=1)))
    return stored, nonzero


def _reachable(rows: np.ndarray, jacobian: np.ndarray, order: int | None) -> np.ndarray:
    """Returns the rows `(N, M)` that each column influences within `order` steps."""
    # D_t is the first step. N further steps reach all that any number of steps reaches.
    for _ in range(len(jacobian) if order is None else order - 1):
        wider = rows | bool_product(jacobian, rows)
        if (wider == rows).all():
            break
        rows = wider
    return rows


def _block(number: int, axis: int, rows: np.ndarray) -> Block:
    """Returns the block with these rows `(N, M)`.

    Units that belong to one column get different colors, so that each color of a column is one
    unit, and the sum of the rows of a color of D_t contains one number for each weight.
    """
    used = np.flatnonzero(rows.any(axis=1))
    have_common_column = bool_product(rows[used], rows[used].T)
    colors = _color(have_common_column)
    num_colors = int(colors.max()) + 1
    units = np.full((rows.shape[1], num_colors), -1)
    for unit, color in zip(used, colors, strict=True):
        units[rows[unit], color] = unit
    seeds = np.zeros((num_colors, len(rows)), np.float32)
    seeds[colors, used] = 1
    # A dense cell's columns all have all units. One row of the table then stands for all of them.
    if (units == units[0]).all():
        units = units[:1]
    return Block(number, axis, units, seeds)


def _color(conflicts: np.ndarray) -> np.ndarray:
    """Returns a color for each node, different for nodes in conflict; the first that is free.

    A node may be in conflict with itself, which has no effect, since it has no color yet.
    """
    colors = np.full(len(conflicts), -1)
    for node, others in enumerate(conflicts):
        taken = set(colors[others])
        colors[node] = next(color for color in range(node + 1) if color not in taken)
    return colors


class _Place(NamedTuple):
    """Where the numbers of a `Pair` stand in J_t.

    Fields:
        target: as in `Pair`.
        source: as in `Pair`.
        rows: `(M or 1, r, r')`.
        columns: the same shape.
        is_there: the same shape.
    """

    target: int
    source: int
    rows: np.ndarray
    columns: np.ndarray
    is_there: np.ndarray


def _places(blocks: list[Block], jacobian: np.ndarray) -> tuple[list[_Place], np.ndarray]:
    """Returns the numbers of J_t that the blocks need, by pair and as `(N, N)`."""
    places: list[_Place] = []
    needed = np.zeros_like(jacobian)
    for i, target in enumerate(blocks):
        for j, source in enumerate(blocks):
            if source.weight != target.weight:
                continue
            # S of one weight array reads S of the same array: (J S)_{im} = Σ_j J_{ij} S_{jm}.
            rows, columns = np.broadcast_arrays(target.rows[:, :, None], source.rows[:, None, :])
            is_there = (rows >= 0) & (columns >= 0) & jacobian[rows, columns]
            if is_there.any():
                needed[rows[is_there], columns[is_there]] = True
                places.append(_Place(i, j, rows, columns, is_there))
    return places, needed


def _pairs(
    places: list[_Place], needed: np.ndarray, jacobian: np.ndarray
) -> tuple[list[Pair], np.ndarray]:
    """Returns where to read the needed numbers of J_t, and the sums of rows that contain them."""
    # Two rows share a color unless one has a number in a column that the other one needs.
    overlap = bool_product(needed, jacobian.T)
    used = np.flatnonzero(needed.any(axis=1))
    conflicts = (overlap | overlap.T)[np.ix_(used, used)]
    np.fill_diagonal(conflicts, False)
    colors = np.zeros(len(jacobian), int)
    colors[used] = _color(conflicts)
    seeds = np.zeros((len(np.unique(colors[used])), len(jacobian)), np.float32)
    seeds[colors[used], used] = 1
    pairs = [
        Pair(
            place.target,
            place.source,
            np.where(place.is_there, colors[place.rows], 0),
            np.where(place.is_there, place.columns, 0),
            place.is_there,
        )
        for place in places
    ]
    return pairs, seeds
