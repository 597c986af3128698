"""What cells share: how kernels start, how gates lie side by side, the product inside the loop.

Gates lie side by side in the last axis of a kernel, `(I, G·H)`, and apart wherever time passes over
them: a loop that slices them out of one array at every step is slower than one that is handed them.

Noise has two places in a cell, each None until `jaxrnn.transforms` puts something there: in
`Kernel.keep` it scales the state that a product sees, in `Drive.keep` the candidate.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float, Inexact

from jaxrnn import check
from jaxrnn.types import Array, Params


class Kernel(NamedTuple):
    """A recurrent kernel as the loop uses it, p = (k ⊙ h) W.

    Fields:
        w: W `(H, G·H)`.
        w_t: Wᵀ for the way back, made once: a product with `w.T` in the loop is slower. None in a
            gradient.
        keep: k `(*batch, H)`, what noise leaves of h for all time; None for all.
    """

    w: Float[Array, "H GH"]
    w_t: Any
    keep: Float[Array, "*batch H"] | None = None


class Drive(NamedTuple):
    """What drives a cell with a candidate at a step.

    Fields:
        gates: the input's share of each gate.
        keep: `(*lead, H)`, what noise leaves of the candidate; None for all.
    """

    gates: Any
    keep: Float[Array, "*lead H"] | None = None


def kernel(w: Float[Array, "H GH"]) -> Kernel:
    """W with its transpose beside it."""
    return Kernel(w, w.T)


def product(hs: Float[Array, "*lead H"], k: Kernel) -> Float[Array, "*lead GH"]:
    """P = (k ⊙ h) W."""
    return scaled(hs, k.keep) @ k.w


def product_adjoint(deltas: Float[Array, "*lead GH"], k: Kernel) -> Float[Array, "*lead H"]:
    """∂L/∂h = k ⊙ (δ Wᵀ), with δ = ∂L/∂p."""
    return scaled(deltas @ k.w_t, k.keep)


def product_gathered(
    hs: Float[Array, "*lead H"], deltas: Float[Array, "*lead GH"], k: Kernel
) -> Kernel:
    """∂L/∂W = Σ (k ⊙ h)ᵀ δ over time and batch, one matrix product; noise has no gradient."""
    return Kernel(summed_product(scaled(hs, k.keep), deltas), None)


def scaled(x: Inexact[Array, "*lead H"], keep: Array | None) -> Inexact[Array, "*lead H"]:
    """Take x ⊙ keep, the same for all leading axes that `keep` lacks; x where there is none."""
    return x if keep is None else x * jnp.broadcast_to(keep, x.shape).astype(x.dtype)


def initial(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    gates: int,
    dtype: DTypeLike,
    state_size: int | None = None,
) -> Params:
    """`w_x` Lecun-normal, `w_h` orthogonal gate by gate, `b` zero.

    `state_size` is what h has of features, if not `hidden_size`.
    """
    check.integer("input_size", input_size, least=1)
    orthogonal, wide = jax.nn.initializers.orthogonal(), at_least_float32(dtype)
    key_x, *keys_h = jax.random.split(key, 1 + gates)
    params = initial_input(key_x, input_size, hidden_size, gates, dtype)
    shape = (hidden_size if state_size is None else state_size, hidden_size)
    w_h = jnp.concatenate([orthogonal(k, shape, wide) for k in keys_h], axis=1)
    return {**params, "w_h": w_h.astype(dtype)}


def initial_input(
    key: jax.Array, input_size: int, hidden_size: int, gates: int, dtype: DTypeLike
) -> Params:
    """`w_x` Lecun-normal, `b` zero: all that a cell without recurrent kernel has in common."""
    check.integer("input_size", input_size, least=1)
    shape = (input_size, gates * hidden_size)
    w_x = jax.nn.initializers.lecun_normal()(key, shape, at_least_float32(dtype))
    return {"w_x": w_x.astype(dtype), "b": jnp.zeros(shape[1], dtype)}


def at_least_float32(dtype: DTypeLike) -> Any:
    """`dtype`, or float32 where it is narrower: a QR decomposition and complex numbers need it."""
    dtype = check.floating("dtype", dtype)
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype


def split_gates(x: Float[Array, "*lead GH"], gates: int) -> Sequence[jax.Array]:
    """`(..., G·H)` to G arrays `(..., H)`; transposed, one concatenation and not pads and adds."""
    size = x.shape[-1] // gates
    return lax.split(x, (size,) * gates, axis=x.ndim - 1)


def join_gates(*gates: Float[Array, "*lead H"]) -> Float[jax.Array, "*lead GH"]:
    """The inverse of `split_gates`."""
    return jnp.concatenate(gates, axis=-1)


def project_gates(
    cell: str,
    params: Params,
    xs: Array,
    gates: int,
    hidden_size: int,
    **more: tuple[int, ...] | None,
) -> list[jax.Array]:
    """Take x W_x + b over any leading axes, one array a gate; `more` as for `fitting`."""
    xs = fitting(cell, params, xs, gates, hidden_size, **more)
    kernels, biases = split_gates(params["w_x"], gates), split_gates(params["b"], gates)
    return [plus_bias(xs @ w, b) for w, b in zip(kernels, biases, strict=True)]


def fitting(
    cell: str,
    params: Params,
    xs: Array,
    gates: int,
    hidden_size: int,
    **more: tuple[int, ...] | None,
) -> jax.Array:
    """Take xs in the dtype of the params, once both are known to fit.

    `more` names the parameters that the cell has beside w_x, w_h and b, with their shapes, or says
    of one of these what shape it has; `w_h=None` that there is no recurrent kernel.
    """
    width = gates * hidden_size
    shapes = {"w_x": (None, width), "w_h": (hidden_size, width), "b": (width,), **more}
    check.params_fit(cell, params, {name: s for name, s in shapes.items() if s is not None})
    check.features("xs", cell, xs, size=params["w_x"].shape[0])
    return jnp.asarray(xs, params["w_x"].dtype)


def plus_bias(x: Float[Array, "*lead H"], b: Float[Array, " H"]) -> Float[jax.Array, "*lead H"]:
    """Add a bias over any leading axes, said aloud: to some, rank promotion is an error."""
    return jnp.add(x, jnp.broadcast_to(b, x.shape))


def zero_carry(
    hidden_size: int, batch_shape: tuple[int, ...], dtype: DTypeLike
) -> Float[jax.Array, "*batch H"]:
    """Zeros `(*batch_shape, H)`."""
    if not isinstance(batch_shape, tuple):
        kind = type(batch_shape).__name__
        raise TypeError(f"batch_shape: got {batch_shape!r} of type {kind}, expected a tuple")
    return jnp.zeros((*batch_shape, hidden_size), check.floating("dtype", dtype))


def summed(deltas: Inexact[Array, "*lead H"]) -> Inexact[jax.Array, " H"]:
    """Σ δ over time and batch, `(H,)`: the gradient of a bias."""
    return jnp.sum(deltas, axis=tuple(range(deltas.ndim - 1)))


def summed_product(
    inputs: Float[Array, "*lead I"], deltas: Float[Array, "*lead H"]
) -> Float[jax.Array, "I H"]:
    """Σ inputᵀ δ over time and batch, as one matrix product: the gradient of a kernel (4)."""
    lead = tuple(range(deltas.ndim - 1))
    return jnp.tensordot(inputs, deltas, axes=(lead, lead))
