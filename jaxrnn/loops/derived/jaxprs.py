"""Jaxprs as flat lists of equations: trace a function into one, and run some of its equations."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Literal

from jaxrnn import check, tree

Equation = Any  # a jaxpr's equation
Var = Any  # a variable of a jaxpr
Atom = Any  # a variable or a literal
Environment = dict[Var, Any]  # the values of variables

# They hand numbers on, or add them: what has entered linearly passes through them as it is.
STRUCTURAL = {
    *("add", "sub", "neg", "add_any", "convert_element_type", "copy", "broadcast_in_dim", "pad"),
    *("concatenate", "reshape", "slice", "split", "squeeze", "transpose", "rev"),
}
# A backward pass makes these again rather than keep them, if it has what they are made of.
CHEAP = STRUCTURAL | {
    *("mul", "div", "max", "min", "sign", "abs", "square", "integer_pow", "clamp", "select_n"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "iota", "stop_gradient"),
    *("real", "imag", "complex", "conj", "dynamic_slice", "dynamic_update_slice", "pvary"),
    *("rem", "floor", "ceil", "round", "is_finite", "shift_left", "shift_right_logical"),
    "one_minus_square",  # the slope of tanh, since JAX 0.12
}


def flat_jaxpr(fun: Callable[..., Any], *args: Any) -> tuple[Any, list[Any], Any]:
    """The jaxpr of a function with calls of jit written out, its constants, and its output's tree.

    `args` are trees of arrays, or of shapes and dtypes.
    """
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(*args)
    leaves = [*closed.consts, *jax.tree.leaves(args)]
    written_out = jax.make_jaxpr(lambda *leaves: evaluate_jaxpr(closed.jaxpr, leaves))(*leaves)
    # The constants of the first jaxpr are the first inputs of the second.
    constants = [*written_out.consts, *closed.consts]
    return written_out.jaxpr, constants, jax.tree.structure(shapes)


def evaluate_jaxpr(jaxpr: Any, values: Iterable[Any]) -> list[Any]:
    """The outputs of a jaxpr, calls of jit in it written out."""
    variables = [*jaxpr.constvars, *jaxpr.invars]
    env = evaluate_equations(jaxpr.eqns, dict(zip(variables, values, strict=True)))
    return [value_of(env, v) for v in jaxpr.outvars]


def evaluate_equations(eqns: Iterable[Equation], env: Environment) -> Environment:
    """The environment, and beside it what the equations make."""
    env = dict(env)
    for eqn in eqns:
        made = evaluate(eqn, [value_of(env, v) for v in eqn.invars])
        env |= zip(eqn.outvars, made, strict=True)
    return env


def value_of(env: Environment, atom: Atom) -> Any:
    """The value of a variable, or of a literal."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def evaluate(eqn: Equation, values: list[Any]) -> list[Any]:
    """What an equation makes of these values; a call of jit goes through its own equations."""
    if eqn.primitive.name == "jit":
        inner = eqn.params["jaxpr"]
        return evaluate_jaxpr(inner.jaxpr, [*inner.consts, *values])
    if eqn.primitive.name == "select_n" and all(x is values[1] for x in values[2:]):
        return [values[1]]  # a choice between a value and itself
    with eqn.ctx.manager:  # the settings of JAX under which the step was traced
        made = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(made) if eqn.primitive.multiple_results else [made]


def variables_of(atoms: Iterable[Atom]) -> list[Var]:
    """The variables among variables and literals."""
    return [v for v in atoms if not isinstance(v, Literal)]


def reads(eqns: Iterable[Equation]) -> list[Var]:
    """All variables that equations read."""
    return [v for eqn in eqns for v in variables_of(eqn.invars)]


def producers(eqns: Iterable[Equation]) -> dict[Var, Equation]:
    """The equation that makes each variable."""
    return {v: eqn for eqn in eqns for v in eqn.outvars}


def needed_for(
    outs: Iterable[Atom],
    eqns: Iterable[Equation],
    must_run: Callable[[Equation], Any] = lambda eqn: False,
) -> list[Equation]:
    """The equations that make `outs` or what these are made of, and those that must run anyway."""
    wanted, found = set(variables_of(outs)), []
    for eqn in reversed(list(eqns)):
        if must_run(eqn) or not wanted.isdisjoint(eqn.outvars):
            found.append(eqn)
            wanted.update(reads([eqn]))
    return found[::-1]


def unique(items: Iterable[Any]) -> list[Any]:
    """Each item once, in the order in which it came first."""
    return list(dict.fromkeys(items))


def is_literal(atom: Atom) -> bool:
    """Whether it is a number that stands in the jaxpr."""
    return isinstance(atom, Literal)


def has_gradient(v: Atom) -> bool:
    """Whether a variable or a literal is of floating point."""
    return check.is_inexact(v.aval)


def is_keyed(eqn: Equation) -> bool:
    """Whether an equation reads a key of `jax.random`."""
    return any(jnp.issubdtype(v.aval.dtype, jax.dtypes.extended) for v in reads([eqn]))


def inner_jaxprs(eqn: Equation) -> list[Any]:
    """The jaxprs that an equation has among its parameters."""
    found = []
    for param in eqn.params.values():
        for x in param if isinstance(param, (tuple, list)) else [param]:
            inner = getattr(x, "jaxpr", x)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found


def is_opaque(eqn: Equation) -> bool:
    """Whether an equation has equations or functions of its own, as a loop or a custom rule has."""
    params = eqn.params.values()
    values = [x for p in params for x in (p if isinstance(p, (tuple, list)) else [p])]
    return bool(inner_jaxprs(eqn)) or any(callable(x) for x in values)


def is_weight_product(eqn: Equation) -> bool:
    """Whether it is x W, for a matrix W."""
    if eqn.primitive.name != "dot_general":
        return False
    (_, contracted), batch = eqn.params["dimension_numbers"]
    return contracted == (0,) and batch == ((), ()) and eqn.invars[1].aval.ndim == 2


def weight_product(eqn: Equation, x: jax.Array, w: jax.Array, w_t: jax.Array) -> jax.Array:
    """Take x W, whose derivative for x is taken by a stored Wᵀ, which is faster than one by W."""
    ((contracted, _), batch) = eqn.params["dimension_numbers"]
    transposed = eqn.params | {"dimension_numbers": ((contracted, (1,)), batch)}

    # Matrices are arguments, since a rule that closes over traced values cannot be used again by a
    # gradient of the gradient.
    @jax.custom_jvp
    def product(x: jax.Array, w: jax.Array, w_t: jax.Array) -> jax.Array:
        return eqn.primitive.bind(x, w, **eqn.params)

    def with_tangent(primals: Any, tangents: Any) -> Any:
        (x, w, w_t), (dx, dw, _) = primals, tangents
        made = eqn.primitive.bind(x, w, **eqn.params)
        tangent = jnp.zeros_like(made)
        if not isinstance(dx, SymbolicZero):
            tangent = eqn.primitive.bind(dx, w_t, **transposed)
        if not isinstance(dw, SymbolicZero):
            tangent = tangent + eqn.primitive.bind(x, dw, **eqn.params)
        return made, tangent

    product.defjvp(with_tangent, symbolic_zeros=True)
    return product(x, w, w_t)


def size_in_bytes(v: Var) -> int:
    """Bytes of a variable; a size that `jax.export` has left open counts as 64."""
    sizes = [64 if jax.export.is_symbolic_dim(n) else n for n in v.aval.shape]
    return math.prod(sizes) * v.aval.dtype.itemsize


def abstract_value(v: Var) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a variable, and over which devices it lies."""
    if jnp.issubdtype(v.aval.dtype, jax.dtypes.extended):
        return jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
    lies = {"sharding": v.aval.sharding, "manual_axis_type": v.aval.manual_axis_type}
    return jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, **lies)


def abstract_transpose(v: Var) -> jax.ShapeDtypeStruct:
    """The form of a matrix transposed."""
    return jax.eval_shape(jnp.transpose, abstract_value(v))


def zeros_like(v: Var) -> jax.Array:
    """Zeros in the form of a variable."""
    zero = jnp.zeros(v.aval.shape, v.aval.dtype, out_sharding=v.aval.sharding)
    return tree.to_varying(zero, v.aval.manual_axis_type.varying)
