"""How the next carry depends on the carry: read from the equations of a step.

Two questions decide how a recurrence c_t = f(c_{t-1}) is solved for all steps at once. Is f affine,
so that one solve is exact? Along which axes is it elementwise, so that its Jacobian is diagonal or
has one block for each row? Both are answered equation by equation, for every value that depends on
the carry. An equation that is not known here counts as not affine, and as mixing all axes. So does
a call with a custom derivative rule; `jaxprs.primal` has replaced those that can be replaced.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

import jax.numpy as jnp

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Equation, Var

Axes = frozenset[tuple[int, int]]
NO_AXES: Axes = frozenset()

# f(x + y) = f(x) + f(y), element by element.
ADDITIVE = {"add", "sub", "neg", "add_any", "convert_element_type", "copy", "pvary"}
CALLS = {"jit", "closed_call", "core_call", "checkpoint", "remat", "remat2"}
# Elementwise functions of a complex number that have no complex derivative.
NOT_HOLOMORPHIC = {"abs", "sign", "max", "min", "clamp", "eq", "ne", "pow", "convert_element_type"}
# Elementwise, and not affine.
NONLINEAR = {
    *("tanh", "logistic", "exp", "exp2", "expm1", "log", "log1p", "sin", "cos", "tan", "sinh"),
    *("cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "atan2", "erf", "erfc", "erf_inv"),
    *("sqrt", "rsqrt", "cbrt", "square", "integer_pow", "pow", "max", "min", "abs", "sign"),
    *("floor", "ceil", "round", "rem", "clamp", "is_finite", "stop_gradient", "one_minus_square"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "lgamma", "digamma"),
}


class Dependence(NamedTuple):
    """How a value depends on the carry.

    Fields:
        is_affine: whether the value is an affine function of the carry.
        axes: pairs (i, p): an element at position n of the value's axis p depends on the elements
            at position n of the carry's axis i, and on no others along that axis.
        dtype: the dtype of the carry. A conversion to a narrower one rounds, so it is not affine.
        is_differentiable: whether JAX can differentiate the value in reverse mode.
    """

    is_affine: bool
    axes: Axes
    dtype: Any
    is_differentiable: bool = True


def dependences(jaxpr: Any, sources: Iterable[Var]) -> list[Dependence | None]:
    """Returns how each output of a jaxpr depends on the sources; None if it does not.

    Args:
        jaxpr: a jaxpr whose calls of jit are inlined.
        sources: the input variables that hold the carry.
    """
    start = {v: Dependence(True, _all_axes(v), v.aval.dtype) for v in sources}
    return _outputs(jaxpr, start)


def _all_axes(v: Var) -> Axes:
    return frozenset((axis, axis) for axis in range(v.aval.ndim))


def _outputs(jaxpr: Any, known: dict[Var, Dependence]) -> list[Dependence | None]:
    known = dict(known)
    for eqn in jaxpr.eqns:
        operands = [None if jaxprs.is_literal(v) else known.get(v) for v in eqn.invars]
        if any(operands):
            for v, dependence in zip(eqn.outvars, _results(eqn, operands), strict=True):
                if dependence is not None:
                    known[v] = dependence
    return [None if jaxprs.is_literal(v) else known.get(v) for v in jaxpr.outvars]


def _results(eqn: Equation, operands: list[Dependence | None]) -> list[Dependence | None]:
    """Returns how the results of an equation depend on the carry."""
    name = eqn.primitive.name
    if name in CALLS:
        return _outputs_of_call(eqn.params["jaxpr"], operands)
    is_affine = _is_affine(eqn, operands)
    if name in NOT_HOLOMORPHIC and any(map(_loses_holomorphy, eqn.invars, operands)):
        is_affine, axes = False, NO_AXES
    elif name in ADDITIVE | NONLINEAR | {"mul", "div", "select_n"}:
        axes = _common_axes(eqn, operands)
    elif name in MOVING:
        axes = frozenset.intersection(*_moved_axes(eqn, operands))
    else:
        axes = NO_AXES
    dependent = [d for d in operands if d is not None]
    is_differentiable = jaxprs.has_derivative(eqn) and all(d.is_differentiable for d in dependent)
    result = Dependence(is_affine, axes, dependent[0].dtype, is_differentiable)
    return [result] * len(eqn.outvars)


def _outputs_of_call(jaxpr: Any, operands: list[Dependence | None]) -> list[Dependence | None]:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    pairs = zip(jaxpr.invars, operands, strict=True)
    return _outputs(jaxpr, {v: d for v, d in pairs if d is not None})


def _loses_holomorphy(v: Var, operand: Dependence | None) -> bool:
    return operand is not None and jnp.issubdtype(v.aval.dtype, jnp.complexfloating)


def _is_affine(eqn: Equation, operands: list[Dependence | None]) -> bool:
    """Returns whether the results are affine in the carry."""
    name = eqn.primitive.name
    dependent = [d is not None for d in operands]
    if not all(d.is_affine for d in operands if d is not None):
        return False
    match name:
        case "mul" | "dot_general" | "conv_general_dilated":
            return sum(dependent) == 1
        case "div":
            return not dependent[1] and jaxprs.has_gradient(eqn.outvars[0])
        case "select_n":
            return not dependent[0]
        case "dynamic_slice" | "dynamic_update_slice":
            return not any(dependent[1 if name == "dynamic_slice" else 2 :])
        case "convert_element_type":
            (source,) = (d.dtype for d in operands if d is not None)
            return _keeps_numbers(source, eqn.outvars[0].aval.dtype)
    return name in ADDITIVE or name in MOVING


def _keeps_numbers(source: Any, target: Any) -> bool:
    """Returns whether every number of one dtype is one of the other."""
    is_integer = jnp.issubdtype(source, jnp.integer) and jnp.issubdtype(target, jnp.integer)
    is_inexact = jnp.issubdtype(source, jnp.inexact) and jnp.issubdtype(target, jnp.inexact)
    return source == target or ((is_integer or is_inexact) and source.itemsize < target.itemsize)


def _common_axes(eqn: Equation, operands: list[Dependence | None]) -> Axes:
    """Returns the axes of an elementwise result; operands of size 1 are broadcast, and scalars."""
    shape = eqn.outvars[0].aval.shape
    axes = []
    for v, dependence in zip(eqn.invars, operands, strict=True):
        if dependence is not None:
            old = v.aval.shape
            has_rank = len(old) == len(shape)
            kept = {(i, p) for i, p in dependence.axes if has_rank and old[p] == shape[p]}
            axes.append(frozenset(kept))
    return frozenset.intersection(*axes)


def _moved_axes(eqn: Equation, operands: list[Dependence | None]) -> list[Axes]:
    """Returns the axes of the result of an equation that moves axes, for each operand."""
    moved = []
    for index, (v, dependence) in enumerate(zip(eqn.invars, operands, strict=True)):
        if dependence is not None:
            to = MOVING[eqn.primitive.name](eqn, index, v.aval.shape)
            moved.append(frozenset((i, to[p]) for i, p in dependence.axes if p in to))
    return moved


# Functions `(eqn, index of the operand, its shape) -> {axis of the operand: axis of the result}`,
# for the axes along which the equation moves whole positions.


def _broadcast(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    places = eqn.params["broadcast_dimensions"]
    wide = eqn.params["shape"]
    return {p: int(q) for p, q in enumerate(places) if shape[p] == wide[q]}


def _reshape(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    """The leading axes that a reshape does not change."""
    kept = {}
    for axis, (old, new) in enumerate(zip(shape, eqn.params["new_sizes"], strict=False)):
        if old != new:
            break
        kept[axis] = axis
    return kept


def _remove(axes: tuple[int, ...], ndim: int) -> dict[int, int]:
    remaining = [axis for axis in range(ndim) if axis not in axes]
    return {old: new for new, old in enumerate(remaining)}


def _squeeze(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    return _remove(eqn.params["dimensions"], len(shape))


def _reduce_sum(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    return _remove(eqn.params["axes"], len(shape))


def _transpose(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    return {old: new for new, old in enumerate(eqn.params["permutation"])}


def _all_but(changed: Iterable[SupportsIndex], ndim: int) -> dict[int, int]:
    return {axis: axis for axis in range(ndim) if axis not in changed}


def _slice(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    """The axes that a slice takes as a whole."""
    pairs = enumerate(zip(shape, eqn.outvars[0].aval.shape, strict=True))
    return {axis: axis for axis, (old, new) in pairs if old == new}


def _pad(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    """The axes that are not padded; operand 1 is the number that fills."""
    padded = [axis for axis, sizes in enumerate(eqn.params["padding_config"]) if any(sizes)]
    return {} if index == 1 else _all_but(padded, len(shape))


def _concatenate(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    return _all_but([eqn.params["dimension"]], len(shape))


def _split(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    return _all_but([eqn.params["axis"]], len(shape))


def _reverse(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    return _all_but(eqn.params["dimensions"], len(shape))


def _cumulate(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    return _all_but([eqn.params["axis"]], len(shape))


def _dot_general(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    """Batch axes come first, then the other axes of the left factor, then those of the right."""
    contracted, batch = eqn.params["dimension_numbers"]
    result = {p: q for q, p in enumerate(batch[index])}
    free_axes = [
        [p for p in range(v.aval.ndim) if p not in contracted[side] and p not in batch[side]]
        for side, v in enumerate(eqn.invars)
    ]
    first = len(batch[0]) + (len(free_axes[0]) if index == 1 else 0)
    return result | {p: first + q for q, p in enumerate(free_axes[index])}


def _convolve(eqn: Equation, index: int, shape: tuple[int, ...]) -> dict[int, int]:
    """The batch axis of the images."""
    numbers = eqn.params["dimension_numbers"]
    is_image = index == 0 and eqn.params["batch_group_count"] == 1
    return {numbers.lhs_spec[0]: numbers.out_spec[0]} if is_image else {}


MOVING = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "reduce_sum": _reduce_sum,
    "transpose": _transpose,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "split": _split,
    "rev": _reverse,
    "cumsum": _cumulate,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolve,
}
