"""Heads: the features of a state split into N parts, each with a recurrent kernel of its own.

A state is `(*lead, H)`, by heads `(*lead, N, H/N)`. A block-diagonal kernel is `(N, H/N, G·H/N)`,
with the gates of a head next to each other. For two heads and H = 4, h = [h_1 h_2] and

    h W = [h_1 h_2] [W_1  0 ]  = [h_1 W_1   h_2 W_2]
                    [ 0  W_2]

so each head is a recurrence of its own, which meets the others in the next layer only.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.kernels import RecurrentKernel
from jaxrnn.types import Array, Params, State

ByHead = Float[Array, "*lead N F"]
Matrices = Float[Array, "*lead N K V"]  # one for each head
Blocks = Float[Array, "N F E"]


def require_num_heads(num_heads: int, hidden_size: int) -> None:
    """Raises an error unless `num_heads` is a divisor of the hidden size."""
    check.require_int("num_heads", num_heads, least=1)
    fits = hidden_size % num_heads == 0
    check.require(fits, "num_heads", num_heads, f"a divisor of hidden_size = {hidden_size}")


def split_heads(x: State, num_heads: int) -> ByHead:
    """Returns `(*lead, H)` as `(*lead, N, H/N)`."""
    *lead, size = x.shape
    return jnp.reshape(x, (*lead, num_heads, size // num_heads))


def join_heads(x: ByHead) -> State:
    """Returns `(*lead, N, H/N)` as `(*lead, H)`; the inverse of `split_heads`."""
    *lead, num_heads, size = x.shape
    return jnp.reshape(x, (*lead, num_heads * size))


def project(params: Params, xs: Array, widths: Sequence[int]) -> Sequence[Array]:
    """Returns x W_x + b, split into arrays `(*lead, width)`."""
    products = jnp.asarray(xs, params["w_x"].dtype) @ params["w_x"]
    products = kernels.add_bias(products, params["b"])
    return jax.lax.split(products, tuple(widths), axis=products.ndim - 1)


def inner(a: ByHead, b: ByHead) -> Float[Array, "*lead N"]:
    """Returns a bᵀ for each head."""
    return jnp.sum(a * b, axis=-1)


def outer(a: Float[Array, "*lead N K"], b: Float[Array, "*lead N V"]) -> Matrices:
    """Returns aᵀ b for each head."""
    return a[..., :, None] * b[..., None, :]


def vector_matrix(a: Float[Array, "*lead N K"], m: Matrices) -> Float[Array, "*lead N V"]:
    """Returns a M for each head."""
    return jnp.einsum("...k,...kv->...v", a, m)


def matrix_vector(m: Matrices, b: Float[Array, "*lead N V"]) -> Float[Array, "*lead N K"]:
    """Returns b Mᵀ for each head."""
    return jnp.einsum("...kv,...v->...k", m, b)


def dot(x: ByHead, blocks: Blocks) -> Float[Array, "*lead N E"]:
    """Returns x_n W_n for each head n; dtypes are those of `kernels.dot`."""
    narrow = x.astype(blocks.dtype)
    return jnp.einsum("...nf,nfe->...ne", narrow, blocks, preferred_element_type=x.dtype)


def recurrent_gates(hs: State, kernel: RecurrentKernel, num_gates: int) -> Sequence[State]:
    """Returns p = (k ⊙ h) W for a block-diagonal W, one array `(*lead, H)` for each gate."""
    by_head = split_heads(kernels.scale(hs, kernel.dropout_mask), len(kernel.w))
    products = kernels.split_gates(dot(by_head, kernel.w), num_gates)
    return [join_heads(p) for p in products]


def recurrent_gates_adjoint(deltas: Sequence[State], kernel: RecurrentKernel) -> State:
    """Returns ∂L/∂h = k ⊙ (δ Wᵀ), with δ = ∂L/∂p, one array for each gate."""
    d_h = join_heads(dot(_gates_by_head(deltas, kernel), kernel.w_t))
    return kernels.scale(d_h, kernel.dropout_mask)


def recurrent_gates_gradient(
    hs: State, deltas: Sequence[State], kernel: RecurrentKernel
) -> RecurrentKernel:
    """Returns ∂L/∂W = Σ (k ⊙ h)ᵀ δ over time and batch in each block, as one matrix product.

    The mask has no gradient.
    """
    by_head = split_heads(kernels.scale(hs, kernel.dropout_mask), len(kernel.w))
    delta = _gates_by_head(deltas, kernel)
    # The sum runs over time and batch; the axis of heads is that of a batch of products.
    time_and_batch = tuple(range(delta.ndim - 2))
    head = (delta.ndim - 2,)
    gradient = jax.lax.dot_general(
        by_head.astype(kernel.w.dtype),
        delta.astype(kernel.w.dtype),
        ((time_and_batch, time_and_batch), (head, head)),
        preferred_element_type=delta.dtype,
        out_sharding=jax.typeof(kernel.w).sharding,
    )
    return RecurrentKernel(gradient, kernels.NO_GRADIENT)


def _gates_by_head(deltas: Sequence[State], kernel: RecurrentKernel) -> ByHead:
    """Returns the cotangents of all gates `(*lead, N, G·H/N)`, those of a head together."""
    return kernels.join_gates(*(split_heads(delta, len(kernel.w)) for delta in deltas))
