"""Where was the first number born that is not finite?"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn import check, sequence, tree
from jaxrnn.diagnostics.flow import Loss, with_zeros
from jaxrnn.loops.bptt import bptt
from jaxrnn.transforms.adjoint import ProbeInputs, probe_adjoint
from jaxrnn.transforms.rows import batch_axes
from jaxrnn.types import Carry, Cell, Loop, Params, PyTree


class Nonfinite(NamedTuple):
    """The birthplace of the first number that is not finite.

    Fields:
        phase: "forward" or "backward".
        layer: which recurrent layer, in the order in which they run; None outside of them.
        quantity: its path, such as "params.w_h", "saved.f", "carries.h" or "d_carries.h".
        step: t, from 0, as the layer runs; None for what has no time. A `d_carries` came out of the
            backward pass of step t+1.
        position: the batch row; of what has no time the index in the whole array.
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
    """The first number that is not finite in a loss and its gradient, None if all are finite.

    The first in this order: parameters; of each recurrent layer its first carry, then step by step
    its input, the projection of it, what the cell saves (its gates), its carry, its output; if the
    loss is not finite, the other arguments, and the loss; from the last layer back the gradient of
    its outputs, and its adjoints from the last step back; the gradient of the parameters.

    Args:
        loss: as for `flow`, like all other arguments. It may be jitted.
        params: ″.
        *args: ″.
        loop: ″.

    Returns:
        A `Nonfinite`, whose string says it in a sentence. Not for use under jit.

    Time and memory: those of a gradient, and of one more forward pass whose states are all kept.
    """

    def spying(loop: Loop, step: Any, params: Params, carry: Carry, xs: PyTree) -> Any:
        (carries, saved), ys = sequence.history(step, params, xs, carry=carry)
        zs = step.project(params, xs) if isinstance(step, Cell) else ()
        # What the layer begins with, and what is seen of it step by step, in this order.
        timed = OrderedDict(inputs=xs, projections=zs, saved=saved, carries=carries, outputs=ys)
        seen = tree.split_inexact(({"carry": carry}, timed))[0]

        def run(zeros: Any) -> Any:
            *spied, probe = zeros
            result = loop(probe_adjoint(step, whole=True), params, carry, ProbeInputs(xs, probe))
            inexact, others = tree.split_inexact(result)
            return tree.merge_inexact(_spied(inexact, tuple(spied), seen), others)

        return (*seen, seen[1]["outputs"], seen[1]["carries"]), run

    def places() -> Iterator[Nonfinite | None]:
        yield _first("forward", None, {"params": params})
        value, (grads, layers) = jax.jit(lambda p: with_zeros(loss, p, args, loop, spying))(params)
        numbered = [(i, len(batch_axes(layer[0])), layer) for i, layer in enumerate(layers)]
        for i, batch, (start, timed, _, _) in numbered:
            yield _first("forward", i, start)
            yield _first("forward", i, timed, batch)
        if not np.isfinite(value):
            yield _first("forward", None, {"args": args, "loss": value})
        for i, batch, (_, _, d_outputs, d_carries) in numbered[::-1]:
            yield _first("backward", i, {"d_outputs": d_outputs}, batch, last=True)
            yield _first("backward", i, {"d_carries": d_carries}, batch, last=True)
        yield _first("backward", None, {"d_params": grads})

    check.require_callable("loss", loss, 1 + len(args), loop=loop)
    check.require_callable("loop", loop, takes=4)
    check.require_arrays(params=params)
    check.require_concrete(params=params, args=args)
    return next(filter(None, places()), None)


@jax.custom_vjp
def _spied(result: PyTree, zeros: PyTree, seen: PyTree) -> PyTree:
    """The result; the gradient of the zeros is what was seen, and the gradient of the result."""
    return result


_spied.defvjp(lambda result, _, seen: (result, seen), lambda seen, d: (d, (*seen, d[1]), None))


def _first(
    phase: str, layer: int | None, quantities: PyTree, batch: int | None = None, last: bool = False
) -> Nonfinite | None:
    """The first in time, or the last; then the first in the tree.

    `batch` is how many batch axes follow that of time, None where there is no time.
    """
    hits = []
    for name, x in tree.leaves_by_name(quantities).items():
        inexact = isinstance(x, (float, np.ndarray, jax.Array)) and check.is_inexact(x)
        places: Any = np.argwhere(~np.isfinite(x)) if inexact else ()
        if len(places):
            at = tuple(map(int, places[np.argmax(places[:, 0]) if last else 0]))
            step, place = (None, at) if batch is None else (at[0], at[1 : 1 + batch])
            hits.append(Nonfinite(phase, layer, name, step, place, np.asarray(x)[at].item()))
    return min(hits, key=lambda hit: (hit.step or 0) * (-1 if last else 1), default=None)
