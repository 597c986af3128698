"""How much memory does a long sequence take, and what does saving it cost in time?

Value and gradient of a many-to-one loss, the mean square of the last output, for parameters, first
carry and inputs: under `bptt`; under `checkpointed` with √T segments, with two levels, and with
log₂ T states; with `jax.checkpoint` around segments of a scan, and with Equinox's checkpointed
scan, both over the plain step as people write it.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import jaxrnn
from benchmarks.compare import Question
from benchmarks.problems import Problem, Shape


def _gradient(posed: Problem, run: Callable[..., Any]) -> tuple[jax.stages.Compiled, Any]:
    def loss(params: Any, carry: Any, xs: Any) -> Any:
        return jnp.mean(posed.cell.output(params, run(params, carry, xs)) ** 2)

    grad: Callable[..., Any] = jax.value_and_grad(loss, argnums=(0, 1, 2))
    return jax.jit(grad).lower(*posed.args).compile(), posed.args


def _loop(posed: Problem, loop: jaxrnn.Loop) -> tuple[jax.stages.Compiled, Any]:
    return _gradient(posed, lambda *args: loop(posed.cell, *args)[0])


def _nested(posed: Problem) -> tuple[jax.stages.Compiled, Any]:
    def run(params: Any, carry: Any, xs: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            return posed.step(params, carry, x)[0], None

        segment = jax.checkpoint(lambda carry, xs: lax.scan(step, carry, xs))
        return lax.scan(segment, carry, xs.reshape(-1, _near_root(len(xs)), *xs.shape[1:]))[0]

    return _gradient(posed, run)


def _near_root(steps: int) -> int:
    """The divisor of T that is nearest to its square root, from above."""
    return next(n for n in range(math.isqrt(steps), steps + 1) if steps % n == 0)


def _equinox(posed: Problem) -> tuple[jax.stages.Compiled, Any]:
    scan = importlib.import_module("equinox.internal").scan

    def run(params: Any, carry: Any, xs: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            return posed.step(params, carry, x)[0], None

        return scan(step, carry, xs, kind="checkpointed")[0]

    return _gradient(posed, run)


# Who is not installed is not there to be measured.
PEERS = {"equinox": _equinox} if importlib.util.find_spec("equinox") else {}
QUESTION = Question(
    sides={
        "bptt": lambda posed: _loop(posed, jaxrnn.bptt),
        "checkpointed()": lambda posed: _loop(posed, jaxrnn.checkpointed()),
        "levels=2": lambda posed: _loop(posed, jaxrnn.checkpointed(levels=2)),
        "states=10": lambda posed: _loop(posed, jaxrnn.checkpointed(states=10)),
        "jax.checkpoint": _nested,
        **PEERS,
    },
    equal=True,
    shapes=(Shape(1000, 16, 64, 128), Shape(1000, 4, 32, 64), Shape(4000, 4, 32, 64)),
)
