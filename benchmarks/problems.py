"""The problems to measure: cells and shapes, and programs for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks import plain

STATUS = Path("/proc/self/status")


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
GATES = {"elman": 1, "gru": 3, "lstm": 4}


class Problem(NamedTuple):
    """A cell, a plain step with the same function, arguments `(params, carry, xs)`, and targets."""

    cell_name: str
    shape: Shape
    cell: jaxrnn.Cell
    step: jaxrnn.Step
    args: tuple[Any, Any, jax.Array]
    targets: jax.Array


class Program(NamedTuple):
    """A program to time.

    Fields:
        run: runs the program once.
        temporary_bytes: its memory besides arguments and results, by the compiler's analysis; None
            if there is no analysis.
    """

    run: Callable[[], Any]
    temporary_bytes: int | None = None


def make_problem(cell_name: str, shape: Shape, dtype: Any = jnp.float32) -> Problem:
    """Returns a cell with initial parameters, standard normal inputs and targets."""
    cell = CELLS[cell_name](shape.H)
    key_params, key_xs, key_targets = jax.random.split(jax.random.key(0), 3)
    params = cell.init(key_params, shape.I, dtype)
    xs = jax.random.normal(key_xs, (shape.T, shape.B, shape.I), dtype)
    targets = jax.random.normal(key_targets, (shape.T, shape.B, shape.H), dtype)
    args = params, cell.initial_carry((shape.B,), dtype), xs
    return Problem(cell_name, shape, cell, STEPS[cell_name], args, targets)


def compiled(function: Callable[..., Any], *args: Any) -> Program:
    """Compiles a function of arrays."""
    program = jax.jit(function).lower(*args).compile()
    memory = program.memory_analysis()
    return Program(lambda: program(*args), memory and memory.temp_size_in_bytes)


def gradient(problem: Problem, run: Callable[..., Any], *more: Any, split: bool = False) -> Program:
    """Returns the program of value and gradient of mean (y - target)² for params, carry and inputs.

    Args:
        problem: the problem.
        run: `(params, carry, xs, *more) -> (carry, ys)`.
        *more: other arguments of `run`.
        split: whether to split the batch over all devices.
    """
    loss = mean_square_loss(run)
    if split:
        loss = jaxrnn.training.data_parallel(loss, in_axes=(None, 0, 1, 1, *(1 for _ in more)))
    grad: Callable[..., Any] = jax.value_and_grad(loss, argnums=(0, 1, 2))
    return compiled(grad, *problem.args, problem.targets, *more)


def mean_square_loss(run: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the loss `(params, carry, xs, targets, *more) -> mean (y - target)²` of `run`."""

    def loss(params: Any, carry: Any, xs: Any, targets: Any, *more: Any) -> Any:
        _, ys = run(params, carry, xs, *more)
        return jnp.mean((ys - targets) ** 2)

    return loss


def forward(problem: Problem, run: Callable[..., Any], split: bool = False) -> Program:
    """Returns the program of all outputs."""

    def outputs(*args: Any) -> Any:
        return run(*args)[1]

    if split:
        outputs = jaxrnn.training.data_parallel(outputs, in_axes=(None, 0, 1), out_axes=1)
    return compiled(outputs, *problem.args)


def streamed(problem: Problem, run: Callable[..., Any]) -> Program:
    """Returns the program of a single step, as a sequence of length 1."""
    params, carry, xs = problem.args
    return compiled(run, params, carry, xs[:1])


def resident(field: str, reset: bool = False) -> int:
    """Returns the resident memory in bytes: now (VmRSS), or its peak since a reset (VmHWM)."""
    if not STATUS.exists():
        return 0
    if reset:
        STATUS.with_name("clear_refs").write_text("5")
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
