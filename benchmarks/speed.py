"""How fast is jaxrnn, compared with every peer and with a lower bound?

The value and gradient of a mean-square loss for parameters, first carry and inputs; all outputs
without a gradient; a single step. `scan` is `jax.grad` of `lax.scan` with a plain step. `bptt` is
the hand-written backward pass of the Cell. `split` is the same function with the batch split over
all devices by `data_parallel`; on a CPU these are the cores. PyTorch uses all cores by itself. The
lower bound, `floor`, is the time of the matrix products alone, at the best rate of XLA for large
matrices on this machine.
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


def _sides(work: str, problem: Problem) -> dict[str, Program]:
    make: Callable[..., Program] = {
        "gradient": gradient,
        "forward": forward,
        "streamed": streamed,
    }[work]
    others = {"scan": (problem, functools.partial(jaxrnn.scan, problem.step))}
    others |= {
        name: (problem._replace(args=(peer.params, *problem.args[1:])), peer.run)
        for name, peer in peers.peers(problem).items()
    }
    jax_sides = {"bptt": (problem, functools.partial(jaxrnn.bptt, problem.cell)), **others}
    sides = {name: make(*side) for name, side in jax_sides.items()}
    if work != "streamed" and problem.shape.B % jax.device_count() == 0 and jax.device_count() > 1:
        sides |= {f"{name}, split": make(*side, split=True) for name, side in jax_sides.items()}
    if torch := peers.torch(problem, work):
        sides["torch"] = torch
    return {"scan": sides.pop("scan"), **sides}


def _compared(work: str, result: Any) -> Any:
    """Returns the numbers to compare; each library has another tree of parameters."""
    return (result[0], result[1][-1]) if work == "gradient" else jax.tree.leaves(result)[-1]


def _also(work: str, problem: Problem, times: dict[str, float]) -> dict[str, float]:
    names = [name for name in times if ", " not in name]
    split = {name: times.get(f"{name}, split", times[name]) for name in names}
    peers_present = [name for name in JAX_PEERS if name in times]
    return {
        "ours": split["bptt"],
        "fastest JAX peer": min(times[name] for name in peers_present),
        "fastest JAX peer, split": min(split[name] for name in peers_present),
        "floor": product_flops(work, problem.cell_name, problem.shape) / _rate(),
    }


def product_flops(work: str, cell_name: str, shape: Shape) -> float:
    """Returns the operations of all products: forward with W_x, W_h; backward for x, h and both."""
    steps, batch, inputs, hidden = shape
    steps = 1 if work == "streamed" else steps
    forward_flops = 2 * steps * batch * (inputs + hidden) * GATES[cell_name] * hidden
    return 3 * forward_flops if work == "gradient" else forward_flops


@functools.cache
def _rate() -> float:
    """Returns the best rate of a large product, in operations per millisecond."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(jnp.dot)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds) / 1e3


def _question(work: str, title: str, pairs: tuple[tuple[str, str], ...]) -> Question:
    return Question(
        title,
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
