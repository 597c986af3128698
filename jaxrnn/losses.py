"""Losses over time, optax's as they are: the mean of those that count; losses inside the loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Shaped

from jaxrnn import check, networks, tree
from jaxrnn.types import Array, Carry, Cell, Layer, Params, PyTree, Seen, Step, once

Loss = Callable[[Any, Any], Any]  # of outputs and targets
A_TOKEN = jax.ShapeDtypeStruct((), jnp.int32)


def mean_over_time(
    loss: Callable[[Array, Array], Array],
    outputs: Float[Array, " T *batch O"],
    targets: Shaped[Array, " T *rest"],
    mask: Bool[Array, " T *leading"] | None = None,
) -> Float[jax.Array, ""]:
    """The mean of per-step losses over time and batch.

        L = Σ_t m_t ℓ(o_t, y_t) / max(1, Σ_t m_t)                                            (1)

    where m_t = 1 without a mask. Where the mask is False, outputs and targets are replaced by zeros
    before the loss sees them, so that NaN or a label out of range in the padding reaches neither
    value nor gradient.

    Args:
        loss: elementwise, such as `optax.l2_loss`, or over the last axis, such as
            `optax.softmax_cross_entropy_with_integer_labels`; one number an element or a step.
        outputs: o, `(T, *batch, O)`.
        targets: y, of the shape of the outputs with or without their last axis.
        mask: m, bool `(T, ...)`, True where a step counts; its shape begins that of the losses.

    Returns:
        L, a scalar of the outputs' dtype; 0 where T = 0 or nothing counts. With elementwise losses
        the mean is over features too.

    Raises:
        ValueError: if shapes do not fit or the loss broadcast its arguments.
        TypeError: if the mask is not boolean.

    Gradient: exact. Time and memory: those of the loss.
    """
    check.function("loss", loss, takes=2)
    for name, x in (("outputs", outputs), ("targets", targets)):
        check.kind(hasattr(x, "dtype"), name, x, "an array")
    check.arrays(outputs=outputs, targets=targets)
    outputs, targets = jnp.asarray(outputs), jnp.asarray(targets)
    check.floating("outputs", outputs.dtype)
    shapes = outputs.shape, outputs.shape[:-1]
    given = f"the outputs {check.describe(outputs)}"
    expected = f"the shape of {given} with or without the last axis"
    check.that(outputs.ndim and targets.shape in shapes, "targets", targets, expected)
    if mask is not None:
        check.booleans("mask", mask)
        fits = 0 < mask.ndim < outputs.ndim and mask.shape == outputs.shape[: mask.ndim]
        expected = f"the first axes of {given}, time among them and features not"
        check.that(fits, "mask", mask, expected)
        outputs, targets = (jnp.where(tree.widened(mask, x), x, 0) for x in (outputs, targets))
    form = jax.eval_shape(loss, outputs, targets)
    # Targets that have no last axis leave an elementwise loss nothing but to broadcast them.
    fits = getattr(form, "shape", None) in (outputs.shape[:-1], targets.shape)
    expected = f"one a step or one an element of {given}; targets were {check.describe(targets)}"
    check.that(fits, "loss", f"losses {check.describe(form)}", expected)
    losses = loss(outputs, targets).astype(outputs.dtype)
    # Neither the sum nor the count of a long sequence fits into 16 bits.
    wide = jnp.float32 if jnp.finfo(losses.dtype).bits < 32 else losses.dtype
    counts = None if mask is None else jnp.broadcast_to(tree.widened(mask, losses), losses.shape)
    count = jnp.asarray(losses.size if counts is None else jnp.sum(counts), wide)
    total = jnp.sum(losses, dtype=wide, where=counts)
    return (total / jnp.maximum(1, count)).astype(losses.dtype)


class Scored(NamedTuple):
    """Inputs, and what the outputs are to be.

    Fields:
        xs: what the step itself takes.
        targets: y `(*lead, ...)`, what the loss takes beside the readout's outputs.
    """

    xs: PyTree
    targets: Any


@once
def scored(
    cell: Cell | Step, readout: Layer, loss: Loss, target: jax.ShapeDtypeStruct = A_TOKEN
) -> Cell | Step:
    """The step whose output is its loss, so that logits stand in memory for one segment at most.

        c_t = cell(params, c_{t-1}, x_t),    o_t = readout(h_t),    y_t = ℓ(o_t, target_t)    (1)

    Under a loop that goes through the sequence segment by segment (`checkpointed`) the `(T, *batch,
    V)` outputs of the readout are never in memory all at once, nor are their cotangents.

    Args:
        cell: a Cell without noise, whose backward pass stays the one by hand, or a plain Step.
        readout: a Layer.
        loss: `(outputs (*lead, V), targets (*lead, ...)) -> (*lead)`, such as
            `optax.softmax_cross_entropy_with_integer_labels`.
        target: shape and dtype of what one row is to be at one step; an int32 token unless given. A
            Cell's carry has room for it.

    Returns:
        A Cell or a Step with inputs `Scored(xs, targets)` and one loss for each step and row as its
        output. Its params are those of `stacked(cell, readout)`; a Cell's carry is the pair of the
        cell's and the last target. Equal arguments give the same cell.

    Gradient: exact. Time and memory: the cell's; readout and loss where outputs are made.
    """
    check.function("cell", cell, takes=3)
    check.instance("readout", readout, Layer)
    check.function("loss", loss, takes=2)
    check.instance("target", target, jax.ShapeDtypeStruct)
    if isinstance(cell, Cell):
        check.that(cell.noise is None, "cell", "one that draws noise", "one without")
        return _scored_cell(cell, readout, loss, target)

    def scored_step(params: Params, carry: Carry, x: Scored) -> tuple[Carry, PyTree]:
        check.instance("xs", x, Scored)
        check.one_each((cell, readout), params=params)
        carry, y = cell(params[0], carry, x.xs)
        return carry, loss(readout.apply(params[1], y), x.targets)  # (1)

    return scored_step


def _scored_cell(cell: Any, readout: Layer, loss: Loss, target: jax.ShapeDtypeStruct) -> Cell:
    # An output is made of the carry, so a step's target rides there beside the cell's own carry.
    def carry(batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Carry:
        zero = jnp.zeros((*batch_shape, *target.shape), target.dtype)
        return cell.carry(batch_shape, dtype), zero

    def project(params: Params, xs: Scored) -> Scored:
        check.instance("xs", xs, Scored)
        check.one_each((cell, readout), params=params)
        batch = check.batch_shape(xs.xs, cell.num_feature_axes)
        like = jax.ShapeDtypeStruct((*batch, *target.shape), target.dtype)
        check.same_tree("xs.targets", xs.targets, like)
        return Scored(cell.project(params[0], xs.xs), xs.targets)

    def advance(w: PyTree, carry_tm1: Carry, z: Scored) -> tuple[Carry, PyTree]:
        carry_t, saved = cell.advance(w, carry_tm1[0], z.xs)
        return (carry_t, z.targets), saved

    def output(params: Params, carries: Carry) -> PyTree:
        return loss(readout.apply(params[1], cell.output(params[0], carries[0])), carries[1])  # (1)

    def inner(seen: Seen) -> Seen:
        return Seen(seen.carry_tm1[0], seen.z.xs, seen.carry[0], seen.saved)

    def adjoint(w: PyTree, seen: Seen, d_carry: Carry) -> tuple[Carry, PyTree]:
        d_cell, d_target = d_carry
        d_cell_tm1, delta = cell.adjoint(w, inner(seen), d_cell)
        return (d_cell_tm1, jax.tree.map(jnp.zeros_like, d_target)), (delta, d_target)

    def gather(w: PyTree, seen: Seen, deltas: PyTree) -> tuple[PyTree, Scored]:
        d_w, d_zs = cell.gather(w, inner(seen), deltas[0])
        return d_w, Scored(d_zs, deltas[1])

    init = networks.stacked(cell, readout).init
    parts = {"init": init, "carry": carry, "project": project, "advance": advance, "output": output}
    return cell.changed(adjoint, gather, **parts, prepare=lambda params: cell.prepare(params[0]))
