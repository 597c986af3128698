"""The selective state space model S6 of Gu & Dao (2023), the recurrence of Mamba."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GateInputs, Parameter
from jaxrnn.cells.kernels import Matrix
from jaxrnn.cells.linear import REPLACED, Affine, ChannelwiseCell, apply_dropout
from jaxrnn.types import Array, Key, Params

# The range of Δ at the start.
DT_MIN = 0.001
DT_MAX = 0.1


class SSMCarry(NamedTuple):
    """The carry of `selective_ssm`.

    Fields:
        h: the state h_t `(*batch, H, N)`.
        c: C_t `(*batch, N)`, which the output reads; a step does not depend on its old value.
        u: u_t `(*batch, H)`, as C_t.
    """

    h: Float[Array, "*lead H N"]
    c: Float[Array, "*lead N"]
    u: Float[Array, "*lead H"]


class SelectiveInputs(NamedTuple):
    """What an input contributes to a step: u_t and Δ_t `(*lead, H)`, B_t and C_t `(*lead, N)`."""

    u: Float[Array, "*lead H"]
    dt: Float[Array, "*lead H"]
    b: Float[Array, "*lead N"]
    c: Float[Array, "*lead N"]


@dataclasses.dataclass(frozen=True, repr=False)
class selective_ssm(ChannelwiseCell):
    """S6, the recurrence of Mamba: a state space for each unit, whose time step is a gate.

        u_t = x_t W_x with `input_projection`,    u_t = x_t without                          (M1)
        Δ_t = softplus(u_t W_dt_down W_dt_up + b_dt),    B_t = u_t W_b,    C_t = u_t W_c     (M2)
        ā_t[d,n] = exp(Δ_t[d] A[d,n]),    A = -exp(a_log)                                    (M3)
        h_t[d,n] = ā_t[d,n] h_{t-1}[d,n] + Δ_t[d] u_t[d] B_t[n]                              (M4)
        y_t[d] = Σ_n C_t[n] h_t[d,n] + D[d] u_t[d]                                           (M5)

    for the units d = 1..H, each with N states. Outputs depend on the carry alone, so the carry
    holds C_t and u_t too. This is the recurrence of `jaxrnn.cells.linear`, with a = ā_t for h and
    a = 0 for C and u. Backward, with λ_t = ∂L/∂h_t,

        λ_{t-1} = λ_t ⊙ ā_t                                                                  (M6)
        ∂L/∂ā_t = λ_t ⊙ h_{t-1},    ∂L/∂(Δ_t u_t B_t) = λ_t                                  (M7)

    and JAX differentiates the rest, which is outside the loop. ā is computed from Δ in both loops,
    so no array over time but h has N numbers for each unit.

    This is the recurrence alone: the convolution, the activation and the gate of a Mamba block are
    outside of it.

    Parameters: `a_log (H, N)`, `w_dt_down (H, R)`, `w_dt_up (R, H)`, `b_dt (H)`, `w_b`, `w_c`
    `(H, N)`, `d (H)`, and `w_x (I, H)` with `input_projection`, all of one floating-point dtype.
    `init` sets A[d,n] = -n for n = 1..N (S4D-real) and D = 1, draws w_dt_up uniform within ±1/√R
    and the other kernels Lecun-normal, and b_dt such that softplus(b_dt) is log-uniform between
    0.001 and 0.1. The carry is `SSMCarry(h, c, u)`, with h `(*batch, H, N)`, c `(*batch, N)` and u
    `(*batch, H)`, of float32 at least. Inputs are x `(*batch, I)`, outputs are y `(*batch, H)` of
    the params' dtype, dimensionless.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        state_size: N, at least 1.
        dt_rank: R, at least 1; defaults to H/16, rounded up.
        input_projection: whether u_t is a projection of the inputs. Without it, I must be H;
            ValueError otherwise.

    Gradient: exact, hand-written. Time: no product in the loop; O(H·N) for each step and row, in
    order. Memory: h, and its cotangents while the backward pass runs, each T·B·H·N; all else is
    O(T·B·(H + N)).

    Source: A. Gu, T. Dao, "Mamba: linear-time sequence modeling with selective state spaces"
    (2023), arXiv:2312.00752.
    """

    state_size: int = 16
    dt_rank: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check.require_int("state_size", self.state_size, least=1)
        if self.dt_rank is None:
            self.replace_fields(dt_rank=math.ceil(self.hidden_size / 16))
        check.require_int("dt_rank", self.dt_rank, least=1)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters other than `w_x`, by name."""
        assert self.dt_rank is not None  # set in __post_init__
        size = self.hidden_size
        states = self.state_size
        rank = self.dt_rank
        lecun_normal = jax.nn.initializers.lecun_normal()
        return {
            "a_log": Parameter((size, states), _start_a_log),
            "w_dt_down": Parameter((size, rank), lecun_normal),
            "w_dt_up": Parameter((rank, size), _draw_w_dt_up),
            "b_dt": Parameter((size,), _draw_b_dt),
            "w_b": Parameter((size, states), lecun_normal),
            "w_c": Parameter((size, states), lecun_normal),
            "d": Parameter((size,), jax.nn.initializers.ones),
        }

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> SSMCarry:
        """Returns the zero state, of float32 at least, since h is a sum over time."""
        wide = kernels.at_least_float32(dtype)
        # First those that check `batch_shape` as it was given.
        c = kernels.zeros(self.state_size, batch_shape, wide)
        u = kernels.zeros(self.hidden_size, batch_shape, wide)
        h = kernels.zeros(self.state_size, (*batch_shape, self.hidden_size), wide)
        return SSMCarry(h, c, u)

    def project(self, params: Params, xs: Array) -> GateInputs:
        """Returns u, Δ, B and C of all steps."""
        us = self.project_inputs(params, xs)  # (M1)
        low_rank = kernels.dot(us, params["w_dt_down"])
        x_dt = kernels.add_bias(kernels.dot(low_rank, params["w_dt_up"]), params["b_dt"])
        b = kernels.dot(us, params["w_b"])
        c = kernels.dot(us, params["w_c"])
        return GateInputs(SelectiveInputs(us, jax.nn.softplus(x_dt), b, c))  # (M2)

    def prepare(self, params: Params) -> Matrix:
        """Returns A."""
        return -jnp.exp(kernels.widen(params["a_log"]))  # (M3)

    def affine(self, w: Matrix, zs: GateInputs) -> Affine:
        """Returns ā and Δ u B for h, and C and u to put in the place of the old ones."""
        u, dt, b, c = zs.gates
        states = (*dt.shape, self.state_size)
        dt_a = kernels.scale(jnp.broadcast_to(dt[..., None], states), w)
        candidate = apply_dropout(u, zs.dropout_mask)
        driven = (dt * candidate)[..., None] * b[..., None, :]  # Δ_t[d] u_t[d] B_t[n] of (M4)
        a = SSMCarry(h=jnp.exp(dt_a), c=REPLACED, u=REPLACED)  # (M3)
        return Affine(a, SSMCarry(driven, c, u))

    def output(self, params: Params, carries: SSMCarry) -> Float[Array, "*lead H"]:
        """Returns y = Σ_n C_n h_n + D ⊙ u."""
        check.require_params("selective_ssm", params, self.parameter_shapes)
        check.require_instance("carry", carries, SSMCarry)
        h, c, u = carries
        ys = jnp.sum(h * c[..., None, :], axis=-1) + kernels.scale(u, params["d"])  # (M5)
        return ys.astype(params["d"].dtype)


# The initializers of `parameters` above.


def _start_a_log(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Returns log n for n = 1..N in each unit, so that A[d,n] = -n."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=dtype)), shape)


def _draw_w_dt_up(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws W_dt_up uniform within ±1/√R."""
    largest = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -largest, largest)


def _draw_b_dt(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws b_dt so that softplus(b_dt) is log-uniform between DT_MIN and DT_MAX."""
    log_dt = jax.random.uniform(key, shape, dtype, math.log(DT_MIN), math.log(DT_MAX))
    return kernels.inverse_softplus(jnp.exp(log_dt))
