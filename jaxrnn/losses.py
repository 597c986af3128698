"""Losses over time: the mean of the per-step losses over all valid steps."""

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
    """Returns the mean of per-step losses over time and batch.

        L = Σ_t m_t ℓ(o_t, y_t) / max(1, Σ_t m_t)                                            (1)

    where m_t = 1 without a mask. Where the mask is False, outputs and targets are replaced by zeros
    before the loss is computed, so NaN or an invalid label in the padding reaches neither value nor
    gradient.

    Args:
        loss: an elementwise loss, such as `optax.l2_loss`, or a loss over the last axis, such as
            `optax.softmax_cross_entropy_with_integer_labels`. It returns one number for each
            element or for each step.
        outputs: o, `(T, *batch, O)`.
        targets: y, with the shape of the outputs, or that shape without the last axis.
        mask: m, bool `(T, ...)`, True where a step is valid. Its axes are the first axes of the
            outputs, time included and features excluded.

    Returns:
        L, a scalar of the outputs' dtype; 0 if T = 0 or no step is valid. For an elementwise loss,
        the mean is over features too.

    Raises:
        ValueError: if shapes do not fit, or the loss broadcasts its arguments.
        TypeError: if the mask is not boolean.

    Gradient: exact. Time and memory: those of the loss.

    Examples:
        >>> outputs = jnp.array([[1.0], [2.0], [5.0]])  # (time, features)
        >>> mask = jnp.array([True, True, False])
        >>> print(jaxrnn.masked_mean(optax.squared_error, outputs, jnp.zeros((3, 1)), mask=mask))
        2.5
    """
    check.require_callable("loss", loss, takes=2)
    for name, x in (("outputs", outputs), ("targets", targets)):
        check.require_type(hasattr(x, "dtype"), name, x, "an array")
    check.require_arrays(outputs=outputs, targets=targets)
    outputs = jnp.asarray(outputs)
    targets = jnp.asarray(targets)
    _check_shapes(outputs, targets, mask)
    if mask is not None:
        # Before the loss: a NaN that is left out of the sum afterwards has a gradient of NaN.
        outputs = jnp.where(tree.expand_mask(mask, outputs), outputs, 0)
        targets = jnp.where(tree.expand_mask(mask, targets), targets, 0)
    _check_loss(loss, outputs, targets)
    losses = loss(outputs, targets).astype(outputs.dtype)
    # The sum and the count of a long sequence need more than 16 bits.
    wide = jnp.float32 if jnp.finfo(losses.dtype).bits < 32 else losses.dtype
    if mask is None:
        valid = None
        count = jnp.asarray(losses.size, wide)
    else:
        # The mask covers the first axes of the losses; each of their numbers counts.
        valid = jnp.broadcast_to(tree.expand_mask(mask, losses), losses.shape)
        count = jnp.asarray(jnp.sum(valid), wide)
    total = jnp.sum(losses, dtype=wide, where=valid)
    return (total / jnp.maximum(1, count)).astype(losses.dtype)  # (1)


def _check_shapes(outputs: jax.Array, targets: jax.Array, mask: Array | None) -> None:
    """Raises an error unless targets and mask fit the outputs."""
    check.require_floating("outputs", outputs.dtype)
    shown_outputs = f"the outputs {check.describe(outputs)}"
    fits = outputs.ndim > 0 and targets.shape in (outputs.shape, outputs.shape[:-1])
    expected = f"the shape of {shown_outputs} with or without the last axis"
    check.require(fits, "targets", targets, expected)
    if mask is not None:
        check.require_bool_array("mask", mask)
        fits = 0 < mask.ndim < outputs.ndim and mask.shape == outputs.shape[: mask.ndim]
        expected = f"the first axes of {shown_outputs}, time included and features not"
        check.require(fits, "mask", mask, expected)


def _check_loss(
    loss: Callable[[Array, Array], Array], outputs: jax.Array, targets: jax.Array
) -> None:
    """Raises an error unless the loss returns one number for each element or for each step."""
    losses = jax.eval_shape(loss, outputs, targets)
    # An elementwise loss would broadcast targets that have no last axis, such as (T, B) targets
    # with (T, B, O) outputs, to losses that belong to no step.
    fits = getattr(losses, "shape", None) in (outputs.shape[:-1], targets.shape)
    expected = f"one a step or one an element of the outputs {check.describe(outputs)}"
    expected += f"; targets were {check.describe(targets)}"
    check.require(fits, "loss", f"losses {check.describe(losses)}", expected)
