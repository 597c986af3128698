"""Products with recurrent and input kernels, in narrow and wide dtypes.

Gates lie next to each other in the last axis of a kernel, `(I, G·H)`. Over time they are separate
arrays, since a loop that slices gates out of one array at every step is slower.
"""

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Inexact

from jaxrnn import check
from jaxrnn.types import Array, State

Vector = Inexact[Array, " N"]  # one number for each feature, such as a bias or a gain
Gates = Float[Array, "*lead GH"]  # all gates, concatenated
Matrix = Float[Array, "I H"]


class RecurrentKernel(namedtuple("RecurrentKernel", "w w_t dropout_mask", defaults=(None,))):
    """A recurrent kernel as the loop uses it, p = (k ⊙ h) W.

    Fields:
        w: W `(H, G·H)`; `(N, H/N, G·H/N)` if block-diagonal, see `jaxrnn.cells.heads`.
        w_t: Wᵀ for the backward pass, transposed once, since a product with `w.T` in the loop is
            slower. None in a gradient.
        dropout_mask: k `(*batch, H)`, the same at all steps; None without dropout.
    """


def recurrent_kernel(w: Float[Array, "H GH"]) -> RecurrentKernel:
    """Returns W together with its transpose."""
    return RecurrentKernel(w, w.T)


def recurrent_product(hs: Float[Array, "*lead H"], kernel: RecurrentKernel) -> Gates:
    """Returns p = (k ⊙ h) W."""
    return dot(scale(hs, kernel.dropout_mask), kernel.w)


def recurrent_product_adjoint(deltas: Gates, kernel: RecurrentKernel) -> Float[Array, "*lead H"]:
    """Returns ∂L/∂h = k ⊙ (δ Wᵀ), with δ = ∂L/∂p."""
    return scale(dot(deltas, kernel.w_t), kernel.dropout_mask)


def recurrent_kernel_gradient(hs: State, deltas: Gates, kernel: RecurrentKernel) -> RecurrentKernel:
    """Returns ∂L/∂W = Σ (k ⊙ h)ᵀ δ over time and batch, as one matrix product.

    The mask has no gradient.
    """
    gradient = kernel_gradient(scale(hs, kernel.dropout_mask), deltas, kernel.w)
    return RecurrentKernel(gradient, None)


def dot(x: Float[Array, "*lead I"], w: Matrix) -> Float[jax.Array, "*lead H"]:
    """Returns x W, with factors in the dtype of W, and sums and result in the dtype of x."""
    return jnp.matmul(x.astype(w.dtype), w, preferred_element_type=x.dtype)


def scale(x: Inexact[Array, "*lead H"], factor: Array | None) -> Inexact[Array, "*lead H"]:
    """Returns x ⊙ factor, broadcast over the leading axes of x; x itself if `factor` is None."""
    return x if factor is None else x * jnp.broadcast_to(factor, x.shape).astype(x.dtype)


def split_gates(x: Gates, gates: int) -> Sequence[jax.Array]:
    """Splits `(..., G·H)` into G arrays `(..., H)`.

    The transpose of this split is one concatenation; that of slices would be pads and additions.
    """
    size = x.shape[-1] // gates
    return jax.lax.split(x, (size,) * gates, axis=x.ndim - 1)


def join_gates(*gates: Float[Array, "*lead H"]) -> Float[jax.Array, "*lead GH"]:
    """Concatenates gates along the last axis; the inverse of `split_gates`."""
    return jnp.concatenate(gates, axis=-1)


def add_bias(x: Float[Array, "*lead H"], b: Vector) -> Float[jax.Array, "*lead H"]:
    """Returns x + b over any leading axes.

    The broadcast is explicit, since some users make rank promotion an error.
    """
    return jnp.add(x, jnp.broadcast_to(b, x.shape).astype(x.dtype))


def bias_gradient(deltas: Inexact[Array, "*lead H"]) -> Inexact[jax.Array, " H"]:
    """Returns Σ δ over time and batch, `(H,)`."""
    return jnp.sum(deltas, axis=tuple(range(deltas.ndim - 1)))


def kernel_gradient(inputs: Float[Array, "*lead I"], deltas: State, w: Matrix) -> Matrix:
    """Returns Σ inputᵀ δ over time and batch, as one matrix product."""
    lead = tuple(range(deltas.ndim - 1))
    return jnp.tensordot(
        inputs.astype(w.dtype),
        deltas.astype(w.dtype),
        axes=(lead, lead),
        preferred_element_type=deltas.dtype,
        out_sharding=jax.typeof(w).sharding,
    )


def at_least_float32(dtype: DTypeLike) -> Any:
    """Returns `dtype`, or float32 if `dtype` is narrower.

    Orthogonal initialisation and complex numbers need at least float32.
    """
    dtypes = check.require_floating("dtype", dtype), jnp.dtype("float32")
    return max(dtypes, key=lambda d: d.itemsize)


def widen(tree: Any) -> Any:
    """Returns a tree whose floating-point arrays narrower than float32 are float32."""

    def one(x: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            return x
        return jnp.asarray(x, at_least_float32(x.dtype))

    return jax.tree.map(one, tree)


def inverse_softplus(y: jax.Array) -> jax.Array:
    """Returns x such that softplus(x) = y, for y > 0."""
    return y + jnp.log(-jnp.expm1(-y))


def zeros(
    features: int | tuple[int, ...], batch_shape: tuple[int, ...], dtype: DTypeLike
) -> Float[Array, "..."]:
    """Returns zeros `(*batch_shape, *features)`; an int is one axis of features."""
    features = (features,) if isinstance(features, int) else features
    check.require_option_type("batch_shape", batch_shape, isinstance(batch_shape, tuple), "a tuple")
    for n in batch_shape:
        fits = jax.export.is_symbolic_dim(n) or (isinstance(n, (int, np.integer)) and n >= 0)
        check.require(fits, "batch_shape", batch_shape, "sizes that are ints of at least 0")
    return jnp.zeros((*batch_shape, *features), check.require_floating("dtype", dtype))
