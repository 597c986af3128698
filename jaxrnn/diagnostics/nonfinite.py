"""Finds the first number that is not finite in a loss and its gradient."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn import check, sequence, tree
from jaxrnn.diagnostics.flow import (
    Loss,
    WithExtraInput,
    grad_with_extra_inputs,
    map_loop_calls,
)
from jaxrnn.loops.bptt import bptt
from jaxrnn.transforms.adjoint import ProbeInputs, probe_adjoint
from jaxrnn.transforms.rows import num_batch_axes
from jaxrnn.types import Carry, Cell, Loop, Params, PyTree, Step, StepResult


class Nonfinite(NamedTuple):
    """Where the first number appeared that is not finite.

    Fields:
        phase: "forward" or "backward".
        layer: the index of the recurrent layer, in the order in which the layers run; None outside
            of them.
        quantity: the path, such as "params.w_h", "saved.f", "carries.h" or "d_carries.h".
        step: t, from 0, in the order in which the layer runs; None for quantities without a time
            axis. A `d_carries` at t is a result of the backward pass of step t+1.
        position: the batch row; for quantities without a time axis, the index in the whole array.
        value: NaN or an infinity.
    """

    phase: str
    layer: int | None
    quantity: str
    step: int | None
    position: tuple[int, ...]
    value: complex

    def __str__(self) -> str:
        """One sentence."""
        layer = "" if self.layer is None else f" of recurrent layer {self.layer}"
        step = "" if self.step is None else f" at step {self.step}"
        position = f", index {self.position}" if self.position else ""
        return f"{self.phase}: {self.value} arose first in {self.quantity}{layer}{step}{position}"


def locate_nonfinite(loss: Loss, params: Params, *args: Any, loop: Loop = bptt) -> Nonfinite | None:
    """Returns the first number in a loss and its gradient that is not finite, or None.

    The order is that of the computation:

    1. the parameters;
    2. for each recurrent layer: its first carry; then, step by step, its input, the projection of
       the input, what the cell saves (its gates), its carry, its output;
    3. if the loss is not finite: the other arguments, then the loss;
    4. for each recurrent layer, from the last one back: the gradient of its outputs, then its
       adjoints, from the last step back;
    5. the gradient of the parameters.

    Args:
        loss: `loss(params, *args, loop=loop) -> scalar`, with the requirements that `gradient_flow`
            lists. It may be jitted.
        params: the parameters of the loss.
        *args: passed on to the loss.
        loop: the gradient algorithm.

    Returns:
        A `Nonfinite`, whose string is a sentence; None if all numbers are finite.
        `locate_nonfinite` does not work under jit.

    Time and memory: those of a gradient, plus one forward pass that keeps all states.
    """

    def with_records(
        loop: Loop, step: Step, params: Params, carry: Carry, xs: PyTree
    ) -> WithExtraInput:
        """The extra inputs have the forms of the records, of the outputs and of the carries.

        Their gradients are the records, the gradient of the outputs, and the adjoints.
        """
        (carries, saved), ys = sequence.history(step, params, xs, carry=carry)
        zs = step.project(params, xs) if isinstance(step, Cell) else ()
        # Ordered, because the first quantity in the tree wins where several fail at one step.
        timed = OrderedDict(inputs=xs, projections=zs, saved=saved, carries=carries, outputs=ys)
        records, _ = tree.split_inexact(({"carry": carry}, timed))
        _, timed_records = records

        def run(zeros: PyTree) -> StepResult:
            *record_zeros, probe = zeros
            result = loop(probe_adjoint(step, whole=True), params, carry, ProbeInputs(xs, probe))
            inexact, others = tree.split_inexact(result)
            inexact = _attach_records(inexact, tuple(record_zeros), records)
            return tree.merge_inexact(inexact, others)

        return (*records, timed_records["outputs"], timed_records["carries"]), run

    def batch_rank_of(loop: Loop, step: Step, params: Params, carry: Carry, xs: PyTree) -> int:
        return num_batch_axes(step, carry)

    def candidates() -> Iterator[Nonfinite | None]:
        yield _first("forward", None, {"params": params})

        @jax.jit
        def value_and_records(params: Params) -> tuple[jax.Array, tuple[Params, PyTree]]:
            return grad_with_extra_inputs(loss, params, args, loop, with_records)

        value, (grads, layers) = value_and_records(params)
        batch_ranks = map_loop_calls(batch_rank_of, loss, params, args, loop)
        for index, (start, timed, _, _) in enumerate(layers):
            yield _first("forward", index, start)
            yield _first("forward", index, timed, batch_ranks[index])
        if not np.isfinite(value):
            yield _first("forward", None, {"args": args, "loss": value})
        for index in reversed(range(len(layers))):
            _, _, d_outputs, d_carries = layers[index]
            batch_rank = batch_ranks[index]
            yield _first("backward", index, {"d_outputs": d_outputs}, batch_rank, last=True)
            yield _first("backward", index, {"d_carries": d_carries}, batch_rank, last=True)
        yield _first("backward", None, {"d_params": grads})

    check.require_callable("loss", loss, 1 + len(args), loop=loop)
    check.require_callable("loop", loop, takes=4)
    check.require_arrays(params=params)
    check.require_concrete(params=params, args=args)
    return next(filter(None, candidates()), None)


@jax.custom_vjp
def _attach_records(result: PyTree, zeros: PyTree, records: PyTree) -> PyTree:
    """Returns the result; the gradient of `zeros` is the records and the gradient of the outputs.

    Values of the forward pass leave a jitted gradient in this way, together with the gradient.
    """
    return result


_attach_records.defvjp(
    lambda result, _, records: (result, records),
    lambda records, d_result: (d_result, (*records, d_result[1]), None),
)


def _first(
    phase: str,
    layer: int | None,
    quantities: PyTree,
    batch_rank: int | None = None,
    last: bool = False,
) -> Nonfinite | None:
    """Returns the first number in time that is not finite, or the last one in time.

    Where several quantities have one at the same step, the first in the tree counts.

    Args:
        phase: "forward" or "backward".
        layer: the index of the recurrent layer.
        quantities: a tree of arrays.
        batch_rank: the number of batch axes after the time axis; None if there is no time axis.
        last: whether to search from the last step back.
    """
    hits: list[Nonfinite] = []
    for name, x in tree.leaves_by_name(quantities).items():
        if not isinstance(x, (float, np.ndarray, jax.Array)) or not check.is_inexact(x):
            continue
        indices = np.argwhere(~np.isfinite(x))
        if not len(indices):
            continue
        # The indices are sorted, so the first row has the first step.
        row = np.argmax(indices[:, 0]) if last else 0
        index = tuple(map(int, indices[row]))
        step = None
        position = index
        if batch_rank is not None:
            step = index[0]
            position = index[1 : 1 + batch_rank]
        hits.append(Nonfinite(phase, layer, name, step, position, np.asarray(x)[index].item()))
    if last:  # both take the first of equal hits, in the order of the tree
        return max(hits, key=lambda hit: hit.step or 0, default=None)
    return min(hits, key=lambda hit: hit.step or 0, default=None)
