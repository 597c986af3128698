"""What does a parallel solution over time cost on a CPU, compared with a loop?

The value and gradient of a mean-square loss for cells that are linear in their carry, over long
sequences. All loops compute the same numbers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks import compare
from benchmarks.problems import Shape, compiled

TITLE = "The gradient of cells that are linear in their carry, over long sequences."
LOOPS: dict[str, jaxrnn.Loop] = {
    "scan": jaxrnn.scan,
    "bptt": jaxrnn.bptt,
    "parallel()": jaxrnn.parallel(),
    "parallel(chunk=512)": jaxrnn.parallel(chunk=512),
}
CELLS = ("lru", "min_gru")
SHAPES = (Shape(1024, 8, 64, 64), Shape(16384, 1, 64, 64), Shape(65536, 1, 16, 16))
QUICK_SHAPES = (Shape(256, 2, 8, 8),)
QUESTION = compare.Question(TITLE, lambda problem: {}, None)


def rows(quick: bool) -> list[tuple[str, Shape]]:
    """Returns the arguments of all rows."""
    return [(name, shape) for name in CELLS for shape in (QUICK_SHAPES if quick else SHAPES)]


def measure(name: str, shape: Shape, seconds: float = 2.0) -> dict[str, Any]:
    """Returns one row: milliseconds and temporary bytes of all loops, which agree."""
    cell = dict(jaxrnn.CELLS)[name](shape.H)
    params = cell.init(jax.random.key(0), shape.I)
    carry = cell.initial_carry((shape.B,))
    xs = jax.random.normal(jax.random.key(1), (shape.T, shape.B, shape.I))

    def loss(params: Any, carry: Any, xs: Any, loop: jaxrnn.Loop) -> jax.Array:
        return jnp.mean((loop(cell, params, carry, xs)[1] - 1) ** 2)

    def gradient(loop: jaxrnn.Loop, *args: Any) -> Any:
        return jax.value_and_grad(lambda *args: loss(*args, loop), (0, 2))(*args)

    sides = {
        side: compiled(functools.partial(gradient, loop), params, carry, xs)
        for side, loop in LOOPS.items()
    }
    row = compare.measure_sides(sides, compare.everything, seconds)
    return {"cell": name, "shape": shape._asdict()} | row


summary = functools.partial(compare.summary, QUESTION)
table = functools.partial(compare.table, QUESTION)
