"""The maps around a recurrence: an embedding for tokens, a linear readout, dropout."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Integer

from jaxrnn import check
from jaxrnn.transforms.noise import factors, opened
from jaxrnn.types import Array, Carry, Key, Layer, Params, once


@once
def readout(output_size: int) -> Layer:
    """A linear map of hidden states to outputs, o = h W_o + b_o.

    Args:
        output_size: O, at least 1; ValueError below, TypeError if not an int.

    Returns:
        A Layer: `init(key, input_size=H)` gives `w_o (H, O)`, Lecun-normal, and `b_o (O)`, zero;
        `apply(params, hs)` maps `(..., H)` to `(..., O)`. TypeError or ValueError where params or
        hs do not fit.

    Gradient: exact, by JAX; one product over all leading axes.
    """
    check.integer("output_size", output_size, least=1)

    def init(key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        shape = (check.integer("input_size", input_size, least=1), output_size)
        dtype = check.floating("dtype", dtype)
        check.key("key", key)
        w_o = jax.nn.initializers.lecun_normal()(key, shape, dtype)
        return {"w_o": w_o, "b_o": jnp.zeros(output_size, dtype)}

    def apply(params: Params, hs: Float[Array, "*lead H"]) -> Float[jax.Array, "*lead O"]:
        check.params_fit("readout", params, {"w_o": (None, output_size), "b_o": (output_size,)})
        check.features("hs", "readout", hs, size=params["w_o"].shape[0])
        outputs = jnp.asarray(hs, params["w_o"].dtype) @ params["w_o"]
        return outputs + jnp.broadcast_to(params["b_o"], outputs.shape)

    return Layer(init, apply)


@once
def embedding(output_size: int) -> Layer:
    """A learned vector for each token, x = W_e[token].

    Args:
        output_size: I, the features of each vector, at least 1; ValueError below, TypeError if not
            an int.

    Returns:
        A Layer: `init(key, input_size=V)` gives `w_e (V, I)`, standard normal; `apply(params,
        tokens)` maps integers `(...)` in [0, V) to `(..., I)`. A token outside gives NaN. TypeError
        or ValueError where params or tokens do not fit. A network that begins with it takes tokens
        `(T, *batch)`, without an axis of features.

    Gradient: exact, by JAX; a scatter-add into `(V, I)`.
    """
    check.integer("output_size", output_size, least=1)

    def init(key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        shape = (check.integer("input_size", input_size, least=1), output_size)
        dtype = check.floating("dtype", dtype)
        check.key("key", key)
        return {"w_e": jax.random.normal(key, shape, dtype)}

    def apply(params: Params, tokens: Integer[Array, "*lead"]) -> Float[jax.Array, "*lead I"]:
        check.params_fit("embedding", params, {"w_e": (None, output_size)})
        check.integers("tokens", tokens)
        rows = jnp.asarray(params["w_e"]).at[jnp.asarray(tokens)]
        # A token that does not exist has no vector: neither the last one's (JAX's clipping) nor,
        # where it is negative, one counted from the end.
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    return Layer(init, apply, num_feature_axes=0)


@once
def dropout(rate: float) -> Layer:
    """Dropout on the features of every step, y = k ⊙ x.

    k is drawn anew for every number, 1/(1-rate) with probability 1 - rate and else 0. For one mask
    for all time see `jaxrnn.variational`.

    Args:
        rate: in [0, 1); ValueError outside, TypeError if not a number.

    Returns:
        A Layer without parameters, to stand in `stacked`: with `unroll(key=...)` it draws k,
        without a key it hands its inputs on. TypeError for inputs that are not floating point, such
        as tokens.

    Gradient: exact for the noise drawn.

    Source: N. Srivastava et al., "Dropout", JMLR 15 (2014).
    """
    check.rate("rate", rate)

    def init(key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        return ()

    def apply(params: Params, xs: Any) -> Any:
        xs, keep = opened(xs)
        check.kind(hasattr(xs, "dtype"), "xs", xs, "an array for dropout")
        floats = "floating point for dropout (embed tokens first, jaxrnn.embedding)"
        check.kind(check.is_inexact(xs), "xs", xs, floats)
        return xs if keep is None else xs * factors(keep, rate, xs.dtype)

    def noise(key: Key, params: Params, carry: Carry, xs: Array) -> tuple[Any, Any]:
        return (None, None), (jax.random.bernoulli(key, 1 - rate, xs.shape), None)

    return Layer(init, apply, noise)
