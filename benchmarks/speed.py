"""How fast is it, beside every peer, and how far from the floor?

Value and gradient of a mean-square loss for parameters, first carry and inputs; all outputs alone;
one streamed step. `scan` is `jax.grad` of `lax.scan` around a plain step, the way people write it;
`bptt` is the backward pass by hand, of the Cell. `split` is the same function, its batch over all
devices by `data_parallel`: on a CPU its cores; PyTorch uses these by itself. The floor is what the
matrix products alone take at the best rate at which this machine's XLA multiplies large matrices.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks import peers
from benchmarks.compare import Question
from benchmarks.problems import GATES, Problem, Program, Shape, forward, gradient, streamed

JAX_PEERS = ("scan", "flax", "equinox", "haiku")


def _sides(work: str, posed: Problem) -> dict[str, Program]:
    make: Callable[..., Program] = {
        "gradient": gradient,
        "forward": forward,
        "streamed": streamed,
    }[work]
    others = {"scan": (posed, functools.partial(jaxrnn.scan, posed.step))}
    others |= {
        name: (posed._replace(args=(peer.params, *posed.args[1:])), peer.run)
        for name, peer in peers.peers(posed).items()
    }
    jax_sides = {"bptt": (posed, functools.partial(jaxrnn.bptt, posed.cell)), **others}
    sides = {name: make(*side) for name, side in jax_sides.items()}
    if work != "streamed" and posed.shape.B % jax.device_count() == 0 and jax.device_count() > 1:
        sides |= {f"{name}, split": make(*side, split=True) for name, side in jax_sides.items()}
    if torch := peers.torch(posed, work):
        sides["torch"] = torch
    return {"scan": sides.pop("scan"), **sides}


def _compared(work: str, result: Any) -> Any:
    """Parameters lie differently in each library, so their gradients are not compared."""
    return (result[0], result[1][-1]) if work == "gradient" else jax.tree.leaves(result)[-1]


def _also(work: str, posed: Problem, times: dict[str, float]) -> dict[str, float]:
    split = {name: times.get(f"{name}, split", times[name]) for name in times if ", " not in name}
    there = [name for name in JAX_PEERS if name in times]
    return {
        "ours": split["bptt"],
        "fastest JAX peer": min(times[name] for name in there),
        "fastest JAX peer, split": min(split[name] for name in there),
        "floor": product_flops(work, posed.cell_name, posed.shape) / _rate(),
    }


def product_flops(work: str, cell_name: str, shape: Shape) -> float:
    """Of the products with W_x and W_h: forward; and, backward, for x, h and themselves."""
    steps, batch, inputs, hidden = shape
    steps = 1 if work == "streamed" else steps
    once = 2 * steps * batch * (inputs + hidden) * GATES[cell_name] * hidden
    return 3 * once if work == "gradient" else once


@functools.cache
def _rate() -> float:
    """Multiplications and additions a millisecond of a large product, at best."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(jnp.dot)
    taken = []
    for _ in range(10):
        begun = time.perf_counter()
        product(a, a).block_until_ready()
        taken.append(time.perf_counter() - begun)
    return 2 * 2048**3 / min(taken) / 1e3


def _question(work: str, asked: str, pairs: tuple[tuple[str, str], ...]) -> Question:
    return Question(
        asked,
        functools.partial(_sides, work),
        functools.partial(_compared, work),
        also=functools.partial(_also, work),
        pairs=pairs,
    )


_PAIRS = (
    ("bptt", "scan"),
    ("bptt", "fastest JAX peer"),
    ("ours", "fastest JAX peer"),
    ("ours", "fastest JAX peer, split"),
    ("ours", "torch"),
    ("bptt", "torch"),
    ("ours", "floor"),
)
GRADIENT = _question("gradient", "Value and gradient of a mean-square loss.", _PAIRS)
FORWARD = _question("forward", "All outputs, no gradient.", _PAIRS)
STREAMED = _question("streamed", "One step alone.", _PAIRS[:3] + _PAIRS[5:6])
