"""Cells and networks as text that can be parsed again: `gru(128, reset_after=False)`."""

import ast
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from jaxrnn import cells, check, layers, networks, transforms
from jaxrnn.expression import spell
from jaxrnn.types import Params, Part

# NamedTuples, such as those of a rate for each array of the carry.
CARRIES: tuple[Any, ...] = (
    *(cells.LSTMCarry, cells.SLSTMCarry, cells.MLSTMCarry),
    *(cells.DeltaRuleCarry, cells.CoRNNCarry, cells.SSMCarry),
)
# The functions and classes that an expression may call, by name.
CALLABLES: dict[str, Callable[..., Any]] = {
    value.__name__: value
    for value in (
        *(cells.elman, cells.gru, cells.indrnn, cells.layer_norm_gru, cells.layer_norm_lstm),
        *(cells.lru, cells.lstm, cells.mgu, cells.min_gru, cells.min_lstm, cells.peephole_lstm),
        *(cells.projected_lstm, cells.rg_lru, cells.s5, cells.selective_ssm, *CARRIES),
        *(cells.slstm, cells.mlstm, cells.delta_rule, cells.conv_lstm, cells.cornn),
        *(cells.echo_state, cells.cfc),
        *(layers.dropout, layers.embedding, layers.linear),
        *(networks.bidirectional, networks.residual, networks.stacked),
        *(transforms.clip_adjoint, transforms.detach_adjoint, transforms.masked),
        *(transforms.probe_adjoint, transforms.recurrent_dropout, transforms.resettable),
        *(transforms.scale_adjoint, transforms.scale_carry_gradient, transforms.step_loss),
        *(transforms.variational_dropout, transforms.zoneout),
        jax.ShapeDtypeStruct,
    )
}
ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "soft_sign": jax.nn.soft_sign,
}
MERGES = {"concatenate_features": networks.concatenate_features, "add": jnp.add}
LOSSES: dict[str, Callable[..., jax.Array]] = {
    name: getattr(optax, name)
    for name in (
        "softmax_cross_entropy_with_integer_labels",
        "softmax_cross_entropy",
        "sigmoid_binary_cross_entropy",
        "squared_error",
        "l2_loss",
    )
}
# All functions that an expression may contain as arguments.
FUNCTIONS = {**ACTIVATIONS, **MERGES, **LOSSES, "ones_like": jnp.ones_like}


def expression_of(value: Any) -> str:
    """Returns the expression that makes a cell or a network; ValueError if there is none.

    There is no expression for a function that is not in `FUNCTIONS`, such as a lambda, for a
    user-defined Cell or Layer, and for a dict of rates.
    """
    match value:
        case Part() if type(value).__module__.partition(".")[0] == "jaxrnn":
            return value.expression(expression_of, with_defaults=True)
        case Part():
            check.require(False, "cell", check.describe(value), "one that jaxrnn defines")
        case tuple() if type(value) in CARRIES:
            names = type(value)._fields  # type: ignore[attr-defined]
            items = [f"{name}={expression_of(x)}" for name, x in zip(names, value, strict=True)]
            return f"{type(value).__name__}({', '.join(items)})"
        case tuple():
            items = [f"{expression_of(item)}," for item in value]
            return f"({' '.join(items)})"
        case bool() | None:
            return repr(value)
        case int():
            return repr(int(value))
        case float() | jax.ShapeDtypeStruct():
            return spell(value)
    names = [name for name, function in FUNCTIONS.items() if function is value]
    check.require(names, "cell", f"{value!r} in it", f"one of {', '.join(FUNCTIONS)}")
    return names[0]


def parse_expression(text: str) -> Any:
    """Returns the cell of an expression; ValueError for anything but calls of `CALLABLES`."""

    def value_of(node: ast.expr) -> Any:
        # Only names of the two tables are looked up, so a file cannot call anything else.
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in CALLABLES:
                args = map(value_of, node.args)
                keywords = {str(word.arg): value_of(word.value) for word in node.keywords}
                return CALLABLES[name](*args, **keywords)
            case ast.Name(id=name) if name in FUNCTIONS:
                return FUNCTIONS[name]
            case ast.Tuple(elts=nodes):
                return tuple(map(value_of, nodes))
        return ast.literal_eval(node)

    try:
        value = value_of(ast.parse(text, mode="eval").body)
        return check.require_option_type("expression", value, isinstance(value, Part), "a cell")
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        got = f"{text[:80]!r} ({str(error)[:160]})"
        raise ValueError(f"cell: got {got}, expected such as 'gru(128)'") from None


def abstract_params(cell: Part, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
    """Returns the shapes and dtypes of the parameters that `cell.init` draws."""
    return jax.eval_shape(lambda key: cell.init(key, input_size, dtype), jax.random.key(0))


def input_size_of(cell: Part, params: Params) -> int:
    """Returns the input size for which `cell.init` draws such parameters; ValueError if none."""
    check.require(isinstance(cell, Part), "cell", check.describe(cell), "one of jaxrnn")
    check.require_arrays(params=params)
    shapes = jax.tree.map(jnp.shape, params)
    # The input size is an axis of one of the arrays, so it is enough to try their axes.
    sizes: list[int] = []
    for x in jax.tree.leaves(params):
        sizes += jnp.shape(x)
    for size in dict.fromkeys(sizes):
        if jax.tree.map(jnp.shape, abstract_params(cell, size)) == shapes:
            return size
    raise ValueError(f"params: got the shapes {shapes}, expected those of {cell!r}")
