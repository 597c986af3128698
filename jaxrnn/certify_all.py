"""The certificates of everything that jaxrnn brings."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxrnn import check, layers, networks, sequence, transforms
from jaxrnn.cells import CELLS, gru, lstm
from jaxrnn.certify import Certificate, certify, draw_arguments
from jaxrnn.loops import LOOPS, bptt
from jaxrnn.transforms import MaskedInputs, ResetInputs, ResetParams
from jaxrnn.transforms.noise import add_noise
from jaxrnn.types import Carry, Loop, LoopAround, Params, PyTree, StepResult

# Of `certify`: the names, the arguments and the options.
Job = tuple[tuple[str, str], tuple[Any, ...], dict[str, Any]]
SOME_CELLS, NARROW_CELLS = ("gru", "lru"), ("elman", "gru", "lstm")


def certify_all(
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter, hidden_size: int = 6
) -> Certificate:
    """The certificates of all `CELLS`, also as plain Steps, of all `LOOPS`, and of what wraps them.

    Every cell is judged under `bptt`; under `scan`, which is the judge, and under the other loops,
    which run these on parts of a sequence and know nothing of cells, some are; in bfloat16 too some
    are. Then an LSTM with a mask and learned resets under every loop, and one with all noise; and a
    stack run layer by layer, judged by `scan` over the stack as one Step.

    Args:
        progress: wraps the iteration, for instance `tqdm.tqdm`.
        hidden_size: H of every cell.
    """
    check.require_callable("progress", progress, takes=1)
    check.require_int("hidden_size", hidden_size, least=1)
    jobs = [*_of_cells(hidden_size), *_around(hidden_size)]
    found = (certify(*args, names=names, **options) for names, args, options in progress(jobs))
    return Certificate(tuple(row for certificate in found for row in certificate.rows))


def _of_cells(hidden_size: int) -> Iterator[Job]:
    for cell_name, make in CELLS:
        cell = make(hidden_size)
        for name, loop in LOOPS:
            if loop is bptt or cell_name in SOME_CELLS:
                yield (cell_name, name), (cell,), {"loop": loop}
        if cell_name in NARROW_CELLS:
            yield (f"{cell_name}, bfloat16", "bptt"), (cell,), {"narrow_dtype": jax.numpy.bfloat16}
        # A method is a function that shows no parts.
        plain, args = cell.__call__, draw_arguments(cell, np.random.default_rng(0))
        # At one point, unlike at many draw_arguments ones, a layer norm's rounding differs from draw to draw
        # by more than the limit, so that it takes many for a median.
        yield (f"{cell_name}, plain", "bptt"), (plain, *args), {"num_draws": 32}


def _around(hidden_size: int) -> Iterator[Job]:
    rng = np.random.default_rng(0)
    cell = lstm(hidden_size)
    params, carry, xs = draw_arguments(cell, rng)
    mask, reset = (jax.numpy.asarray(rng.random(xs.shape[:-1]) < chance) for chance in (0.7, 0.2))
    marked = transforms.resettable(transforms.masked(cell), learned=True)
    start = jax.tree.map(jax.numpy.cos, carry)
    noisy: Any = transforms.variational_dropout(cell, input_rate=0.3, state_rate=0.3)
    noisy = transforms.zoneout(transforms.recurrent_dropout(noisy, 0.3), 0.2)
    with_noise = add_noise(noisy, jax.random.key(0), params, carry, xs)
    marks = ResetParams(params, start), carry, ResetInputs(MaskedInputs(xs, mask), reset)
    for name, loop in LOOPS:
        yield ("lstm, mask, resets", name), (marked, *marks), {"loop": loop}
    yield ("lstm, noise", "bptt"), (noisy, with_noise[0], carry, with_noise[1]), {}
    net: Any = networks.stacked(cell, networks.residual(gru(hidden_size)), layers.linear(2))

    def unroll(loop: Loop, step: Any, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        return sequence.unroll(step, params, xs, carry=carry, loop=loop)

    layer_by_layer = {"loop": LoopAround(bptt, unroll)}
    yield ("stack", "bptt, layer by layer"), (net, *draw_arguments(net, rng)), layer_by_layer
