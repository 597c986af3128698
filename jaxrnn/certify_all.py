"""The certificates of everything that jaxrnn brings."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import networks
from jaxrnn.cells import CELLS, gru, lstm
from jaxrnn.certify import Arguments, Certificate, Row, certify, drawn
from jaxrnn.layers import readout
from jaxrnn.loops import LOOPS, bptt
from jaxrnn.sequence import unroll
from jaxrnn.transforms import (
    Masked,
    Restarted,
    Restarting,
    candidate_dropout,
    masked,
    restarted,
    variational,
    zoneout,
)
from jaxrnn.types import Carry, Loop, Noised, Params, PyTree, Step


class Job(NamedTuple):
    """What is certified: a step under a loop, with these names, and arguments unless it is a Cell.

    Fields:
        step, loop: what `certify` takes.
        names: of both.
        args: params, carry and xs; None to have them drawn.
    """

    step: Step
    loop: Loop
    names: tuple[str, str]
    args: Arguments = (None, None, None)


def certify_all(
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter, hidden_size: int = 6
) -> Certificate:
    """The certificates of all `CELLS` under all `LOOPS`, as plain Steps, and of what wraps them.

    That is: an LSTM with a mask and learned resets, and one with all noise, under every loop; and a
    stack run layer by layer, judged by `scan` over the stack as one Step.

    Args:
        progress: wraps the iteration, for instance `tqdm.tqdm`.
        hidden_size: H of every cell.
    """
    rows: list[Row] = []
    for job in progress([*_of_cells(hidden_size), *_around(hidden_size)]):
        rows += certify(job.step, *job.args, loop=job.loop, names=job.names).rows
    return Certificate(tuple(rows))


def _of_cells(hidden_size: int) -> Iterator[Job]:
    for cell_name, make in CELLS:
        cell = make(hidden_size)
        yield from (Job(cell, loop, (cell_name, name)) for name, loop in LOOPS)
        args = drawn(cell, np.random.default_rng(0))
        yield Job(functools.partial(_call, cell), bptt, (f"{cell_name}, plain", "bptt"), args)


def _around(hidden_size: int) -> Iterator[Job]:
    rng = np.random.default_rng(0)
    cell = lstm(hidden_size)
    params, carry, xs = drawn(cell, rng)
    mask, reset = (jnp.asarray(rng.random(xs.shape[:-1]) < chance) for chance in (0.7, 0.2))
    marked = restarted(masked(cell), learned=True)
    start = jax.tree.map(jnp.cos, carry)
    noisy = variational(cell, inputs=0.3, state=0.3)
    noisy = zoneout(candidate_dropout(noisy, 0.3), 0.2)
    assert noisy.noise is not None
    shared, stepwise = noisy.noise(jax.random.key(0), params, carry, xs)
    marks = Restarting(params, start), carry, Restarted(Masked(xs, mask), reset)
    noise = Noised(params, shared), carry, Noised(xs, stepwise)
    for name, loop in LOOPS:
        yield Job(marked, loop, ("lstm, mask, resets", name), marks)
        yield Job(noisy, loop, ("lstm, noise", name), noise)
    net: Any = networks.stacked(cell, networks.residual(gru(hidden_size)), readout(2))
    more = net.init(jax.random.key(0), xs.shape[-1], xs.dtype)
    carries = net.carry(xs.shape[1:-1], xs.dtype)
    yield Job(net, _layer_by_layer, ("stack", "bptt, layer by layer"), (more, carries, xs))


def _call(step: Step, params: Params, carry: Carry, x: PyTree) -> tuple[Carry, PyTree]:
    """The same step, as a function that shows no parts."""
    return step(params, carry, x)


def _layer_by_layer(step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[Carry, PyTree]:
    """`unroll` has the contract of a loop."""
    return unroll(step, params, xs, carry)
