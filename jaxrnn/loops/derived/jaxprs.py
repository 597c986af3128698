"""Jaxprs as flat lists of equations: tracing a function, and running some of its equations."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend import core
from jax.extend.core import Literal
from jax.interpreters import ad

from jaxrnn import check, tree

Jaxpr = core.Jaxpr
Equation = core.JaxprEqn
Var = core.Var
Atom = Var | Literal
Values = list[Any]  # arrays; None in the place of a gradient that is zero
Environment = dict[Var, Any]  # the values of variables
Item = TypeVar("Item")

# Primitives that move numbers or add them, so they keep a linear path linear.
STRUCTURAL = {
    *("add", "sub", "neg", "add_any", "convert_element_type", "copy", "broadcast_in_dim", "pad"),
    *("concatenate", "reshape", "slice", "split", "squeeze", "transpose", "rev"),
}
# Primitives that a backward pass recomputes if it has their inputs, instead of keeping the results.
CHEAP = STRUCTURAL | {
    *("mul", "div", "max", "min", "sign", "abs", "square", "integer_pow", "clamp", "select_n"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "iota", "stop_gradient"),
    *("real", "imag", "complex", "conj", "dynamic_slice", "dynamic_update_slice", "pvary"),
    *("rem", "floor", "ceil", "round", "is_finite", "shift_left", "shift_right_logical"),
    "one_minus_square",  # the slope of tanh, since JAX 0.12
}
# Calls of a function, by the name under which the equation holds its jaxpr.
CALLS = {
    **dict.fromkeys(("jit", "checkpoint", "remat", "remat2"), "jaxpr"),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}
# They have a rule for differentiation, which raises an error, at the latest in reverse mode.
NOT_DIFFERENTIABLE = {"while", "pure_callback", "io_callback"}


class TracedFunction(NamedTuple):
    """A function as a flat list of equations.

    Fields:
        jaxpr: the equations, without calls of jit.
        constants: the values over which the function closes; the first inputs of the jaxpr.
        arguments: the other inputs of the jaxpr, which are the leaves of the arguments.
        structure: the tree structure of the result.
    """

    jaxpr: Jaxpr
    constants: Values
    arguments: list[Var]
    structure: jax.tree_util.PyTreeDef


def trace(fun: Callable[..., Any], *args: Any) -> TracedFunction:
    """Traces a function, and inlines its calls of jit.

    `args` are trees of arrays, or of shapes and dtypes.
    """
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(*args)
    leaves = [*closed.consts, *jax.tree.leaves(args)]
    inlined = jax.make_jaxpr(lambda *leaves: evaluate_jaxpr(closed.jaxpr, leaves))(*leaves)
    # The constants of the first jaxpr are the first inputs of the second.
    constants = [*inlined.consts, *closed.consts]
    arguments = inputs_of(inlined.jaxpr)[len(constants) :]
    return TracedFunction(inlined.jaxpr, constants, arguments, jax.tree.structure(shapes))


def inputs_of(jaxpr: Jaxpr) -> list[Var]:
    """Returns all input variables of a jaxpr; those of constants come first."""
    return [*jaxpr.constvars, *jaxpr.invars]


def evaluate_jaxpr(jaxpr: Jaxpr, values: Iterable[Any]) -> Values:
    """Returns the outputs of a jaxpr, and inlines its calls of jit."""
    inputs = dict(zip(inputs_of(jaxpr), values, strict=True))
    return values_of(evaluate_equations(jaxpr.eqns, inputs), jaxpr.outvars)


def primal(fun: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """Returns a function with the values of `fun`, without its custom derivative rules.

    A call with a rule (`jax.custom_vjp`, `jax.custom_jvp`) becomes the equations of its function.
    It stays as it is if JAX could not differentiate these.

    Args:
        fun: a function of trees of arrays.
        args: its arguments, or their shapes and dtypes. The new function takes no others.
    """
    traced = trace(fun, *args)

    def evaluated(*args: Any) -> Any:
        leaves = [*traced.constants, *jax.tree.leaves(args)]
        return traced.structure.unflatten(_evaluate_primal(traced.jaxpr, leaves))

    return evaluated


def _evaluate_primal(jaxpr: Jaxpr, values: Iterable[Any]) -> Values:
    """Returns the outputs of a jaxpr, and inlines its calls."""
    env = dict(zip(inputs_of(jaxpr), values, strict=True))
    for eqn in jaxpr.eqns:
        inputs = values_of(env, eqn.invars)
        called = eqn.params.get(CALLS.get(eqn.primitive.name, ""))
        # Some primitives hold a jaxpr, others a closed one, which holds its constants too.
        inner = getattr(called, "jaxpr", called)
        if inner is not None and all(map(has_derivative, inner.eqns)):
            results = _evaluate_primal(inner, [*getattr(called, "consts", ()), *inputs])
        else:
            results = evaluate(eqn, inputs)
        env |= zip(eqn.outvars, results, strict=True)
    return values_of(env, jaxpr.outvars)


def evaluate_equations(eqns: Iterable[Equation], env: Environment) -> Environment:
    """Returns the environment together with the results of the equations."""
    env = dict(env)
    for eqn in eqns:
        results = evaluate(eqn, values_of(env, eqn.invars))
        env |= zip(eqn.outvars, results, strict=True)
    return env


def value_of(env: Environment, atom: Atom) -> Any:
    """Returns the value of a variable or of a literal."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def values_of(env: Environment, atoms: Iterable[Atom]) -> Values:
    """Returns the values of variables and literals."""
    return [value_of(env, atom) for atom in atoms]


def facts_of(facts: Mapping[Var, Item], atoms: Iterable[Atom]) -> list[Item | None]:
    """Returns what is known about each atom; None for a literal, and where nothing is known."""
    return [None if isinstance(atom, Literal) else facts.get(atom) for atom in atoms]


def evaluate(eqn: Equation, values: Values) -> Values:
    """Returns the results of an equation for these values; a call of jit is inlined."""
    if eqn.primitive.name == "jit":
        inner = eqn.params["jaxpr"]
        return evaluate_jaxpr(inner.jaxpr, [*inner.consts, *values])
    # A mask chooses between the new value of an array and the old one. If the step passes the array
    # on, both are the same. Without the choice, `regions.unchanged` finds such an array.
    if eqn.primitive.name == "select_n" and all(x is values[1] for x in values[2:]):
        return [values[1]]
    with eqn.ctx.manager:  # JAX's settings at the time when the step was traced
        results = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(results) if eqn.primitive.multiple_results else [results]


def variables_of(atoms: Iterable[Atom]) -> list[Var]:
    """Returns the variables among variables and literals."""
    return [v for v in atoms if not isinstance(v, Literal)]


def reads(eqns: Iterable[Equation]) -> list[Var]:
    """Returns all variables that the equations read."""
    return [v for eqn in eqns for v in variables_of(eqn.invars)]


def producers(eqns: Iterable[Equation]) -> dict[Var, Equation]:
    """Returns a dict from each variable to the equation that computes it."""
    return {v: eqn for eqn in eqns for v in eqn.outvars}


def needed_for(
    outs: Iterable[Atom],
    eqns: Iterable[Equation],
    must_run: Callable[[Equation], Any] = lambda eqn: False,
) -> list[Equation]:
    """Returns the equations that `outs` depend on, and those for which `must_run` is True.

    The dependencies of the latter are included.
    """
    wanted = set(variables_of(outs))
    needed = []
    for eqn in reversed(list(eqns)):
        if must_run(eqn) or not wanted.isdisjoint(eqn.outvars):
            needed.append(eqn)
            wanted.update(reads([eqn]))
    return needed[::-1]


def unique(items: Iterable[Item]) -> list[Item]:
    """Returns each item once, in the order of first occurrence."""
    return list(dict.fromkeys(items))


def is_literal(atom: Atom) -> bool:
    """Returns whether an atom is a literal of the jaxpr."""
    return isinstance(atom, Literal)


def has_gradient(v: Atom) -> bool:
    """Returns whether a variable or a literal is floating point."""
    return check.is_inexact(v.aval)


def aval_of(v: Atom) -> jax.core.ShapedArray:
    """Returns the abstract value of an array: its shape, dtype and sharding."""
    aval: Any = v.aval  # JAX's base class of abstract values has none of these attributes
    return aval


def shape_of(v: Atom) -> tuple[int, ...]:
    """Returns the shape of an array."""
    return aval_of(v).shape


def dtype_of(v: Atom) -> Any:
    """Returns the dtype of an array."""
    return aval_of(v).dtype


def is_keyed(eqn: Equation) -> bool:
    """Returns whether an equation reads a key of `jax.random`."""
    return any(jnp.issubdtype(dtype_of(v), jax.dtypes.extended) for v in reads([eqn]))


def inner_jaxprs(eqn: Equation) -> list[Jaxpr]:
    """Returns the jaxprs among the parameters of an equation."""
    values: Values = [getattr(value, "jaxpr", value) for value in _parameter_values(eqn)]
    return [value for value in values if hasattr(value, "eqns")]


def is_opaque(eqn: Equation) -> bool:
    """Returns whether an equation contains equations or functions.

    Loops and custom differentiation rules do.
    """
    return bool(inner_jaxprs(eqn)) or any(map(callable, _parameter_values(eqn)))


def with_inner(eqn: Equation) -> Iterator[Equation]:
    """Yields an equation and all equations inside it."""
    yield eqn
    for jaxpr in inner_jaxprs(eqn):
        for inner in jaxpr.eqns:
            yield from with_inner(inner)


def has_custom_vjp(eqn: Equation) -> bool:
    """Returns whether an equation is a call with a custom rule for reverse mode, or has one."""
    return any(e.primitive.name == "custom_vjp_call" for e in with_inner(eqn))


def has_derivative(eqn: Equation) -> bool:
    """Returns whether JAX can differentiate an equation in reverse mode."""
    name = eqn.primitive.name
    if name in ("custom_jvp_call", "custom_vjp_call") or not any(map(has_gradient, eqn.invars)):
        return True
    has_rule = name in CALLS or eqn.primitive in ad.primitive_jvps
    inner = (e for jaxpr in inner_jaxprs(eqn) for e in jaxpr.eqns)
    return has_rule and name not in NOT_DIFFERENTIABLE and all(map(has_derivative, inner))


def _parameter_values(eqn: Equation) -> Values:
    """Returns the parameters of an equation, and the items of those that are lists.

    A `cond` has a list of jaxprs, one for each branch.
    """
    values: Values = []
    for param in eqn.params.values():
        values += param if isinstance(param, (tuple, list)) else [param]
    return values


def is_weight_product(eqn: Equation) -> bool:
    """Returns whether an equation is x W, for a matrix W."""
    if eqn.primitive.name != "dot_general":
        return False
    (_, contracted), batch = eqn.params["dimension_numbers"]
    return contracted == (0,) and batch == ((), ()) and len(shape_of(eqn.invars[1])) == 2


def weight_product(eqn: Equation, x: jax.Array, w: jax.Array, w_t: jax.Array) -> jax.Array:
    """Computes x W, with a derivative for x that uses a stored Wᵀ.

    A product with a stored Wᵀ is faster than one with W transposed inside the loop.
    """
    ((contracted, _), batch) = eqn.params["dimension_numbers"]
    transposed = eqn.params | {"dimension_numbers": ((contracted, (1,)), batch)}

    # Matrices are arguments, since a gradient of the gradient cannot use a rule that closes over
    # traced values.
    @jax.custom_jvp
    def product(x: jax.Array, w: jax.Array, w_t: jax.Array) -> jax.Array:
        return eqn.primitive.bind(x, w, **eqn.params)

    def with_tangent(primals: Any, tangents: Any) -> Any:
        (x, w, w_t), (dx, dw, _) = primals, tangents
        result = eqn.primitive.bind(x, w, **eqn.params)
        tangent = jnp.zeros_like(result)
        if not isinstance(dx, SymbolicZero):
            tangent = eqn.primitive.bind(dx, w_t, **transposed)
        if not isinstance(dw, SymbolicZero):
            tangent = tangent + eqn.primitive.bind(x, dw, **eqn.params)
        return result, tangent

    product.defjvp(with_tangent, symbolic_zeros=True)
    return product(x, w, w_t)


def size_in_bytes(v: Var) -> int:
    """Returns the bytes of a variable; a size that `jax.export` has left open counts as 64."""
    sizes = [64 if jax.export.is_symbolic_dim(n) else n for n in shape_of(v)]
    return math.prod(sizes) * dtype_of(v).itemsize


def abstract_value(v: Var) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and sharding of a variable."""
    aval = aval_of(v)
    if jnp.issubdtype(aval.dtype, jax.dtypes.extended):  # keys have no sharding of this form
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    return jax.ShapeDtypeStruct(
        aval.shape, aval.dtype, sharding=aval.sharding, manual_axis_type=aval.manual_axis_type
    )


def abstract_transpose(v: Var) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of a transposed matrix."""
    return jax.eval_shape(jnp.transpose, abstract_value(v))


def zeros_like(v: Atom) -> jax.Array:
    """Returns zeros with the shape, dtype and sharding of a variable; the keys of the seed 0."""
    aval = aval_of(v)
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0, impl=aval.dtype), aval.shape)
    zero = jnp.zeros(aval.shape, aval.dtype, out_sharding=aval.sharding)
    return tree.to_varying(zero, aval.manual_axis_type.varying)
