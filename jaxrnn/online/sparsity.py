"""Which elements of a value depend on which elements of a source: read from a step's equations.

The answer is given along one axis of the source, of size M. For each axis p of a value that is
known about, there is a matrix A_p of bool: the elements at position n of axis p depend at most on
the elements at those positions m of the source's axis where A_p[n, m] is True. An axis that is not
listed may depend on all positions. A value that does not depend on the source is None. An equation
that is not known here lists no axes, so a pattern may be too large, and is never too small.

A derivative can reach elements that the value does not, if a function has a derivative of its own
(`jax.custom_jvp`, `jax.custom_vjp`). Then the pattern contains both.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Equation, Var
from jaxrnn.loops.parallel.dependence import ADDITIVE, CALLS, MOVING, NONLINEAR

Pattern = dict[int, np.ndarray]  # axis of the value: A_p (size of the axis, M)
Operands = list[Pattern | None]

ELEMENTWISE = ADDITIVE | NONLINEAR | {"mul", "div", "select_n", "real", "imag", "complex", "conj"}
CUSTOM_RULES = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
# A longer axis counts as one along which everything may depend on everything.
LONGEST_AXIS = 8192


def patterns_along(jaxpr: Any, source: Var, axis: int) -> Operands:
    """Returns how each output of a jaxpr depends on one axis of an input variable."""
    return _outputs(jaxpr, {source: along(source, axis)})


def are_dependent(jaxpr: Any, sources: Iterable[Var]) -> list[bool]:
    """Returns whether each output of a jaxpr depends on any of these input variables."""
    return [pattern is not None for pattern in _outputs(jaxpr, {v: {} for v in sources})]


def along(source: Var, axis: int) -> Pattern:
    """Returns the pattern of the source itself."""
    size = source.aval.shape[axis]
    return {axis: np.eye(size, dtype=bool)} if size <= LONGEST_AXIS else {}


def rows_of(pattern: Pattern | None, shape: Sequence[int], size: int) -> np.ndarray:
    """Returns the pattern as one matrix (number of elements of the value, M)."""
    count = int(np.prod(shape, dtype=int))
    if pattern is None:
        return np.zeros((count, size), bool)
    rows = np.ones((*shape, size), bool)
    for p, matrix in pattern.items():
        rows &= np.expand_dims(matrix, [q for q in range(len(shape)) if q != p])
    return rows.reshape(count, size)


def propagate(eqns: Iterable[Equation], known: dict[Var, Pattern]) -> dict[Var, Pattern]:
    """Returns the patterns of all variables that depend on the source, given those of some."""
    known = dict(known)
    for eqn in eqns:
        operands = [None if jaxprs.is_literal(v) else known.get(v) for v in eqn.invars]
        if all(pattern is None for pattern in operands):
            continue
        for v, pattern in zip(eqn.outvars, results(eqn, operands), strict=True):
            # A slice may leave out all elements that depend on the source.
            if pattern is not None and all(a.any() for a in pattern.values()):
                known[v] = pattern
    return known


def _outputs(jaxpr: Any, known: dict[Var, Pattern]) -> Operands:
    known = propagate(jaxpr.eqns, known)
    return [None if jaxprs.is_literal(v) else known.get(v) for v in jaxpr.outvars]


def results(eqn: Equation, operands: Operands) -> Operands:
    """Returns the patterns of the results of an equation, one operand of which depends."""
    name = eqn.primitive.name
    if name in CALLS:
        return _of_call(eqn.params["jaxpr"], operands)
    if name in CUSTOM_RULES:
        of_value = _of_call(eqn.params[CUSTOM_RULES[name]], operands)
        of_derivative = _of_derivative(eqn, operands)
        return [
            _union([p for p in both if p is not None]) if any(p is not None for p in both) else None
            for both in zip(of_value, of_derivative, strict=True)
        ]
    if name in ("split", "unstack"):
        return (_split if name == "split" else _unstack)(eqn, operands)
    if name in ELEMENTWISE:
        return [_union([_if_same_shape(eqn, v, p) for v, p in _dependent(eqn, operands)])]
    if name in RULES:
        return [_union([RULES[name](eqn, v, p) for v, p in _dependent(eqn, operands)])]
    if name == "concatenate":
        return [_concatenate(eqn, operands)]
    return [{} for _ in eqn.outvars]


def _of_call(jaxpr: Any, operands: Operands) -> Operands:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    pairs = zip(jaxpr.invars, operands, strict=True)
    return _outputs(jaxpr, {v: pattern for v, pattern in pairs if pattern is not None})


def _of_derivative(eqn: Equation, operands: Operands) -> Operands:
    """Returns on which elements of the source the derivative of each result depends.

    They are read from the equations of the pullback, whose sources are the cotangents of a result.
    """
    floats = [i for i, v in enumerate(eqn.invars) if jaxprs.has_gradient(v)]
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    found: Operands = []
    for number, result in enumerate(eqn.outvars):
        if not jaxprs.has_gradient(result):
            found.append(None)
            continue

        def pulled_back(cotangent: Any, values: Any, number: int = number) -> Any:
            def of_floats(*inexact: Any) -> Any:
                merged = list(values)
                for i, x in zip(floats, inexact, strict=True):
                    merged[i] = x
                return jaxprs.evaluate(eqn, merged)[number]

            return jax.vjp(of_floats, *(values[i] for i in floats))[1](cotangent)

        aval = jax.ShapeDtypeStruct(result.aval.shape, result.aval.dtype)
        jaxpr, constants, _ = jaxprs.flat_jaxpr(pulled_back, aval, avals)
        cotangent = [*jaxpr.constvars, *jaxpr.invars][len(constants)]
        read_by = [operands[i] for i in floats]
        found.append(_transposed_pattern(jaxpr, cotangent, read_by))
    return found


def _transposed_pattern(jaxpr: Any, cotangent: Var, operands: Operands) -> Pattern | None:
    """Returns the pattern of a result, given its pullback and the patterns of the operands."""
    of_operands: list[Pattern] = []
    reached = [p is not None for p in _outputs(jaxpr, {cotangent: {}})]
    for i, pattern in enumerate(operands):
        if pattern is None or not reached[i]:
            continue
        of_operand = {}
        for axis in range(cotangent.aval.ndim):
            back = patterns_along(jaxpr, cotangent, axis)[i] or {}
            # An element of the result reads elements of the operand, and these read the source.
            read = [_product(back[p].T, a) for p, a in pattern.items() if p in back]
            if read:
                of_operand[axis] = np.logical_and.reduce(read)
        of_operands.append(of_operand)
    return _union(of_operands) if of_operands else None


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(np.float32) @ b.astype(np.float32) > 0


def _dependent(eqn: Equation, operands: Operands) -> list[tuple[int, Pattern]]:
    return [(index, pattern) for index, pattern in enumerate(operands) if pattern is not None]


def _union(patterns: list[Pattern]) -> Pattern:
    """Returns the pattern of a value that reads several values; axes must be known in all."""
    axes = set.intersection(*map(set, patterns))
    return {p: np.logical_or.reduce([pattern[p] for pattern in patterns]) for p in axes}


def _if_same_shape(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    """An elementwise operand; a scalar is read by all elements."""
    return pattern if eqn.invars[index].aval.shape == eqn.outvars[0].aval.shape else {}


def _split(eqn: Equation, operands: Operands) -> Operands:
    (pattern,) = operands
    assert pattern is not None
    axis = eqn.params["axis"]
    ends = np.cumsum(eqn.params["sizes"])
    return [
        {p: a[end - size : end] if p == axis else a for p, a in pattern.items()}
        for end, size in zip(ends, eqn.params["sizes"], strict=True)
    ]


def _unstack(eqn: Equation, operands: Operands) -> Operands:
    (pattern,) = operands
    assert pattern is not None
    axis = eqn.params["axis"]
    count = eqn.invars[0].aval.shape[axis]
    return [
        _without_axis({p: a[i : i + 1] if p == axis else a for p, a in pattern.items()}, axis)
        for i in range(count)
    ]


def _without_axis(pattern: Pattern, axis: int) -> Pattern:
    """Returns the pattern without an axis of size 1, whose positions restrict the other axes."""
    only = pattern.get(axis, True)
    return {p - (p > axis): a & only for p, a in pattern.items() if p != axis}


def _concatenate(eqn: Equation, operands: Operands) -> Pattern:
    """Along the axis, the rows of the operands follow each other."""
    axis = eqn.params["dimension"]
    dependent = [pattern for pattern in operands if pattern is not None]
    result = _union([{p: a for p, a in pattern.items() if p != axis} for pattern in dependent])
    known = [pattern[axis] for pattern in dependent if axis in pattern]
    if not known:
        return result
    rows = []
    for v, pattern in zip(eqn.invars, operands, strict=True):
        # An operand that does not list the axis may depend on all positions.
        default = np.full((v.aval.shape[axis], known[0].shape[1]), pattern is not None)
        rows.append((pattern or {}).get(axis, default))
    return result | {axis: np.concatenate(rows)}


# Rules `(eqn, index of an operand, its pattern) -> pattern of the result, as far as it depends on
# that operand`.


def _broadcast(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    places, shape = eqn.params["broadcast_dimensions"], eqn.params["shape"]
    result = {int(places[p]): a for p, a in pattern.items()}
    return {q: np.broadcast_to(a, (shape[q], a.shape[1])) for q, a in result.items()}


def _moved(axes: Callable[[Equation, int, tuple[int, ...]], dict[int, int]]) -> Any:
    """The rule of an equation that moves whole axes; `axes` maps old to new ones."""

    def rule(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
        to = axes(eqn, index, eqn.invars[index].aval.shape)
        return {to[p]: a for p, a in pattern.items() if p in to}

    return rule


def _squeeze(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    for axis in sorted(eqn.params["dimensions"], reverse=True):
        pattern = _without_axis(pattern, axis)
    return pattern


def _of_gather(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    """The axes of a table that are taken as a whole, such as the features of an embedding."""
    if index != 0:
        return {}
    numbers = eqn.params["dimension_numbers"]
    batching = getattr(numbers, "operand_batching_dims", ())
    window = [p for p in range(len(shape)) if p not in (*numbers.collapsed_slice_dims, *batching)]
    pairs = zip(window, numbers.offset_dims, strict=True)
    return {p: q for p, q in pairs if eqn.params["slice_sizes"][p] == shape[p]}


def _of_dynamic_slice(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    sizes = eqn.params["slice_sizes"]
    return {p: p for p, n in enumerate(shape) if n == sizes[p]} if index == 0 else {}


def _slice(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    return {p: a[starts[p] : limits[p] : strides[p]] for p, a in pattern.items()}


def _reversed(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    return {p: a[::-1] if p in eqn.params["dimensions"] else a for p, a in pattern.items()}


def _pad(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    """New positions depend on nothing; operand 1 is the number that fills them."""
    result: Pattern = {}
    for p, a in pattern.items() if index == 0 else ():
        low, _, interior = eqn.params["padding_config"][p]
        size = eqn.outvars[0].aval.shape[p]
        places = low + np.arange(len(a)) * (interior + 1)
        kept = (places >= 0) & (places < size)
        result[p] = np.zeros((size, a.shape[1]), bool)
        result[p][places[kept]] = a[kept]
    return result


def _reshape(eqn: Equation, index: int, pattern: Pattern) -> Pattern:
    """Merges and splits axes, group by group of axes with the same product of sizes."""
    old, new = eqn.invars[0].aval.shape, eqn.params["new_sizes"]
    if 0 in old:
        return {}
    result: Pattern = {}
    for sources, targets in _groups(old, new):
        known = [p for p in sources if p in pattern]
        if not known:
            continue
        size = pattern[known[0]].shape[1]
        shape = [old[p] for p in sources]
        within = {sources.index(p): pattern[p] for p in known}
        merged = rows_of(within, shape, size).reshape(*(new[q] for q in targets), size)
        for place, q in enumerate(targets):
            others = tuple(k for k in range(len(targets)) if k != place)
            result[q] = np.any(merged, axis=others)
    return result


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Returns the smallest runs of old and of new axes that hold the same elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        sources: list[int] = []
        targets: list[int] = []
        left = right = 1
        while left != right or not (sources or targets):
            if (left <= right and i < len(old)) or j == len(new):
                sources.append(i)
                left *= old[i]
                i += 1
            else:
                targets.append(j)
                right *= new[j]
                j += 1
        groups.append((sources, targets))
    return groups


RULES: dict[str, Callable[[Equation, int, Pattern], Pattern]] = {
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
