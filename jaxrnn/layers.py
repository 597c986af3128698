"""Layers around a recurrence: embedding, linear map, dropout."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Integer

from jaxrnn import check
from jaxrnn.transforms.noise import dropout_factors, separate_noise
from jaxrnn.types import Array, Carry, Key, Layer, Params, PyTree, WithNoise


@dataclasses.dataclass(frozen=True, repr=False)
class linear(Layer):
    """A linear map from hidden states to outputs, o = h W_o + b_o.

    Parameters: `w_o (H, O)`, initialised Lecun-normal, and `b_o (O)`, initialised to zero;
    `init(key, input_size=H)` draws them. `apply(params, hs)` maps `(..., H)` to `(..., O)`, and
    raises TypeError or ValueError if params or hs do not fit.

    Args:
        output_size: O, at least 1; ValueError below, TypeError if not an int.

    Gradient: exact, derived by JAX; one product over all leading axes.
    """

    output_size: int

    def __post_init__(self) -> None:
        check.require_int("output_size", self.output_size, least=1)

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws W_o Lecun-normal, and sets b_o to zero."""
        check.require_int("input_size", input_size, least=1)
        dtype = check.require_floating("dtype", dtype)
        check.require_key("key", key)
        shape = (input_size, self.output_size)
        w_o = jax.nn.initializers.lecun_normal()(key, shape, dtype)
        return {"w_o": w_o, "b_o": jnp.zeros(self.output_size, dtype)}

    def apply(self, params: Params, inputs: Float[Array, "*lead H"]) -> Float[jax.Array, "*lead O"]:
        """Returns o = h W_o + b_o, for hidden states with any leading axes."""
        shapes = {"w_o": (None, self.output_size), "b_o": (self.output_size,)}
        check.require_params("linear", params, shapes)
        check.require_features("inputs", "linear", inputs, size=params["w_o"].shape[0])
        outputs = jnp.asarray(inputs, params["w_o"].dtype) @ params["w_o"]
        return outputs + jnp.broadcast_to(params["b_o"], outputs.shape)


@dataclasses.dataclass(frozen=True, repr=False)
class embedding(Layer):
    """A learned vector for each token, x = W_e[token].

    Parameters: `w_e (V, I)`, initialised standard normal; `init(key, input_size=V)` draws it.
    `apply(params, tokens)` maps integers `(...)` in [0, V) to `(..., I)`, and raises TypeError or
    ValueError if params or tokens do not fit. A token outside this range gives NaN. A network that
    begins with an embedding takes tokens `(T, *batch)`, without a feature axis.

    Args:
        output_size: I, the number of features of each vector, at least 1; ValueError below,
            TypeError if not an int.

    Gradient: exact, derived by JAX; a scatter-add into `(V, I)`.
    """

    output_size: int

    def __post_init__(self) -> None:
        check.require_int("output_size", self.output_size, least=1)

    @property
    def num_feature_axes(self) -> int:
        """0, since inputs are tokens."""
        return 0

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws W_e standard normal."""
        check.require_int("input_size", input_size, least=1)
        dtype = check.require_floating("dtype", dtype)
        check.require_key("key", key)
        return {"w_e": jax.random.normal(key, (input_size, self.output_size), dtype)}

    def apply(self, params: Params, inputs: Integer[Array, "*lead"]) -> Float[jax.Array, "*lead I"]:
        """Returns the vectors of tokens with any leading axes."""
        check.require_params("embedding", params, {"w_e": (None, self.output_size)})
        check.require_integer_array("tokens", inputs)
        rows = jnp.asarray(params["w_e"]).at[jnp.asarray(inputs)]
        # A token outside the table must not get a vector. By default JAX clips an index to the last
        # row, and counts a negative index from the end.
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


@dataclasses.dataclass(frozen=True, repr=False)
class dropout(Layer):
    """Dropout on the features of every step, y = k ⊙ x.

    Each number of k is drawn independently: it is 1/(1-rate) with probability 1 - rate, and 0
    otherwise. For one mask at all steps see `jaxrnn.transforms.variational_dropout`.

    Parameters: none; params is the empty tuple. With `unroll(key=...)` the layer draws k. Without a
    key it returns its inputs. Raises TypeError for inputs that are not floating point, such as
    tokens.

    Args:
        rate: in [0, 1); ValueError outside, TypeError if not a number.

    Gradient: exact for the drawn noise.

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
        """Returns the empty tuple."""
        return ()

    def apply(self, params: Params, inputs: Array | WithNoise) -> Array:
        """Returns k ⊙ x if k was drawn, else x."""
        xs, keep = separate_noise(inputs)
        check.require_type(hasattr(xs, "dtype"), "xs", xs, "an array for dropout")
        expected = "floating point for dropout (embed tokens first, jaxrnn.embedding)"
        check.require_type(check.is_inexact(xs), "xs", xs, expected)
        if keep is None:
            return xs
        return xs * dropout_factors(keep, self.rate, xs.dtype)

    def draw_noise(
        self, key: Key, params: Params, carry: Carry, xs: Array
    ) -> tuple[PyTree, PyTree]:
        """Draws which numbers of the inputs are kept, independently at every step."""
        keep = jax.random.bernoulli(key, 1 - self.rate, xs.shape)
        # Pairs of the noise of this part and of a part inside it, of which a layer has none.
        return (None, None), (keep, None)
