"""The real-gated linear recurrent unit of De et al. (2024)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.cells import heads, kernels
from jaxrnn.cells.gated import GateInputs, Parameter
from jaxrnn.cells.linear import Affine, ChannelwiseCell, InputAffineCell
from jaxrnn.types import Array, Key, Params, State

# The ring of exp(-softplus(Λ)) at the start.
A_MIN = 0.9
A_MAX = 0.999
# Below this number, log(softplus(x)) is x in every dtype, since softplus(x) = eˣ - e²ˣ/2 + ….
SMALLEST_SOFTPLUS = -40.0


@dataclasses.dataclass(frozen=True, repr=False)
class rg_lru(ChannelwiseCell, InputAffineCell):
    """The RG-LRU: a linear recurrence whose decay and input are gated by the input.

        u_t = x_t W_x with `input_projection`,    u_t = x_t without                          (G1)
        r_t = σ(u_t W_r + b_r),    i_t = σ(u_t W_i + b_i)                                    (G2)
        log a_t = -c softplus(Λ) ⊙ r_t                                                       (G3)
        h_t = a_t ⊙ h_{t-1} + √(1 - a_t²) ⊙ (i_t ⊙ u_t),    y_t = h_t                        (G4)

    where W_r and W_i are block-diagonal; the paper calls them W_a and W_x. This is the recurrence
    of `jaxrnn.cells.linear` with a = a_t and b = √(1 - a_t²) ⊙ i_t ⊙ u_t. Backward, with
    λ_t = ∂L/∂h_t,

        λ_{t-1} = λ_t ⊙ a_t                                                                  (G5)
        ∂L/∂a_t = λ_t ⊙ h_{t-1},    ∂L/∂b_t = λ_t                                            (G6)

    and JAX differentiates (G3) to (G1), which are outside the loop. Both factors are computed from
    ℓ = log(-log a), where

        m = √(1 - a²) = √(1 - exp(-2 eˡ)),    ∂m/∂ℓ = exp(ℓ - 2 eˡ) / m                      (G7)

    is finite for all ℓ, and goes to 0 as a goes to 1. The slope of the square root alone goes to
    infinity there; published code clips it.

    Parameters: `a_param (H)`, which is Λ, `w_r`, `w_i` `(K, H/K, H/K)`, the K blocks of W_r and
    W_i, `b_r`, `b_i` `(H)`, and `w_x (I, H)` with `input_projection`, all of one floating-point
    dtype; `init` draws the kernels Lecun-normal, and Λ such that exp(-softplus(Λ)) is uniform over
    the area of the ring from 0.9 to 0.999, as the published code does. The carry is h
    `(*batch, H)`, of float32 at least. Inputs are x `(*batch, I)`, outputs are h `(*batch, H)` of
    the params' dtype, dimensionless.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        num_blocks: K, which divides H; ValueError otherwise.
        c: the factor of (G3), above 0; ValueError otherwise.
        input_projection: whether u_t is a projection of the inputs. Without it, I must be H;
            ValueError otherwise.

    Gradient: exact, hand-written. Time: no product in the loop; O(H) for each step and row, in
    order. Memory: h and a in the loop; u, the gates and the factors of b before it, O(T·B·H).

    Source: S. De, S. L. Smith, A. Fernando, A. Botev, G. Cristian-Muraru, A. Gu, et al., "Griffin:
    mixing gated linear recurrences with local attention for efficient language models" (2024),
    arXiv:2402.19427.
    """

    num_blocks: int = dataclasses.field(default=1, kw_only=True)
    c: float = dataclasses.field(default=8.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check.require_int("num_blocks", self.num_blocks, least=1)
        divides = self.hidden_size % self.num_blocks == 0
        expected = f"a divisor of {self.hidden_size}, the hidden_size"
        check.require(divides, "num_blocks", self.num_blocks, expected)
        c = check.require_finite("c", self.c)
        self.replace_fields(c=check.require_positive("c", c))

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters other than `w_x`, by name."""
        size = self.hidden_size // self.num_blocks
        kernel = Parameter(
            (self.num_blocks, size, size), jax.nn.initializers.lecun_normal(batch_axis=0)
        )
        bias = Parameter((self.hidden_size,), jax.nn.initializers.zeros)
        a_param = Parameter((self.hidden_size,), _draw_a_param)
        return {"a_param": a_param, "w_r": kernel, "b_r": bias, "w_i": kernel, "b_i": bias}

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """Returns the zero state h, of float32 at least, since h is a sum over time."""
        return kernels.zeros(self.hidden_size, batch_shape, kernels.at_least_float32(dtype))

    def project(self, params: Params, xs: Array) -> GateInputs:
        """Returns a and b of the recurrence."""
        us = self.project_inputs(params, xs)  # (G1)
        x_r = kernels.add_bias(_block_product(us, params["w_r"]), params["b_r"])
        x_i = kernels.add_bias(_block_product(us, params["w_i"]), params["b_i"])
        # ℓ = log(-log a) = log c + log softplus(Λ) + log r, by (G3).
        log_decay = math.log(self.c) + _log_softplus(kernels.widen(params["a_param"]))
        log_decays = kernels.add_bias(log_sigmoid(x_r), log_decay)
        a = jnp.exp(-jnp.exp(log_decays))  # (G3)
        return GateInputs(Affine(a, _input_scale(log_decays) * (sigmoid(x_i) * us)))  # (G4)

    def output(self, params: Params, carries: State) -> State:
        """Returns the state in the dtype of the parameters, y = h."""
        check.require_params("rg_lru", params, self.parameter_shapes)
        return carries.astype(params["a_param"].dtype)


def _block_product(us: State, w: Array) -> State:
    """Returns u W for a block-diagonal W."""
    return heads.join_heads(heads.dot(heads.split_heads(us, len(w)), w))


def _draw_a_param(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws Λ so that exp(-softplus(Λ)) is uniform over the area of the ring."""
    square = jax.random.uniform(key, shape, dtype, A_MIN**2, A_MAX**2)
    # Uniform in the square of the radius is uniform over the area of the ring.
    softplus_of_param = -jnp.log(square) / 2
    return kernels.inverse_softplus(softplus_of_param)


def _log_softplus(x: jax.Array) -> jax.Array:
    """Returns log(softplus(x)), which is finite where softplus(x) underflows."""
    is_small = x < SMALLEST_SOFTPLUS
    # The branch that is not taken has to be finite too, or its slope would make the gradient NaN.
    safe = jnp.where(is_small, 0, x)
    return jnp.where(is_small, x, jnp.log(jax.nn.softplus(safe)))


@jax.custom_jvp
def _input_scale(log_decays: jax.Array) -> jax.Array:
    """Returns m of (G7), whose slope JAX would compute as 0 · ∞ where m is 0."""
    return jnp.sqrt(-jnp.expm1(-2 * jnp.exp(log_decays)))


@_input_scale.defjvp
def _input_scale_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (log_decays,) = primals
    (tangent,) = tangents
    scales = _input_scale(log_decays)
    is_zero = scales == 0  # where e^ℓ underflows
    slopes = jnp.exp(log_decays - 2 * jnp.exp(log_decays)) / jnp.where(is_zero, 1, scales)
    return scales, jnp.where(is_zero, 0, slopes) * tangent  # (G7)
