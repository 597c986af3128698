"""What is measured: cells, shapes, and the gradient of a mean-square loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks import plain


class Shape(NamedTuple):
    """Time, batch, inputs, hidden."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int


SHAPES = (
    Shape(128, 16, 64, 128),
    Shape(128, 32, 128, 256),
    Shape(256, 1, 64, 128),
    Shape(256, 64, 128, 512),
    Shape(1024, 8, 32, 64),
    Shape(512, 8, 128, 128),
    Shape(2048, 1, 32, 64),
)
QUICK_SHAPES = (Shape(64, 4, 16, 32), Shape(128, 1, 16, 32))
CELLS = {"elman": jaxrnn.elman, "gru": jaxrnn.gru, "lstm": jaxrnn.lstm}
STEPS = {"elman": plain.elman, "gru": plain.gru, "lstm": plain.lstm}


class Problem(NamedTuple):
    """A cell, the same as a plain step, arguments `(params, carry, xs)`, targets of the outputs."""

    cell: jaxrnn.Cell
    step: jaxrnn.Step
    args: tuple[Any, Any, jax.Array]
    targets: jax.Array


def problem(cell_name: str, shape: Shape, dtype: Any = jnp.float32) -> Problem:
    """A cell as it starts, standard normal inputs and targets."""
    cell = CELLS[cell_name](shape.H)
    key_params, key_xs, key_targets = jax.random.split(jax.random.key(0), 3)
    params = cell.init(key_params, shape.I, dtype)
    xs = jax.random.normal(key_xs, (shape.T, shape.B, shape.I), dtype)
    targets = jax.random.normal(key_targets, (shape.T, shape.B, shape.H), dtype)
    return Problem(cell, STEPS[cell_name], (params, cell.carry((shape.B,), dtype), xs), targets)


def gradient(problem: Problem, run: Callable[..., Any], *more: Any) -> jax.stages.Compiled:
    """Compiled value and gradient of mean (y - target)² for params, carry and inputs.

    `run(params, carry, xs, *more) -> (carry, ys)`.
    """

    def loss(params: Any, carry: Any, xs: Any, *more: Any) -> Any:
        _, ys = run(params, carry, xs, *more)
        return jnp.mean((ys - problem.targets) ** 2)

    grad: Callable[..., Any] = jax.value_and_grad(loss, argnums=(0, 1, 2))
    return jax.jit(grad).lower(*problem.args, *more).compile()
