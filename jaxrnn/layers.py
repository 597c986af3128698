"""The maps around a recurrence: an embedding for tokens, a linear readout, dropout."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Integer

from jaxrnn import check
from jaxrnn.transforms.noise import dropout_factors, separate_noise
from jaxrnn.types import Array, Carry, Key, Layer, Params, PyTree


@dataclasses.dataclass(frozen=True, repr=False)
class linear(Layer):
    """A linear map of hidden states to outputs, o = h W_o + b_o.

    Args:
        output_size: O, at least 1; ValueError below, TypeError if not an int.

    Returns:
        A Layer: `init(key, input_size=H)` gives `w_o (H, O)`, Lecun-normal, and `b_o (O)`, zero;
        `apply(params, hs)` maps `(..., H)` to `(..., O)`. TypeError or ValueError where params or
        hs do not fit.

    Gradient: exact, by JAX; one product over all leading axes.
    """

    output_size: int

    def __post_init__(self) -> None:
        check.require_int("output_size", self.output_size, least=1)

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws W_o Lecun-normal; b_o is zero."""
        shape = (check.require_int("input_size", input_size, least=1), self.output_size)
        dtype = check.require_floating("dtype", dtype)
        check.require_key("key", key)
        w_o = jax.nn.initializers.lecun_normal()(key, shape, dtype)
        return {"w_o": w_o, "b_o": jnp.zeros(self.output_size, dtype)}

    def apply(self, params: Params, inputs: Float[Array, "*lead H"]) -> Float[jax.Array, "*lead O"]:
        """o = h W_o + b_o, over any leading axes."""
        shapes = {"w_o": (None, self.output_size), "b_o": (self.output_size,)}
        check.require_params("linear", params, shapes)
        check.require_features("inputs", "linear", inputs, size=params["w_o"].shape[0])
        outputs = jnp.asarray(inputs, params["w_o"].dtype) @ params["w_o"]
        return outputs + jnp.broadcast_to(params["b_o"], outputs.shape)


@dataclasses.dataclass(frozen=True, repr=False)
class embedding(Layer):
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

    output_size: int

    def __post_init__(self) -> None:
        check.require_int("output_size", self.output_size, least=1)

    @property
    def num_feature_axes(self) -> int:
        """0: inputs are tokens."""
        return 0

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws W_e standard normal."""
        shape = (check.require_int("input_size", input_size, least=1), self.output_size)
        dtype = check.require_floating("dtype", dtype)
        check.require_key("key", key)
        return {"w_e": jax.random.normal(key, shape, dtype)}

    def apply(self, params: Params, inputs: Integer[Array, "*lead"]) -> Float[jax.Array, "*lead I"]:
        """The vectors of tokens with any leading axes."""
        check.require_params("embedding", params, {"w_e": (None, self.output_size)})
        check.require_integer_array("tokens", inputs)
        rows = jnp.asarray(params["w_e"]).at[jnp.asarray(inputs)]
        # A token that does not exist has no vector: neither the last one's (JAX's clipping) nor,
        # where it is negative, one counted from the end.
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


@dataclasses.dataclass(frozen=True, repr=False)
class dropout(Layer):
    """Dropout on the features of every step, y = k ⊙ x.

    k is drawn anew for every number, 1/(1-rate) with probability 1 - rate and else 0. For one mask
    for all time see `jaxrnn.transforms.variational_dropout`.

    Args:
        rate: in [0, 1); ValueError outside, TypeError if not a number.

    Returns:
        A Layer without parameters, to stand in `stacked`: with `unroll(key=...)` it draws k,
        without a key it hands its inputs on. TypeError for inputs that are not floating point, such
        as tokens.

    Gradient: exact for the noise drawn.

    Source: N. Srivastava et al., "Dropout", JMLR 15 (2014).
    """

    rate: float

    def __post_init__(self) -> None:
        self.replace_fields(rate=check.require_rate("rate", self.rate))

    @property
    def is_noisy(self) -> bool:
        """True."""
        return True

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """The empty tuple."""
        return ()

    def apply(self, params: Params, inputs: Any) -> Any:
        """k ⊙ x where k was drawn, else x."""
        xs, keep = separate_noise(inputs)
        check.require_type(hasattr(xs, "dtype"), "xs", xs, "an array for dropout")
        floats = "floating point for dropout (embed tokens first, jaxrnn.embedding)"
        check.require_type(check.is_inexact(xs), "xs", xs, floats)
        return xs if keep is None else xs * dropout_factors(keep, self.rate, xs.dtype)

    def draw_noise(
        self, key: Key, params: Params, carry: Carry, xs: Array
    ) -> tuple[PyTree, PyTree]:
        """Where each number of the inputs is kept, drawn anew at every step."""
        keep = jax.random.bernoulli(key, 1 - self.rate, xs.shape)
        return (None, None), (keep, None)
