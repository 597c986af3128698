"""How the next carry depends on the carry: read from the equations of a step.

Two questions decide how a recurrence c_t = f(c_{t-1}) is solved for all steps at once. Is f affine,
so that one solve is exact? Along which axes is it elementwise, so that its Jacobian is diagonal or
has one block for each row? Both are answered equation by equation, for every value that depends on
the carry. An equation that is not known here counts as not affine, and as mixing all axes. So does
a call with a custom derivative rule; `jaxprs.primal` has replaced those that can be replaced.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, SupportsIndex, TypeVar

import jax.numpy as jnp

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Atom, Equation, Jaxpr, Var

Shape = tuple[int, ...]
Axes = frozenset[tuple[int, int]]  # see `Dependence`
NO_AXES: Axes = frozenset()

Fact = TypeVar("Fact")
# From an equation and what is known about its operands, what is known about its results.
Rule = Callable[[Equation, list[Fact | None]], list[Fact | None]]

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


def propagate(
    eqns: Iterable[Equation], known: dict[Var, Fact], rule: Rule[Fact]
) -> dict[Var, Fact]:
    """Returns what is known about all variables, given what is known about some of them.

    None stands for a value that does not depend on those. An equation that reads none of them is
    passed over, so the rule gets at least one operand that is not None.
    """
    known = dict(known)
    for eqn in eqns:
        operands = jaxprs.facts_of(known, eqn.invars)
        if all(operand is None for operand in operands):
            continue
        for v, fact in zip(eqn.outvars, rule(eqn, operands), strict=True):
            if fact is not None:
                known[v] = fact
    return known


def propagate_to_outputs(
    jaxpr: Jaxpr, known: dict[Var, Fact], rule: Rule[Fact]
) -> list[Fact | None]:
    """Returns what is known about the outputs of a jaxpr."""
    return jaxprs.facts_of(propagate(jaxpr.eqns, known, rule), jaxpr.outvars)


def propagate_through_call(
    called: Any, operands: list[Fact | None], rule: Rule[Fact]
) -> list[Fact | None]:
    """Returns what is known about the results of a call of a jaxpr, closed or not."""
    jaxpr: Jaxpr = getattr(called, "jaxpr", called)
    pairs = zip(jaxpr.invars, operands, strict=True)
    known = {v: operand for v, operand in pairs if operand is not None}
    return propagate_to_outputs(jaxpr, known, rule)


class Dependence(NamedTuple):
    """How a value depends on the carry.

    For example, let the carry be c `(B, H)`. Then c * 2 is affine with the axes {(0, 0), (1, 1)}:
    both axes are elementwise. c @ w is affine with the axes {(0, 0)}, since a unit reads others of
    its row. tanh(c.T) is not affine, and has the axes {(0, 1), (1, 0)}.

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


def dependences(jaxpr: Jaxpr, sources: Iterable[Var]) -> list[Dependence | None]:
    """Returns how each output of a jaxpr depends on the sources; None if it does not.

    Args:
        jaxpr: a jaxpr whose calls of jit are inlined.
        sources: the input variables that hold the carry.
    """
    start = {v: Dependence(True, _all_axes(v), jaxprs.dtype_of(v)) for v in sources}
    return propagate_to_outputs(jaxpr, start, _results)


def _all_axes(v: Var) -> Axes:
    return frozenset((axis, axis) for axis, _ in enumerate(jaxprs.shape_of(v)))


def _results(eqn: Equation, operands: list[Dependence | None]) -> list[Dependence | None]:
    """Returns how the results of an equation depend on the carry."""
    name = eqn.primitive.name
    if name in CALLS:
        return propagate_through_call(eqn.params["jaxpr"], operands, _results)
    is_affine = _is_affine(eqn, operands)
    if name in NOT_HOLOMORPHIC and any(map(_is_complex_operand, eqn.invars, operands)):
        # The Jacobian of such a function of complex numbers is not one complex number each.
        is_affine = False
        axes = NO_AXES
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


def _is_complex_operand(v: Atom, operand: Dependence | None) -> bool:
    return operand is not None and jnp.issubdtype(jaxprs.dtype_of(v), jnp.complexfloating)


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
        case "dynamic_slice":
            return not any(dependent[1:])  # the indices
        case "dynamic_update_slice":
            return not any(dependent[2:])  # the indices
        case "convert_element_type":
            (source,) = (d.dtype for d in operands if d is not None)
            return _keeps_numbers(source, jaxprs.dtype_of(eqn.outvars[0]))
    return name in ADDITIVE or name in MOVING


def _keeps_numbers(source: Any, target: Any) -> bool:
    """Returns whether every number of one dtype is one of the other."""
    is_integer = jnp.issubdtype(source, jnp.integer) and jnp.issubdtype(target, jnp.integer)
    is_inexact = jnp.issubdtype(source, jnp.inexact) and jnp.issubdtype(target, jnp.inexact)
    return source == target or ((is_integer or is_inexact) and source.itemsize < target.itemsize)


def _common_axes(eqn: Equation, operands: list[Dependence | None]) -> Axes:
    """Returns the axes of an elementwise result; operands of size 1 are broadcast, and scalars."""
    shape = jaxprs.shape_of(eqn.outvars[0])
    axes: list[Axes] = []
    for v, dependence in zip(eqn.invars, operands, strict=True):
        if dependence is not None:
            old = jaxprs.shape_of(v)
            has_rank = len(old) == len(shape)
            kept = {(i, p) for i, p in dependence.axes if has_rank and old[p] == shape[p]}
            axes.append(frozenset(kept))
    return frozenset.intersection(*axes)


def _moved_axes(eqn: Equation, operands: list[Dependence | None]) -> list[Axes]:
    """Returns the axes of the result of an equation that moves axes, for each operand."""
    moved: list[Axes] = []
    for index, (v, dependence) in enumerate(zip(eqn.invars, operands, strict=True)):
        if dependence is not None:
            new_axis = MOVING[eqn.primitive.name](eqn, index, jaxprs.shape_of(v))
            axes = {(i, new_axis[p]) for i, p in dependence.axes if p in new_axis}
            moved.append(frozenset(axes))
    return moved


# Functions `(eqn, index of the operand, its shape) -> {axis of the operand: axis of the result}`,
# for the axes along which the equation moves whole positions.


def _broadcast(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    places = eqn.params["broadcast_dimensions"]
    wide = eqn.params["shape"]
    return {p: int(q) for p, q in enumerate(places) if shape[p] == wide[q]}


def _reshape(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
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


def _squeeze(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    return _remove(eqn.params["dimensions"], len(shape))


def _reduce_sum(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    return _remove(eqn.params["axes"], len(shape))


def _transpose(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    return {old: new for new, old in enumerate(eqn.params["permutation"])}


def _all_but(changed: Iterable[SupportsIndex], ndim: int) -> dict[int, int]:
    return {axis: axis for axis in range(ndim) if axis not in changed}


def _slice(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    """The axes that a slice takes as a whole."""
    new_shape = jaxprs.shape_of(eqn.outvars[0])
    return {axis: axis for axis, size in enumerate(shape) if size == new_shape[axis]}


def _pad(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    """The axes that are not padded; operand 1 is the number that fills."""
    padded = [axis for axis, sizes in enumerate(eqn.params["padding_config"]) if any(sizes)]
    return {} if index == 1 else _all_but(padded, len(shape))


def _concatenate(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    return _all_but([eqn.params["dimension"]], len(shape))


def _split(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    return _all_but([eqn.params["axis"]], len(shape))


def _reverse(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    return _all_but(eqn.params["dimensions"], len(shape))


def _cumulate(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    return _all_but([eqn.params["axis"]], len(shape))


def _dot_general(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    """Batch axes come first, then the other axes of the left factor, then those of the right."""
    contracted, batch = eqn.params["dimension_numbers"]
    left, right = (
        [axis for axis, _ in enumerate(jaxprs.shape_of(v)) if axis not in (*summed, *shared)]
        for v, summed, shared in zip(eqn.invars, contracted, batch, strict=True)
    )
    # The axes of this factor, in the order in which the result has them, and the first place.
    free_axes = left if index == 0 else right
    first = len(batch[0]) + (0 if index == 0 else len(left))
    result = {old: new for new, old in enumerate(batch[index])}
    return result | {old: first + new for new, old in enumerate(free_axes)}


def _convolve(eqn: Equation, index: int, shape: Shape) -> dict[int, int]:
    """The batch axis of the images."""
    numbers = eqn.params["dimension_numbers"]
    is_image = index == 0 and eqn.params["batch_group_count"] == 1
    return {numbers.lhs_spec[0]: numbers.out_spec[0]} if is_image else {}


MOVING: dict[str, Callable[[Equation, int, Shape], dict[int, int]]] = {
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
