"""Evaluates the equations of a step on the values of `gpu_values`.

Elementwise equations run as they are, on each group of features. An equation that moves features
regroups them. A product with a constant matrix is left to the kernel, which `Memory` stands for.
"""

import abc
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import check
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Equation
from jaxrnn.loops.fused import gpu_values as values
from jaxrnn.loops.fused.gpu_values import (
    Constant,
    Grid,
    Partition,
    Row,
    Scalar,
    Value,
    Vector,
    refuse,
)

# Elementwise primitives for which Mosaic GPU has machine code.
ELEMENTWISE = {
    *("abs", "add", "and", "atan2", "clamp", "cos", "div", "eq", "erf", "exp", "exp2", "ge", "gt"),
    *("le", "log", "log2", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or"),
    *("one_minus_square", "rem", "round", "rsqrt", "sign", "sin", "sqrt", "square", "sub"),
    *("tanh", "xor", "add_any", "select_n", "convert_element_type", "integer_pow"),
}


class Use(NamedTuple):
    """How an equation reads a constant.

    Fields:
        var: the variable of the constant.
        role: Grid, Row, Vector or Scalar; None for the matrix of a product.
        axis: the axis of a matrix that the product sums over.
    """

    var: Any
    role: Any
    axis: int = 0


class Memory(abc.ABC):
    """What the equations need of the kernel around them."""

    @abc.abstractmethod
    def constant(self, use: Use) -> Any:
        """Returns a constant in its role: a Grid, a Row, a Vector or a Scalar."""

    @abc.abstractmethod
    def product(self, x: Grid, use: Use, dtype: Any) -> Grid:
        """Returns x W, with a constant matrix W, in this dtype."""


class Evaluator(NamedTuple):
    """Evaluates equations.

    Fields:
        partition: how values are divided.
        memory: the constants, and products with them.
    """

    partition: Partition
    memory: Memory

    def run(self, equations: Iterable[Equation], env: dict[Any, Value]) -> dict[Any, Value]:
        """Returns the environment together with the results of the equations."""
        env = dict(env)
        for eqn in equations:
            operands = [value_of(env, v) for v in eqn.invars]
            name = eqn.primitive.name
            if name not in ELEMENTWISE and name not in RULES:
                refuse(f"{name} {_shapes(eqn)}")
            results = RULES.get(name, _elementwise)(self, eqn, operands)
            env |= zip(eqn.outvars, results, strict=True)
        return env

    def as_role(self, value: Value, aval: Any, role: Any) -> Any:
        """Returns a value as a Grid or as a Row of the shape of `aval`."""
        if isinstance(value, role):
            return value
        if isinstance(value, Constant):
            return self.memory.constant(Use(value.var, role))
        if isinstance(value, Scalar):
            if role is Row:
                return Row(self.partition.fill_row(value.value, aval.dtype))
            block = self.partition.fill(value.value, aval.dtype)
            return Grid((block,) * self.partition.groups(aval.shape[-1]))
        return refuse(f"{type(value).__name__} in the place of {role.__name__}")


def value_of(env: dict[Any, Value], atom: Any) -> Value:
    """Returns the value of a variable or of a literal."""
    if jaxprs.is_literal(atom):
        return Scalar(np.asarray(atom.val, jaxprs.aval_of(atom).dtype)[()])
    return env[atom]


def _shapes(eqn: Equation) -> str:
    """Returns the operands of an equation for a message."""
    return "of " + ", ".join(check.describe(jaxprs.aval_of(v)) for v in eqn.invars)


def _elementwise(evaluator: Evaluator, eqn: Equation, operands: list[Value]) -> list[Value]:
    partition = evaluator.partition
    (out,) = eqn.outvars
    role = partition.role(jaxprs.shape_of(out))
    if role is None:
        refuse(f"{eqn.primitive.name} {_shapes(eqn)}")
    arguments = []
    for value, v in zip(operands, eqn.invars, strict=True):
        value = _number_or(evaluator, value, v)
        # JAX has scalars beside arrays, but Mosaic has no selection by a scalar.
        if not isinstance(value, Scalar) or eqn.primitive.name == "select_n":
            own_role = partition.role(jaxprs.shape_of(v))
            shape = jaxprs.shape_of(v if own_role else out)
            aval = jaxprs.aval_of(v).update(shape=shape)
            value = evaluator.as_role(value, aval, own_role or role)
        arguments.append(value)
    if role is Row:
        return [Row(_apply(eqn, *(x.value for x in arguments)))]
    groups = range(partition.groups(jaxprs.shape_of(out)[-1]))
    columns = [_blocks(partition, x, len(groups)) for x in arguments]
    return [Grid(tuple(_apply(eqn, *(blocks[i] for blocks in columns)) for i in groups))]


def _blocks(partition: Partition, value: Any, groups: int) -> tuple[Any, ...]:
    """Returns the arrays of a value, of which a Row and a Scalar have the same for all groups."""
    if isinstance(value, Row):
        value = Grid((partition.grid(value.value, (0,)),) * groups)
    return value.blocks if isinstance(value, Grid) else (value.value,) * groups


def _number_or(evaluator: Evaluator, value: Value, v: Any) -> Value:
    """Returns a Scalar for a constant without axes, and any other value as it is."""
    is_number = jaxprs.shape_of(v) == () != evaluator.partition.batch
    return _scalar(evaluator, value) if is_number else value


def _scalar(evaluator: Evaluator, value: Value) -> Scalar:
    if isinstance(value, Constant):
        return evaluator.memory.constant(Use(value.var, Scalar))
    return value if isinstance(value, Scalar) else refuse("a number for each row as one number")


def _apply(eqn: Equation, *xs: Any) -> Any:
    """Returns the result of an elementwise equation for arrays of other shapes."""
    name = eqn.primitive.name
    if name in REWRITTEN:
        return REWRITTEN[name](eqn, *xs)
    with eqn.ctx.manager:
        return eqn.primitive.bind(*xs, **eqn.primitive.get_bind_params(eqn.params))


def _log1p(_: Equation, x: jax.Array) -> jax.Array:
    """Returns log(1 + x), exact to rounding (W. Kahan), for which Mosaic has no code."""
    u = 1 + x
    # 1 where u is 1 or infinite, so that the quotient is never 0 / 0 or inf / inf.
    is_plain = (u != 1) & (u < jnp.inf)
    quotient = x / jnp.where(is_plain, u - 1, x + (x == 0))
    return jnp.where(u == 1, x, jnp.log(u) * jnp.where(is_plain, quotient, 1))


def _expm1(_: Equation, x: jax.Array) -> jax.Array:
    """Returns exp(x) - 1 = tanh(x/2) (exp(x) + 1), for which Mosaic has no code."""
    return jnp.where(x > 80, jnp.exp(x), jnp.tanh(x / 2) * (jnp.exp(jnp.minimum(x, 80)) + 1))


def _power(eqn: Equation, x: jax.Array) -> jax.Array:
    """Returns a power whose exponent is an int."""
    y = eqn.params["y"]
    if y == 0:
        return jnp.ones_like(x)
    power = functools.reduce(jnp.multiply, [x] * abs(y))
    return power if y > 0 else 1 / power


def _convert(eqn: Equation, x: jax.Array) -> jax.Array:
    """Returns an array of another dtype."""
    dtype = eqn.params["new_dtype"]
    if x.dtype == jnp.bool_:
        return jnp.where(x, jnp.ones((), dtype), jnp.zeros((), dtype))
    return x != 0 if dtype == jnp.bool_ else x.astype(dtype)


REWRITTEN: dict[str, Callable[..., Any]] = {
    "log1p": _log1p,
    "expm1": _expm1,
    "integer_pow": _power,
    "convert_element_type": _convert,
    "add_any": lambda _, x, y: x + y,
}


def _broadcast(evaluator: Evaluator, eqn: Equation, operands: list[Value]) -> list[Value]:
    """Broadcasts numbers, Rows and Vectors."""
    partition = evaluator.partition
    (value,) = operands
    (v,) = eqn.invars
    (out,) = eqn.outvars
    axes = eqn.params["broadcast_dimensions"]
    rank = len(partition.batch)
    role = partition.role(jaxprs.shape_of(out))
    value = _number_or(evaluator, value, v)
    if role is None:
        refuse(f"broadcast_in_dim {_shapes(eqn)}")
    if isinstance(value, Scalar):
        return [evaluator.as_role(value, jaxprs.aval_of(out), role)]
    if jaxprs.shape_of(v) == jaxprs.shape_of(out):
        return [value]
    if partition.role(jaxprs.shape_of(v)) is Row and axes[:rank] == (*range(rank),):
        row = evaluator.as_role(value, jaxprs.aval_of(v), Row)
        if role is Row:
            return [row]
        block = partition.grid(row.value, (0,))
        return [Grid((block,) * partition.groups(jaxprs.shape_of(out)[-1]))]
    if isinstance(value, Constant) and axes == (rank,) and role is Grid:
        value = evaluator.memory.constant(Use(value.var, Vector))
        return [Grid(tuple(partition.grid(x, (1,)) for x in value.blocks))]
    return refuse(f"broadcast_in_dim {_shapes(eqn)}")


def _reshape(evaluator: Evaluator, eqn: Equation, operands: list[Value]) -> list[Value]:
    """Adds or removes an axis of size 1."""
    (before,) = eqn.invars
    (after,) = eqn.outvars
    roles = [evaluator.partition.role(jaxprs.shape_of(v)) for v in (before, after)]
    if jaxprs.shape_of(before) == jaxprs.shape_of(after) or roles == [Row, Row]:
        return operands
    return refuse(f"{eqn.primitive.name} {_shapes(eqn)}")


def _split(evaluator: Evaluator, eqn: Equation, operands: list[Value]) -> list[Value]:
    _require_feature_axis(evaluator, eqn, eqn.params["axis"])
    grid = evaluator.as_role(operands[0], jaxprs.aval_of(eqn.invars[0]), Grid)
    results = []
    start = 0
    for size in eqn.params["sizes"]:
        end = start + evaluator.partition.groups(size)
        results.append(Grid(grid.blocks[start:end]))
        start = end
    return [*results]


def _slice(evaluator: Evaluator, eqn: Equation, operands: list[Value]) -> list[Value]:
    (v,) = eqn.invars
    axis = len(evaluator.partition.batch)
    strides = eqn.params["strides"]
    start = eqn.params["start_indices"]
    limit = eqn.params["limit_indices"]
    is_whole = limit[:axis] == jaxprs.shape_of(v)[:axis] and not any(start[:axis])
    if not is_whole or (strides is not None and set(strides) != {1}):
        refuse(f"slice {_shapes(eqn)}")
    _require_feature_axis(evaluator, eqn, axis)
    grid = evaluator.as_role(operands[0], jaxprs.aval_of(v), Grid)
    first, end = (evaluator.partition.groups(index[axis]) for index in (start, limit))
    return [Grid(grid.blocks[first:end])]


def _concatenate(evaluator: Evaluator, eqn: Equation, operands: list[Value]) -> list[Value]:
    _require_feature_axis(evaluator, eqn, eqn.params["dimension"])
    pairs = zip(operands, eqn.invars, strict=True)
    grids = [evaluator.as_role(value, jaxprs.aval_of(v), Grid) for value, v in pairs]
    return [Grid(tuple(x for grid in grids for x in grid.blocks))]


def _require_feature_axis(evaluator: Evaluator, eqn: Equation, axis: int) -> None:
    """Raises an error unless an equation moves groups of features."""
    shapes = [jaxprs.shape_of(v) for v in [*eqn.invars, *eqn.outvars]]
    are_grids = all(evaluator.partition.role(shape) is Grid for shape in shapes)
    if axis != len(evaluator.partition.batch) or not are_grids:
        refuse(f"{eqn.primitive.name} {_shapes(eqn)}")


# For a reduction: the operation on two arrays, that on one axis, and its neutral number.
REDUCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any], float]] = {
    "reduce_sum": (jnp.add, jnp.sum, 0.0),
    "reduce_max": (jnp.maximum, jnp.max, -jnp.inf),
    "reduce_min": (jnp.minimum, jnp.min, jnp.inf),
}


def _reduce(evaluator: Evaluator, eqn: Equation, operands: list[Value]) -> list[Value]:
    """Reduces the features to one number for each row."""
    partition = evaluator.partition
    (v,) = eqn.invars
    is_over_features = eqn.params["axes"] == (len(partition.batch),)
    if (
        not is_over_features
        or partition.role(jaxprs.shape_of(v)) is not Grid
        or not check.is_inexact(jaxprs.aval_of(v))
    ):
        refuse(f"{eqn.primitive.name} {_shapes(eqn)}")
    combine, reduce, neutral = REDUCTIONS[eqn.primitive.name]
    grid = evaluator.as_role(operands[0], jaxprs.aval_of(v), Grid)
    total = functools.reduce(combine, grid.blocks)
    if partition.columns != partition.unit:
        column = jax.lax.broadcasted_iota(jnp.int32, total.shape, 1)
        column = partition.cast(column, values.grid_layout())
        total = jnp.where(column < partition.unit, total, partition.fill(neutral, total.dtype))
    return [Row(partition.cast(reduce(total, axis=1), values.row_layout()))]


def _product(evaluator: Evaluator, eqn: Equation, operands: list[Value]) -> list[Value]:
    """Multiplies a Grid by a constant matrix."""
    x, w = operands
    ((x_axes, w_axes), batch_axes) = eqn.params["dimension_numbers"]
    (out,) = eqn.outvars
    is_product = x_axes == (len(evaluator.partition.batch),) and batch_axes == ((), ())
    is_product &= len(jaxprs.shape_of(eqn.invars[1])) == 2
    roles = [evaluator.partition.role(jaxprs.shape_of(v)) for v in (eqn.invars[0], out)]
    if not isinstance(w, Constant) or not is_product or roles != [Grid, Grid]:
        refuse(f"dot_general {_shapes(eqn)}", "products with a constant matrix")
    x = evaluator.as_role(x, jaxprs.aval_of(eqn.invars[0]), Grid)
    (axis,) = w_axes
    return [evaluator.memory.product(x, Use(w.var, None, axis), jaxprs.dtype_of(out))]


RULES: dict[str, Callable[[Evaluator, Equation, list[Value]], list[Value]]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "split": _split,
    "slice": _slice,
    "concatenate": _concatenate,
    "dot_general": _product,
    **dict.fromkeys(("copy", "stop_gradient", "pvary"), lambda _, eqn, operands: operands),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(REWRITTEN, _elementwise),
}
