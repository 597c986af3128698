"""How a cell was made, as text that can be read again: `gru(128, reset_after=True)`."""

import ast
from inspect import BoundArguments
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.types import FACTORIES, RECIPES, Cell, Layer, Network, Params

MADE = Cell | Layer | Network
FUNCTIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "add": jnp.add,
}


def recipe_of(cell: Any) -> tuple[str, BoundArguments]:
    """The factory's name and its arguments; ValueError if no factory of ours made it."""
    made = isinstance(cell, MADE) and cell in RECIPES
    check.that(made, "cell", check.describe(cell), "one that a factory of jaxrnn made")
    return RECIPES[cell]


def spelt(value: Any) -> str:
    """The expression that makes a cell or a network; ValueError if there is none.

    There is none for functions that are not in `FUNCTIONS`.
    """
    if isinstance(value, MADE):
        factory, bound = recipe_of(value)
        named = (f"{name}={spelt(x)}" for name, x in bound.kwargs.items())
        return f"{factory}({', '.join([*map(spelt, bound.args), *named])})"
    if callable(value):
        names = [name for name, function in FUNCTIONS.items() if function is value]
        check.that(names, "cell", f"{value!r} in it", f"one of {', '.join(FUNCTIONS)}")
        return names[0]
    return repr(value)


def made_of(text: str) -> Any:
    """The inverse of `spelt`: calls of our factories and nothing else; ValueError otherwise."""

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in FACTORIES:
                named = {str(keyword.arg): value(keyword.value) for keyword in node.keywords}
                return FACTORIES[name](*map(value, node.args), **named)
            case ast.Name(id=name) if name in FUNCTIONS:
                return FUNCTIONS[name]
        return ast.literal_eval(node)

    try:
        made = value(ast.parse(text, mode="eval").body)
        return check.of_type("it", made, isinstance(made, MADE), "a cell")
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        got = f"{text[:80]!r} ({str(error)[:160]})"
        raise ValueError(f"cell: got {got}, expected such as 'gru(128)'") from None


def input_size_of(cell: Any, params: Params) -> int:
    """The size that `cell.init` makes such parameters for; ValueError if there is none."""
    recipe_of(cell)
    check.arrays("params", params)
    shapes = jax.tree.map(jnp.shape, params)
    for size in {len(x): None for x in jax.tree.leaves(params) if jnp.ndim(x)}:
        made = jax.eval_shape(lambda key, size=size: cell.init(key, size), jax.random.key(0))
        if jax.tree.map(jnp.shape, made) == shapes:
            return size
    raise ValueError(f"params: got the shapes {shapes}, expected those of {spelt(cell)}")
