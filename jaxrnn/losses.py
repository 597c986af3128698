"""Losses over time: optax's losses as they are, averaged over the steps that count."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from jaxrnn import check, tree
from jaxrnn.types import Array


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
    check.function("loss", loss)
    outputs, targets = jnp.asarray(outputs), jnp.asarray(targets)
    check.floating("outputs", outputs.dtype)
    shapes = (outputs.shape, outputs.shape[:-1])
    if outputs.ndim == 0 or targets.shape not in shapes:
        raise ValueError(
            f"targets: got {check.describe(targets)}, expected the shape of the outputs "
            f"{check.describe(outputs)} with or without the last axis"
        )
    if mask is not None:
        mask = _checked(mask, outputs)
        outputs, targets = (jnp.where(tree.widened(mask, x), x, 0) for x in (outputs, targets))
    form = jax.eval_shape(loss, outputs, targets)
    # Targets that have no last axis leave an elementwise loss nothing but to broadcast them.
    if getattr(form, "shape", None) not in (outputs.shape[:-1], targets.shape):
        raise ValueError(
            f"loss: got losses {check.describe(form)}, expected one a step or one an element of "
            f"the outputs {check.describe(outputs)}; targets were {check.describe(targets)}"
        )
    losses = loss(outputs, targets).astype(outputs.dtype)
    # Neither the sum nor the count of a long sequence fits into 16 bits.
    wide = jnp.float32 if jnp.finfo(losses.dtype).bits < 32 else losses.dtype
    if mask is None:
        return (jnp.sum(losses, dtype=wide) / max(1, losses.size)).astype(losses.dtype)
    mask = jnp.broadcast_to(tree.widened(mask, losses), losses.shape)
    count = jnp.maximum(1, jnp.sum(mask)).astype(wide)
    return (jnp.sum(jnp.where(mask, losses, 0), dtype=wide) / count).astype(losses.dtype)


def _checked(mask: Array, outputs: Array) -> Array:
    if not (hasattr(mask, "dtype") and mask.dtype == bool):
        raise TypeError(f"mask: got {check.describe(mask)}, expected an array of bool")
    if mask.ndim == 0 or mask.ndim >= outputs.ndim or mask.shape != outputs.shape[: mask.ndim]:
        raise ValueError(
            f"mask: got {check.describe(mask)}, expected the first axes of the outputs "
            f"{check.describe(outputs)}, time among them and features not"
        )
    return jnp.asarray(mask)
