"""Losses over time: the mean of the losses of all valid steps, optax's losses as they are."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from jaxrnn import check, tree
from jaxrnn.types import Array


def masked_mean(
    loss: Callable[[Array, Array], Array],
    outputs: Float[Array, " T *batch O"],
    targets: Shaped[Array, " T *rest"],
    *,
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
    check.require_callable("loss", loss, takes=2)
    for name, x in (("outputs", outputs), ("targets", targets)):
        check.require_type(hasattr(x, "dtype"), name, x, "an array")
    check.require_arrays(outputs=outputs, targets=targets)
    outputs, targets = jnp.asarray(outputs), jnp.asarray(targets)
    check.require_floating("outputs", outputs.dtype)
    shapes = outputs.shape, outputs.shape[:-1]
    given = f"the outputs {check.describe(outputs)}"
    expected = f"the shape of {given} with or without the last axis"
    check.require(outputs.ndim and targets.shape in shapes, "targets", targets, expected)
    if mask is not None:
        check.require_bool_array("mask", mask)
        fits = 0 < mask.ndim < outputs.ndim and mask.shape == outputs.shape[: mask.ndim]
        expected = f"the first axes of {given}, time among them and features not"
        check.require(fits, "mask", mask, expected)
        outputs, targets = (jnp.where(tree.expand_mask(mask, x), x, 0) for x in (outputs, targets))
    form = jax.eval_shape(loss, outputs, targets)
    # Targets that have no last axis leave an elementwise loss nothing but to broadcast them.
    fits = getattr(form, "shape", None) in (outputs.shape[:-1], targets.shape)
    expected = f"one a step or one an element of {given}; targets were {check.describe(targets)}"
    check.require(fits, "loss", f"losses {check.describe(form)}", expected)
    losses = loss(outputs, targets).astype(outputs.dtype)
    # Neither the sum nor the count of a long sequence fits into 16 bits.
    wide = jnp.float32 if jnp.finfo(losses.dtype).bits < 32 else losses.dtype
    counts = (
        None if mask is None else jnp.broadcast_to(tree.expand_mask(mask, losses), losses.shape)
    )
    count = jnp.asarray(losses.size if counts is None else jnp.sum(counts), wide)
    total = jnp.sum(losses, dtype=wide, where=counts)
    return (total / jnp.maximum(1, count)).astype(losses.dtype)
