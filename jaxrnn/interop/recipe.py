"""How a cell was made, as text that can be read again: `gru(128, reset_after=True)`."""

import ast
from inspect import BoundArguments
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrnn import check
from jaxrnn.cells import LSTMCarry
from jaxrnn.networks import (
    Bidirectional,
    Residual,
    Stack,
    bidirectional,
    concatenated,
    residual,
    stacked,
)
from jaxrnn.types import FACTORIES, RECIPES, Cell, Layer, Params, Part

NETWORKS = {"stacked": stacked, "bidirectional": bidirectional, "residual": residual}
MERGES = {"concatenated": concatenated, "add": jnp.add}
ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
}
LOSSES: dict[str, Any] = {
    name: getattr(optax, name)
    for name in (
        "softmax_cross_entropy_with_integer_labels",
        "softmax_cross_entropy",
        "sigmoid_binary_cross_entropy",
        "squared_error",
        "l2_loss",
    )
}
# All functions that have a name in an expression; the last is what `controlled` does by default.
FUNCTIONS = {**ACTIVATIONS, **MERGES, **LOSSES, "ones_like": jnp.ones_like}


def recipe_of(cell: Any) -> tuple[str, BoundArguments]:
    """The factory's name and its arguments; ValueError if no factory of ours made it."""
    made = cell in RECIPES
    check.that(made, "cell", check.describe(cell), "one that a factory of jaxrnn made")
    return RECIPES[cell]


def spelt(value: Any) -> str:
    """The expression that makes a cell or a network; ValueError if there is none.

    There is none for functions that are not in `FUNCTIONS`, such as a lambda, for a Cell or Layer
    that no factory of ours made, and for a dict of rates.
    """
    named: dict[str, Any] = {}
    match value:
        case Stack(parts=args):
            name = "stacked"
        case Bidirectional(parts=args, merge=merge):
            name, named = "bidirectional", {"merge": merge}
        case Residual(parts=args):
            name = "residual"
        case Cell() | Layer():
            name, bound = recipe_of(value)
            args, named = bound.args, bound.kwargs
        case LSTMCarry():
            name, args, named = "LSTMCarry", (), value._asdict()
        case jax.ShapeDtypeStruct():
            return f"ShapeDtypeStruct({value.shape}, {str(value.dtype)!r})"
        case tuple():
            return f"({' '.join(f'{spelt(x)},' for x in value)})"
        case bool() | None:
            return repr(value)
        case int() | float():  # NumPy's too, whose own words say so; and infinity has none
            return repr(int(value) if isinstance(value, int) else float(value)).replace(
                "inf", "1e999"
            )
        case _:
            names = [name for name, function in FUNCTIONS.items() if function is value]
            check.that(names, "cell", f"{value!r} in it", f"one of {', '.join(FUNCTIONS)}")
            return names[0]
    words = [*map(spelt, args), *(f"{key}={spelt(x)}" for key, x in named.items())]
    return f"{name}({', '.join(words)})"


def made_of(text: str) -> Any:
    """The inverse of `spelt`: calls of our factories and nothing else; ValueError otherwise."""
    known: dict[str, Any] = {**FACTORIES, **NETWORKS, "LSTMCarry": LSTMCarry}
    known["ShapeDtypeStruct"] = jax.ShapeDtypeStruct

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in known:
                named = {str(keyword.arg): value(keyword.value) for keyword in node.keywords}
                return known[name](*map(value, node.args), **named)
            case ast.Name(id=name) if name in FUNCTIONS:
                return FUNCTIONS[name]
            case ast.Tuple(elts=nodes):
                return tuple(map(value, nodes))
        return ast.literal_eval(node)

    try:
        made = value(ast.parse(text, mode="eval").body)
        return check.of_type("it", made, isinstance(made, Part), "a cell")
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        got = f"{text[:80]!r} ({str(error)[:160]})"
        raise ValueError(f"cell: got {got}, expected such as 'gru(128)'") from None


def form_of(cell: Any, input_size: int, dtype: Any = jnp.float32) -> Params:
    """The parameters that `cell.init` makes, by their shapes."""
    return jax.eval_shape(lambda key: cell.init(key, input_size, dtype), jax.random.key(0))


def input_size_of(cell: Any, params: Params) -> int:
    """The size that `cell.init` makes such parameters for; ValueError if there is none."""
    check.that(isinstance(cell, Part), "cell", check.describe(cell), "one of jaxrnn")
    check.arrays(params=params)
    shapes = jax.tree.map(jnp.shape, params)
    for size in {len(x): None for x in jax.tree.leaves(params) if jnp.ndim(x)}:
        if jax.tree.map(jnp.shape, form_of(cell, size)) == shapes:
            return size
    raise ValueError(f"params: got the shapes {shapes}, expected those of {spelt(cell)}")
