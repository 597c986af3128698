"""The certificates of all cells and loops of jaxrnn, and of transformations around them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn import check, layers, networks, sequence, transforms
from jaxrnn.cells import CELLS, gru, lstm
from jaxrnn.certificate import Certificate, Comparison
from jaxrnn.certify import certify, draw_arguments
from jaxrnn.loops import LOOPS, bptt, parallel
from jaxrnn.transforms import MaskedInputs, ResetInputs, ResetParams
from jaxrnn.transforms.noise import add_noise
from jaxrnn.types import Carry, Cell, Loop, LoopAround, Params, Part, PyTree, Step, StepResult


class Call(NamedTuple):
    """The arguments of a call of `certify`: the positional ones, and its options."""

    args: tuple[PyTree, ...]
    options: dict[str, Any]


class Job(NamedTuple):
    """The argument `names` of a call of `certify`, and a function that draws the rest of it.

    Nothing is drawn for a job that is not selected.
    """

    names: tuple[str, str]
    make_call: Callable[[], Call]


CELLS_FOR_ALL_LOOPS = ("gru", "lru")
CELLS_IN_BFLOAT16 = ("elman", "gru", "lstm")
ELEMENTWISE_CELLS = ("lru", "min_gru", "selective_ssm", "indrnn_tanh")
# XLA takes minutes to compile the differences of a convolution in the body of a loop.
CELLS_NOT_AS_PLAIN_STEPS = ("conv_lstm",)
CELL_NAMES = (*dict(CELLS), "stack")  # names for `certify_all(cells=...)`
LOOP_NAMES = (*dict(LOOPS), "parallel")


def certify_all(
    *,
    cells: Sequence[str] | None = None,
    loops: Sequence[str] | None = None,
    progress: Callable[[Iterable[Job]], Iterable[Job]] = iter,
    hidden_size: int = 6,
) -> Certificate:
    """Returns the certificates of all `CELLS`, all `LOOPS`, and transformations around them.

    The comparisons are:

    - every cell under `bptt`, as a Cell and, except `conv_lstm`, as a plain Step;
    - two cells, a GRU and an LRU, under every loop, since the other loops run `bptt` or `scan` on
      parts of a sequence and do not depend on the cell;
    - four elementwise cells under `parallel()`;
    - three cells in bfloat16;
    - an LSTM with a mask and learned resets under every loop;
    - an LSTM with all kinds of noise;
    - a stack run layer by layer, compared with `scan` over the stack as one Step.

    Args:
        cells: names of cells in `CELLS`, or "stack". Only comparisons of these are run.
        loops: names of loops in `LOOPS`. Only comparisons of these are run. With `cells` too, each
            of these cells is compared under each of these loops.
        progress: wraps the iteration, for instance `tqdm.tqdm`.
        hidden_size: H of every cell.

    Raises:
        TypeError, ValueError: for a name of no cell or loop; the message lists the names.
    """
    _check_names("cells", cells, CELL_NAMES)
    _check_names("loops", loops, LOOP_NAMES)
    check.require_callable("progress", progress, takes=1)
    check.require_int("hidden_size", hidden_size, least=1)
    # If both are named, someone asks about each of these pairs.
    every_pair = cells is not None and loops is not None
    all_jobs = [*_cell_jobs(hidden_size, every_pair), *_transformation_jobs(hidden_size)]
    jobs = [job for job in all_jobs if _is_selected(job, cells, loops)]
    got = f"{cells} and {loops}, which select nothing"
    check.require(jobs, "cells, loops", got, "at least one comparison; a stack runs under bptt")
    rows: list[Comparison] = []
    for job in progress(jobs):
        args, options = job.make_call()
        rows.extend(certify(*args, names=job.names, **options).rows)
    return Certificate(tuple(rows))


def _check_names(name: str, values: Sequence[str] | None, names: tuple[str, ...]) -> None:
    """Raises an error unless `values` is None or a sequence of some of the names."""
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str)
    check.require_option_type(name, values, values is None or is_sequence, "a sequence of names")
    for value in values or ():
        check.require(value in names, name, repr(value), f"some of {', '.join(names)}")


def _is_selected(job: Job, cells: Sequence[str] | None, loops: Sequence[str] | None) -> bool:
    """Returns whether the names of a job, up to a comma, are among those that are asked for."""
    cell, loop = (name.partition(",")[0] for name in job.names)
    is_selected_cell = cells is None or cell in cells
    is_selected_loop = loops is None or loop in loops
    return is_selected_cell and is_selected_loop


def _cell_jobs(hidden_size: int, every_pair: bool) -> Iterator[Job]:
    def as_cell(cell: Cell, **options: Any) -> Call:
        return Call((cell,), options)

    def as_plain_step(cell: Cell) -> Call:
        args = draw_arguments(cell, np.random.default_rng(0))
        # A bound method is a plain Step: `bptt` cannot see the parts of the cell. All draws are
        # near the same arguments. There, the rounding error of a layer norm varies by more than the
        # limit from draw to draw, so that the median needs many draws.
        return Call((cell.__call__, *args), {"num_draws": 32})

    for cell_name, make in CELLS:
        cell = make(hidden_size)
        for loop_name, loop in LOOPS:
            if every_pair or loop is bptt or cell_name in CELLS_FOR_ALL_LOOPS:
                yield Job((cell_name, loop_name), partial(as_cell, cell, loop=loop))
        if cell_name in ELEMENTWISE_CELLS:
            yield Job((cell_name, "parallel"), partial(as_cell, cell, loop=parallel()))
        if cell_name in CELLS_IN_BFLOAT16:
            narrow = partial(as_cell, cell, narrow_dtype=jax.numpy.bfloat16)
            yield Job((f"{cell_name}, bfloat16", "bptt"), narrow)
        if cell_name not in CELLS_NOT_AS_PLAIN_STEPS:
            yield Job((f"{cell_name}, plain", "bptt"), partial(as_plain_step, cell))


def _transformation_jobs(hidden_size: int) -> Iterator[Job]:
    for loop_name, loop in LOOPS:
        masked_call = partial(_with_mask_and_resets, hidden_size, loop)
        yield Job(("lstm, mask, resets", loop_name), masked_call)
    yield Job(("lstm, noise", "bptt"), partial(_with_noise, hidden_size))
    yield Job(("stack", "bptt, layer by layer"), partial(_layer_by_layer, hidden_size))


def _with_mask_and_resets(hidden_size: int, loop: Loop) -> Call:
    rng = np.random.default_rng(0)
    cell = lstm(hidden_size)
    params, carry, xs = draw_arguments(cell, rng)
    mask = jax.numpy.asarray(rng.random(xs.shape[:-1]) < 0.7)
    reset = jax.numpy.asarray(rng.random(xs.shape[:-1]) < 0.2)
    # The order in which `unroll` wraps a cell.
    masked_and_reset = transforms.resettable(transforms.masked(cell), learned=True)
    reset_params = ResetParams(params, jax.tree.map(jax.numpy.cos, carry))
    reset_inputs = ResetInputs(MaskedInputs(xs, mask), reset)
    return Call((masked_and_reset, reset_params, carry, reset_inputs), {"loop": loop})


def _with_noise(hidden_size: int) -> Call:
    cell = lstm(hidden_size)
    params, carry, xs = draw_arguments(cell, np.random.default_rng(0))
    dropped = transforms.variational_dropout(cell, input_rate=0.3, state_rate=0.3)
    noisy = transforms.zoneout(transforms.recurrent_dropout(dropped, 0.3), 0.2)
    noisy_params, noisy_xs = add_noise(noisy, jax.random.key(0), params, carry, xs)
    return Call((noisy, noisy_params, carry, noisy_xs), {})


def _layer_by_layer(hidden_size: int) -> Call:
    net = networks.stacked(lstm(hidden_size), networks.residual(gru(hidden_size)), layers.linear(2))

    # As a loop, so that `certify` compares it with `scan` over the stack as one Step.
    def unroll(
        loop: Loop, step: Part | Step, params: Params, carry: Carry, xs: PyTree
    ) -> StepResult:
        return sequence.unroll(step, params, xs, carry=carry, loop=loop)

    args = draw_arguments(net, np.random.default_rng(0))
    return Call((net, *args), {"loop": LoopAround(bptt, unroll)})
