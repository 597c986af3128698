"""The certificates of all cells and loops of jaxrnn, and of transformations around them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxrnn import check, layers, networks, sequence, transforms
from jaxrnn.cells import CELLS, gru, lstm
from jaxrnn.certify import Certificate, Comparison, certify, draw_arguments
from jaxrnn.loops import LOOPS, bptt, parallel
from jaxrnn.transforms import MaskedInputs, ResetInputs, ResetParams
from jaxrnn.transforms.noise import add_noise
from jaxrnn.types import Carry, Loop, LoopAround, Params, PyTree, StepResult

# A call of `certify`: its argument `names`, its positional arguments, its other options.
Job = tuple[tuple[str, str], tuple[Any, ...], dict[str, Any]]
CELLS_FOR_ALL_LOOPS = ("gru", "lru")
CELLS_IN_BFLOAT16 = ("elman", "gru", "lstm")
ELEMENTWISE_CELLS = ("lru", "min_gru", "selective_ssm", "indrnn_tanh")


def certify_all(
    *, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter, hidden_size: int = 6
) -> Certificate:
    """Returns the certificates of all `CELLS`, all `LOOPS`, and transformations around them.

    The comparisons are:

    - every cell under `bptt`, as a Cell and as a plain Step;
    - two cells, a GRU and an LRU, under every loop, since the other loops run `bptt` or `scan` on
      parts of a sequence and do not depend on the cell;
    - four elementwise cells under `parallel()`;
    - three cells in bfloat16;
    - an LSTM with a mask and learned resets under every loop;
    - an LSTM with all kinds of noise;
    - a stack run layer by layer, compared with `scan` over the stack as one Step.

    Args:
        progress: wraps the iteration, for instance `tqdm.tqdm`.
        hidden_size: H of every cell.
    """
    check.require_callable("progress", progress, takes=1)
    check.require_int("hidden_size", hidden_size, least=1)
    jobs = [*_cell_jobs(hidden_size), *_transformation_jobs(hidden_size)]
    rows: list[Comparison] = []
    for names, args, options in progress(jobs):
        rows.extend(certify(*args, names=names, **options).rows)
    return Certificate(tuple(rows))


def _cell_jobs(hidden_size: int) -> Iterator[Job]:
    for cell_name, make in CELLS:
        cell = make(hidden_size)
        for loop_name, loop in LOOPS:
            if loop is bptt or cell_name in CELLS_FOR_ALL_LOOPS:
                yield (cell_name, loop_name), (cell,), {"loop": loop}
        if cell_name in ELEMENTWISE_CELLS:
            yield (cell_name, "parallel"), (cell,), {"loop": parallel()}
        if cell_name in CELLS_IN_BFLOAT16:
            yield (f"{cell_name}, bfloat16", "bptt"), (cell,), {"narrow_dtype": jax.numpy.bfloat16}
        # A bound method is a plain Step: `bptt` cannot see the parts of the cell.
        plain_step = cell.__call__
        args = draw_arguments(cell, np.random.default_rng(0))
        # All draws are near the same arguments. There, the rounding error of a layer norm varies by
        # more than the limit from draw to draw, so that the median needs many draws.
        yield (f"{cell_name}, plain", "bptt"), (plain_step, *args), {"num_draws": 32}


def _transformation_jobs(hidden_size: int) -> Iterator[Job]:
    rng = np.random.default_rng(0)
    cell = lstm(hidden_size)
    params, carry, xs = draw_arguments(cell, rng)
    mask = jax.numpy.asarray(rng.random(xs.shape[:-1]) < 0.7)
    reset = jax.numpy.asarray(rng.random(xs.shape[:-1]) < 0.2)
    masked_and_reset = transforms.resettable(transforms.masked(cell), learned=True)
    reset_params = ResetParams(params, jax.tree.map(jax.numpy.cos, carry))
    reset_inputs = ResetInputs(MaskedInputs(xs, mask), reset)
    for loop_name, loop in LOOPS:
        args = masked_and_reset, reset_params, carry, reset_inputs
        yield ("lstm, mask, resets", loop_name), args, {"loop": loop}

    noisy: Any = transforms.variational_dropout(cell, input_rate=0.3, state_rate=0.3)
    noisy = transforms.zoneout(transforms.recurrent_dropout(noisy, 0.3), 0.2)
    noisy_params, noisy_xs = add_noise(noisy, jax.random.key(0), params, carry, xs)
    yield ("lstm, noise", "bptt"), (noisy, noisy_params, carry, noisy_xs), {}

    net: Any = networks.stacked(cell, networks.residual(gru(hidden_size)), layers.linear(2))

    def unroll(loop: Loop, step: Any, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        return sequence.unroll(step, params, xs, carry=carry, loop=loop)

    layer_by_layer = LoopAround(bptt, unroll)
    args = net, *draw_arguments(net, rng)
    yield ("stack", "bptt, layer by layer"), args, {"loop": layer_by_layer}
