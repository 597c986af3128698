"""The front door: a cell over a sequence, under any loop."""

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.loops.bptt import bptt
from jaxrnn.types import Carry, Cell, Loop, Params, PyTree, Step


def unroll(
    cell: Cell | Step,
    params: Params,
    xs: PyTree,
    carry: Carry | None = None,
    *,
    loop: Loop = bptt,
    reverse: bool = False,
) -> tuple[Carry, PyTree]:
    """Run a cell over a sequence: c_t, y_t = cell(params, c_{t-1}, x_t) for t = 1..T.

    Many-to-many uses `ys`; many-to-one uses `cell.output(params, carry)`, and the outputs that
    nobody used send no `(T, ...)` array of zeros back.

    Args:
        cell: a Cell, or a plain Step, for which `carry` has to be given.
        params: the cell's parameters; outputs and carries keep their dtype.
        xs: `(T, *batch, I)`, any number of batch axes and none; T = 0 gives the carry back. (Batch
            first? `jaxrnn.time_first`.)
        carry: the state before the first step, of exactly the batch and dtype of the sequence; the
            cell's zero state unless given.
        loop: the gradient algorithm; all give the same values.
        reverse: run from the last step to the first; ys[t] still belongs to xs[t].

    Returns:
        The carry after the last step taken, and ys `(T, *batch, H)`.

    Raises:
        TypeError, ValueError: while tracing, naming the argument that does not fit.

    Gradient: what `loop` makes of it; by default exact backpropagation through time.
    """
    check.function("cell", cell)
    check.function("loop", loop)
    check.boolean("reverse", reverse)
    check.length(xs)
    if carry is None:
        if not isinstance(cell, Cell):
            raise ValueError(
                "carry: got None, expected the first carry, since a plain Step has no zero state"
            )
        batch = check.batch_shape(check.at_one_step(xs))
        jax.eval_shape(cell.project, params, xs)  # raises unless they fit, before zeros are made
        carry = cell.carry(batch, check.float_dtype(params))
    xs = jax.tree.map(lambda x: jnp.flip(x, 0), xs) if reverse else xs
    carry, ys = loop(cell, params, tree.to_arrays(carry), xs)
    return carry, jax.tree.map(lambda y: jnp.flip(y, 0), ys) if reverse else ys
