"""Products with recurrent and input kernels, in narrow and wide dtypes.

Gates lie next to each other in the last axis of a kernel, `(I, G·H)`. Over time they are separate
arrays, since a loop that slices gates out of one array at every step is slower.

With parameters of 16 bits, kernels stay narrow and states are float32. A product rounds the state
to the dtype of the kernel and sums in float32, which is what the matrix units of accelerators do:

    x: float32[3,4], w: bfloat16[4,8]    ->    dot(x, w): float32[3,8]
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Inexact

from jaxrnn import check
from jaxrnn.types import Array, PyTree, State

# A zero cotangent in the place of an array, as loops and JAX take it: no zeros are added up.
NO_GRADIENT: PyTree = None

Vector = Inexact[Array, " N"]  # one number for each feature, such as a bias or a gain
Gates = Float[Array, "*lead GH"]  # all gates, concatenated
Matrix = Float[Array, "I H"]


class RecurrentKernel(NamedTuple):
    """A recurrent kernel as the loop uses it, p = (k ⊙ h) W.

    Fields:
        w: W `(H, G·H)`; `(N, H/N, G·H/N)` if block-diagonal, see `jaxrnn.cells.heads`.
        w_t: Wᵀ for the backward pass, transposed once, since a product with `w.T` in the loop is
            slower. A gradient has none of it: that of W is the whole gradient.
        dropout_mask: k `(*batch, H)`, the same at all steps; None without dropout.
    """

    w: Array
    w_t: Array
    dropout_mask: Array | None = None


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
    return RecurrentKernel(gradient, NO_GRADIENT)


def dot(x: Float[Array, "*lead I"], w: Matrix) -> Float[jax.Array, "*lead H"]:
    """Returns x W, with factors in the dtype of W, and sums and result in the dtype of x."""
    return jnp.matmul(x.astype(w.dtype), w, preferred_element_type=x.dtype)


def scale(x: Inexact[Array, "*lead H"], factor: Array | None) -> Inexact[Array, "*lead H"]:
    """Returns x ⊙ factor, broadcast over the leading axes of x; x itself if `factor` is None.

    The broadcast is explicit, since some users make rank promotion an error.
    """
    return x if factor is None else x * jnp.broadcast_to(factor, x.shape).astype(x.dtype)


def split_gates(x: Gates, num_gates: int) -> Sequence[jax.Array]:
    """Splits `(..., G·H)` into G arrays `(..., H)`.

    The transpose of this split is one concatenation; that of slices would be pads and additions.
    """
    size = x.shape[-1] // num_gates
    return jax.lax.split(x, (size,) * num_gates, axis=x.ndim - 1)


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
    time_and_batch = tuple(range(deltas.ndim - 1))
    return jnp.tensordot(
        inputs.astype(w.dtype),
        deltas.astype(w.dtype),
        axes=(time_and_batch, time_and_batch),
        preferred_element_type=deltas.dtype,
        # The sum runs over rows that may be sharded over devices; the gradient lies as W does.
        out_sharding=jax.typeof(w).sharding,
    )


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """Returns `dtype`, or float32 if `dtype` is narrower.

    Orthogonal initialisation and complex numbers need at least float32.
    """
    dtypes = (check.require_floating("dtype", dtype), jnp.dtype("float32"))
    return max(dtypes, key=lambda dtype: dtype.itemsize)


def widen(tree: PyTree) -> PyTree:
    """Returns a tree whose floating-point arrays narrower than float32 are float32."""

    def widen_array(x: Array) -> Array:
        # Integers and keys stay; so do complex numbers, which are never narrow.
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            return x
        return jnp.asarray(x, at_least_float32(x.dtype))

    return jax.tree.map(widen_array, tree)


def cast_parameters(params: dict[str, jax.Array], dtype: DTypeLike) -> dict[str, jax.Array]:
    """Returns parameters in `dtype`; `init` draws them wide, and rounds at the end.

    So a narrow parameter is the wide one of the same key, rounded.
    """
    return {name: array.astype(dtype) for name, array in params.items()}


def inverse_softplus(y: jax.Array) -> jax.Array:
    """Returns x such that softplus(x) = y, for y > 0."""
    # log(e^y - 1) = y + log(1 - e^{-y}), which neither overflows nor cancels.
    return y + jnp.log(-jnp.expm1(-y))


def zeros(
    features: int | tuple[int, ...], batch_shape: tuple[int, ...], dtype: DTypeLike
) -> Float[Array, "..."]:
    """Returns zeros `(*batch_shape, *features)`; an int is one axis of features."""
    features = (features,) if isinstance(features, int) else features
    check.require_option_type("batch_shape", batch_shape, isinstance(batch_shape, tuple), "a tuple")
    for size in batch_shape:
        # A program that `jax.export` writes for any batch size has a symbol here.
        is_symbolic = jax.export.is_symbolic_dim(size)
        fits = is_symbolic or (isinstance(size, (int, np.integer)) and size >= 0)
        check.require(fits, "batch_shape", batch_shape, "sizes that are ints of at least 0")
    return jnp.zeros((*batch_shape, *features), check.require_floating("dtype", dtype))
