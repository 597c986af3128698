"""Which elements of a value depend on which elements of a source: read from a step's equations.

The answer is given along one axis of the source, of size M. For each axis p of a value that is
known about, there is a matrix A_p of bool: the elements at position n of axis p depend at most on
the elements at those positions m of the source's axis where A_p[n, m] is True. An axis that is not
listed may depend on all positions. A value that does not depend on the source is None. An equation
that is not known here lists no axes, so a pattern may be too large, and is never too small.

For example, take the source v `(3,)` and `y = concatenate([v, [0]])` `(4,)`. The only axis of y has
the matrix

    A_0 = [[1 0 0]      y[0] depends on v[0]
           [0 1 0]
           [0 0 1]
           [0 0 0]]     y[3] depends on nothing

and for z = y @ w, which reads all of y, no axis is listed.

A derivative can reach elements that the value does not, if a function has a derivative of its own
(`jax.custom_jvp`, `jax.custom_vjp`). Then the pattern contains both.

`jaxrnn.loops.parallel.dependence` asks a narrower question: whether A_p is the identity. There, an
axis may be long, since no matrix is stored.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Atom, Equation, Jaxpr, Var
from jaxrnn.loops.parallel import dependence
from jaxrnn.loops.parallel.dependence import ADDITIVE, CALLS, MOVING, NONLINEAR, Shape

Pattern = dict[int, np.ndarray]  # axis of the value: A_p (size of the axis, M)
Operands = list[Pattern | None]
Rule = Callable[[Equation, int, Pattern], Pattern]  # see `RULES`

ELEMENTWISE = ADDITIVE | NONLINEAR | {"mul", "div", "select_n", "real", "imag", "complex", "conj"}
CUSTOM_RULES = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
# A longer axis counts as one along which everything may depend on everything.
LONGEST_AXIS = 8192


def patterns_along(jaxpr: Jaxpr, source: Var, axis: int) -> Operands:
    """Returns how each output of a jaxpr depends on one axis of an input variable."""
    return _outputs(jaxpr, {source: along(source, axis)})


def are_dependent(jaxpr: Jaxpr, sources: Iterable[Var]) -> list[bool]:
    """Returns whether each output of a jaxpr depends on any of these input variables."""
    no_axes: dict[Var, Pattern] = {v: {} for v in sources}
    return [pattern is not None for pattern in _outputs(jaxpr, no_axes)]


def along(source: Var, axis: int) -> Pattern:
    """Returns the pattern of the source itself."""
    size = jaxprs.shape_of(source)[axis]
    return {axis: np.eye(size, dtype=bool)} if size <= LONGEST_AXIS else {}


def rows_of(pattern: Pattern | None, shape: Sequence[int], size: int) -> np.ndarray:
    """Returns the pattern as one matrix (number of elements of the value, M).

    An element depends on a position only if all axes of the value allow it.
    """
    count = int(np.prod(shape, dtype=int))
    if pattern is None:
        return np.zeros((count, size), bool)
    rows = np.ones((*shape, size), bool)
    for p, matrix in pattern.items():
        rows &= np.expand_dims(matrix, [q for q in range(len(shape)) if q != p])
    return rows.reshape(count, size)


def propagate(eqns: Iterable[Equation], known: dict[Var, Pattern]) -> dict[Var, Pattern]:
    """Returns the patterns of all variables that depend on the source, given those of some."""
    return dependence.propagate(eqns, known, _dependent_results)


def _outputs(jaxpr: Jaxpr, known: dict[Var, Pattern]) -> Operands:
    return dependence.propagate_to_outputs(jaxpr, known, _dependent_results)


def _dependent_results(eqn: Equation, operands: Operands) -> Operands:
    """Returns the patterns of the results, and None for an empty one.

    A slice may leave out all elements that depend on the source.
    """
    found = results(eqn, operands)
    return [p if p is not None and all(a.any() for a in p.values()) else None for p in found]


def results(eqn: Equation, operands: Operands) -> Operands:
    """Returns the patterns of the results of an equation, one operand of which depends."""
    name = eqn.primitive.name
    if name in CALLS:
        return dependence.propagate_through_call(eqn.params["jaxpr"], operands, _dependent_results)
    if name in CUSTOM_RULES:
        called = eqn.params[CUSTOM_RULES[name]]
        of_value = dependence.propagate_through_call(called, operands, _dependent_results)
        of_derivative = _of_derivative(eqn, operands)
        return [_union(both) for both in zip(of_value, of_derivative, strict=True)]
    if name == "split":
        return _split(eqn, operands)
    if name == "unstack":
        return _unstack(eqn, operands)
    if name == "concatenate":
        return [_concatenate(eqn, operands)]
    rule = _if_same_shape if name in ELEMENTWISE else RULES.get(name)
    if rule is None:
        return [{} for _ in eqn.outvars]
    of_operands = [
        None if pattern is None else rule(eqn, index, pattern)
        for index, pattern in enumerate(operands)
    ]
    return [_union(of_operands)]


def _of_derivative(eqn: Equation, operands: Operands) -> Operands:
    """Returns on which elements of the source the derivative of each result depends.

    They are read from the equations of the pullback, whose sources are the cotangents of a result.
    """
    found: Operands = []
    for number, result in enumerate(eqn.outvars):
        if jaxprs.has_gradient(result):
            found.append(_of_derivative_of_result(eqn, number, operands))
        else:
            found.append(None)
    return found


def _of_derivative_of_result(eqn: Equation, number: int, operands: Operands) -> Pattern | None:
    floats = [i for i, v in enumerate(eqn.invars) if jaxprs.has_gradient(v)]

    def pull_back(cotangent: jax.Array, values: list[Any]) -> tuple[jax.Array, ...]:
        def of_floats(*inexact: jax.Array) -> jax.Array:
            merged = list(values)
            for i, x in zip(floats, inexact, strict=True):
                merged[i] = x
            result: jax.Array = jaxprs.evaluate(eqn, merged)[number]
            return result

        _, pullback = jax.vjp(of_floats, *(values[i] for i in floats))
        return pullback(cotangent)

    traced = jaxprs.trace(
        pull_back, _shape_and_dtype(eqn.outvars[number]), list(map(_shape_and_dtype, eqn.invars))
    )
    cotangent = traced.arguments[0]
    return _transposed_pattern(traced.jaxpr, cotangent, [operands[i] for i in floats])


def _shape_and_dtype(v: Atom) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jaxprs.shape_of(v), jaxprs.dtype_of(v))


def _transposed_pattern(jaxpr: Jaxpr, cotangent: Var, operands: Operands) -> Pattern | None:
    """Returns the pattern of a result, given its pullback and the patterns of the operands."""
    of_operands: list[Pattern | None] = []
    is_reached = are_dependent(jaxpr, [cotangent])
    for i, pattern in enumerate(operands):
        if pattern is None or not is_reached[i]:
            continue
        of_operand: Pattern = {}
        for axis, _ in enumerate(jaxprs.shape_of(cotangent)):
            back = patterns_along(jaxpr, cotangent, axis)[i] or {}
            # An element of the result reads elements of the operand, and these read the source.
            read = [bool_product(back[p].T, a) for p, a in pattern.items() if p in back]
            if read:
                of_operand[axis] = np.logical_and.reduce(read)
        of_operands.append(of_operand)
    return _union(of_operands)


def bool_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the product of two matrices of bool: whether some position is True in both."""
    # In float32, NumPy calls BLAS. For bool it has a slow loop of its own.
    return a.astype(np.float32) @ b.astype(np.float32) > 0


def _union(patterns: Iterable[Pattern | None]) -> Pattern | None:
    """Returns the pattern of a value that reads several values; None stands for no dependence.

    An axis that one of them does not list is not listed, since it may depend on everything.
    """
    dependent = [pattern for pattern in patterns if pattern is not None]
    if not dependent:
        return None
    axes = set.intersection(*map(set, dependent))
    return {p: np.logical_or.reduce([pattern[p] for pattern in dependent]) for p in axes}


def _if_same_shape(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    """An elementwise operand; a scalar is read by all elements."""
    has_same_shape = jaxprs.shape_of(eqn.invars[index]) == jaxprs.shape_of(eqn.outvars[0])
    return pattern if has_same_shape else {}


def _split(eqn: Equation, operands: Operands) -> Operands:
    (pattern,) = operands
    assert pattern is not None
    axis = eqn.params["axis"]
    ends = np.cumsum(eqn.params["sizes"])
    return [
        _positions(pattern, axis, slice(end - size, end))
        for end, size in zip(ends, eqn.params["sizes"], strict=True)
    ]


def _positions(pattern: Pattern, axis: int, positions: slice) -> Pattern:
    """Returns the pattern of a part of the value, which has these positions of an axis."""
    return {p: a[positions] if p == axis else a for p, a in pattern.items()}


def _unstack(eqn: Equation, operands: Operands) -> Operands:
    (pattern,) = operands
    assert pattern is not None
    axis = eqn.params["axis"]
    count = jaxprs.shape_of(eqn.invars[0])[axis]
    parts = [_positions(pattern, axis, slice(i, i + 1)) for i in range(count)]
    return [_without_axis(part, axis) for part in parts]


def _without_axis(pattern: Pattern, axis: int) -> Pattern:
    """Returns the pattern without an axis of size 1, whose positions restrict the other axes."""
    only = pattern.get(axis, True)
    before = {p: a & only for p, a in pattern.items() if p < axis}
    return before | {p - 1: a & only for p, a in pattern.items() if p > axis}


def _concatenate(eqn: Equation, operands: Operands) -> Pattern:
    """Along the axis, the rows of the operands follow each other."""
    axis = eqn.params["dimension"]
    dependent = [pattern for pattern in operands if pattern is not None]
    others = [{p: a for p, a in pattern.items() if p != axis} for pattern in dependent]
    result = _union(others) or {}
    known = [pattern[axis] for pattern in dependent if axis in pattern]
    if not known:
        return result
    source_size = known[0].shape[1]
    rows: list[np.ndarray] = []
    for v, pattern in zip(eqn.invars, operands, strict=True):
        # An operand that does not list the axis may depend on all positions.
        default = np.full((jaxprs.shape_of(v)[axis], source_size), pattern is not None)
        rows.append((pattern or {}).get(axis, default))
    return result | {axis: np.concatenate(rows)}


# Rules `(eqn, index of an operand, its pattern) -> pattern of the result, as far as it depends on
# that operand`.


def _broadcast(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    places = eqn.params["broadcast_dimensions"]
    shape = eqn.params["shape"]
    result = {int(places[p]): a for p, a in pattern.items()}
    return {q: np.broadcast_to(a, (shape[q], a.shape[1])) for q, a in result.items()}


def _moved(new_axes: Callable[[Equation, int, Shape], dict[int, int]]) -> Rule:
    """The rule of an equation that moves whole axes; `new_axes` returns the new one of each."""

    def rule(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
        new_axis = new_axes(eqn, index, jaxprs.shape_of(eqn.invars[index]))
        return {new_axis[p]: a for p, a in pattern.items() if p in new_axis}

    return rule


def _squeeze(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    for axis in sorted(eqn.params["dimensions"], reverse=True):
        pattern = _without_axis(pattern, axis)
    return pattern


def _of_gather(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    """The axes of a table that are taken as a whole, such as the features of an embedding."""
    if index != 0:
        return {}
    numbers = eqn.params["dimension_numbers"]
    batching = getattr(numbers, "operand_batching_dims", ())
    window = [p for p in range(len(shape)) if p not in (*numbers.collapsed_slice_dims, *batching)]
    pairs = zip(window, numbers.offset_dims, strict=True)
    return {p: q for p, q in pairs if eqn.params["slice_sizes"][p] == shape[p]}


def _of_dynamic_slice(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    """The axes that are taken as a whole; the operands after the first are the indices."""
    if index != 0:
        return {}
    sizes = eqn.params["slice_sizes"]
    return {p: p for p, size in enumerate(shape) if size == sizes[p]}


def _slice(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    starts = eqn.params["start_indices"]
    limits = eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    return {p: a[starts[p] : limits[p] : strides[p]] for p, a in pattern.items()}


def _reversed(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    return {p: a[::-1] if p in eqn.params["dimensions"] else a for p, a in pattern.items()}


def _pad(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    """New positions depend on nothing; operand 1 is the number that fills them."""
    if index != 0:
        return {}
    result: Pattern = {}
    for p, a in pattern.items():
        low, _, interior = eqn.params["padding_config"][p]
        size = jaxprs.shape_of(eqn.outvars[0])[p]
        places = low + np.arange(len(a)) * (interior + 1)
        kept = (places >= 0) & (places < size)
        result[p] = np.zeros((size, a.shape[1]), bool)
        result[p][places[kept]] = a[kept]
    return result


def _reshape(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    """Merges and splits axes, group by group of axes with the same product of sizes."""
    old_shape = jaxprs.shape_of(eqn.invars[0])
    new_shape = eqn.params["new_sizes"]
    if 0 in old_shape:
        return {}
    result: Pattern = {}
    for old_axes, new_axes in _groups(old_shape, new_shape):
        known = [axis for axis in old_axes if axis in pattern]
        if not known:
            continue
        source_size = pattern[known[0]].shape[1]
        old_sizes = [old_shape[axis] for axis in old_axes]
        new_sizes = [new_shape[axis] for axis in new_axes]
        within = {old_axes.index(axis): pattern[axis] for axis in known}
        merged = rows_of(within, old_sizes, source_size).reshape(*new_sizes, source_size)
        for place, axis in enumerate(new_axes):
            others = tuple(other for other in range(len(new_axes)) if other != place)
            result[axis] = np.any(merged, axis=others)
    return result


def _groups(old_shape: Shape, new_shape: Shape) -> list[tuple[list[int], list[int]]]:
    """Returns the smallest runs of old and of new axes that hold the same elements.

    For example, from (2, 6) to (2, 3, 2) the groups are ([0], [0]) and ([1], [1, 2]).
    """
    groups: list[tuple[list[int], list[int]]] = []
    old = 0
    new = 0
    while old < len(old_shape) or new < len(new_shape):
        old_axes: list[int] = []
        new_axes: list[int] = []
        old_size = 1
        new_size = 1
        while old_size != new_size or not (old_axes or new_axes):
            # Take the next axis on the side that holds fewer elements so far.
            has_old = old < len(old_shape)
            has_new = new < len(new_shape)
            if (old_size <= new_size and has_old) or not has_new:
                old_axes.append(old)
                old_size *= old_shape[old]
                old += 1
            else:
                new_axes.append(new)
                new_size *= new_shape[new]
                new += 1
        groups.append((old_axes, new_axes))
    return groups


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "slice": _slice,
    "rev": _reversed,
    "pad": _pad,
    "squeeze": _squeeze,
    "transpose": _moved(MOVING["transpose"]),
    "reduce_sum": _moved(MOVING["reduce_sum"]),
    "reduce_max": _moved(MOVING["reduce_sum"]),
    "reduce_min": _moved(MOVING["reduce_sum"]),
    "cumsum": _moved(MOVING["cumsum"]),
    "dot_general": _moved(MOVING["dot_general"]),
    "gather": _moved(_of_gather),
    "dynamic_slice": _moved(_of_dynamic_slice),
}
