"""The closed-form continuous-time network of Hasani et al. (2022)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, tanh
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.kernels import Matrix, RecurrentKernel, Vector
from jaxrnn.cells.orthogonal import orthogonal
from jaxrnn.cells.wide import WideCell
from jaxrnn.types import Array, Key, Params, Residuals, State

Time = Float[Array, "*lead"]
# LeCun's tanh, A tanh(S p), with the constants of the authors' code.
A = 1.7159
S = 0.666


class TimedInputs(NamedTuple):
    """Inputs, and the time that has passed since the input before each.

    Fields:
        xs: the inputs `(*lead, I)`.
        dt: the times `(*lead)`, of a floating-point dtype.
    """

    xs: Array
    dt: Array


class CfCInputs(NamedTuple):
    """The contribution of the input, and the time, which is None if no times are given."""

    x: Float[Array, "*lead U"]
    dt: Time | None


class CfCValues(NamedTuple):
    """The backbone's tanh t, and f, g, τ, a of the heads; `rate` is a."""

    t: Float[Array, "*lead U"]
    f: State
    g: State
    tau: State
    rate: State


class CfCDeltas(NamedTuple):
    """The cotangents of the backbone's and of the heads' pre-activations, and of the time."""

    s: Float[Array, "*lead U"]
    heads: Float[Array, "*lead 4H"]
    dt: Time | None


class CfCWeights(NamedTuple):
    """The recurrent kernel, the kernel of the heads with its transpose, and their bias."""

    w_h: RecurrentKernel
    w_o: Matrix
    w_o_t: Matrix
    b_o: Vector


@dataclasses.dataclass(frozen=True, repr=False)
class cfc(WideCell):
    """The CfC, which moves between two states by the time that passes between inputs.

        z_t  = x_t W_x + b,    t = tanh(S (z_t + h_{t-1} W_h)),    s = A t                   (CF1)
        p_f, p_g, a, c = s W_o + b_o                                                         (CF2)
        f = tanh(p_f),    g = tanh(p_g),    τ = σ(a dt + c)                                  (CF3)
        h_t  = (1 - τ) ⊙ f + τ ⊙ g,    y_t = h_t                                             (CF4)

    where A = 1.7159, S = 0.666, and dt is the time since the input before. Backward, with λ_t =
    ∂L/∂h_t,

        δ_c  = λ_t ⊙ (g - f) ⊙ τ(1-τ),    δ_a = dt δ_c                                       (CF5)
        δ_f  = λ_t ⊙ (1-τ) ⊙ (1-f²),    δ_g = λ_t ⊙ τ ⊙ (1-g²)                               (CF6)
        δ_s  = [δ_f δ_g δ_a δ_c] W_oᵀ ⊙ A S (1 - t²)                                         (CF7)
        λ_{t-1} = δ_s W_hᵀ,    ∂L/∂dt = Σ δ_c ⊙ a over the units                             (CF8)
        ∂L/∂W_h = Σ_t h_{t-1}ᵀ δ_s,    ∂L/∂W_o = Σ_t sᵀ [δ_f δ_g δ_a δ_c],
        ∂L/∂b_o = Σ_t [δ_f δ_g δ_a δ_c],    ∂L/∂z_t = δ_s                                    (CF9)

    Parameters: `w_x (I, U)`, `w_h (H, U)`, `b (U)` of the backbone, `w_o (U, 4H)`, `b_o (4H)` of
    the heads, with columns in the order f, g, a, c, all of one floating-point dtype; `init` draws
    w_x and w_o Lecun-normal and w_h orthogonal. The carry is h `(*batch, H)`. Inputs are
    `TimedInputs(xs, dt)`, x `(*batch, I)` and dt `(*batch)`, or x alone for dt = 1; outputs are h
    `(*batch, H)`. The unit of time is the user's.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        backbone_size: U, at least 1; defaults to H.

    Gradient: exact, hand-written, for dt too. Time: two products a step forward and two backward,
    in order; the gradients of the kernels are two more, for all steps at once. Memory: h, f, g, τ,
    a and t, T·B·(5H + U).

    Source: R. Hasani et al., "Closed-form continuous-time neural networks", Nature Machine
    Intelligence 4 (2022), arXiv:2106.13898; the mode "default" of `ncps.torch.CfCCell` with a
    backbone of one layer.
    """

    backbone_size: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone_size is None:
            self.replace_fields(backbone_size=self.hidden_size)
        check.require_int("backbone_size", self.backbone_size, least=1)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each parameter; None stands for any size."""
        size = self.hidden_size
        backbone = self.backbone_size
        return {
            "w_x": (None, backbone),
            "w_h": (size, backbone),
            "b": (backbone,),
            "w_o": (backbone, 4 * size),
            "b_o": (4 * size,),
        }

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the initial parameters."""
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        assert self.backbone_size is not None  # set in __post_init__
        wide = kernels.at_least_float32(dtype)
        size = self.hidden_size
        backbone = self.backbone_size
        key_x, key_h, key_o = jax.random.split(key, 3)
        lecun_normal = jax.nn.initializers.lecun_normal()
        params = {
            "w_x": lecun_normal(key_x, (input_size, backbone), wide),
            "w_h": orthogonal(key_h, (size, backbone), wide),
            "b": jnp.zeros(backbone, wide),
            "w_o": lecun_normal(key_o, (backbone, 4 * size), wide),
            "b_o": jnp.zeros(4 * size, wide),
        }
        return kernels.cast_parameters(params, dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """Returns the zero state h."""
        return kernels.zeros(self.hidden_size, batch_shape, dtype)

    def output(self, params: Params, carries: State) -> State:
        """Returns the state itself, y = h."""
        return carries

    def project(self, params: Params, xs: Array | TimedInputs) -> CfCInputs:
        """Returns z = x W_x + b, and the time."""
        dt = None
        if isinstance(xs, TimedInputs):
            xs, dt = xs
        self._check_inputs(params, xs)
        dtype = params["w_x"].dtype
        if dt is not None:
            expected = f"a time for each of the inputs, {list(xs.shape[:-1])}"
            check.require(jnp.shape(dt) == xs.shape[:-1], "xs.dt", dt, expected)
            check.require_floating("xs.dt", jnp.result_type(dt))
            dt = jnp.asarray(dt, dtype)
        products = jnp.asarray(xs, dtype) @ params["w_x"]
        return CfCInputs(kernels.add_bias(products, params["b"]), dt)  # (CF1)

    def prepare(self, params: Params) -> CfCWeights:
        """Returns both kernels with their transposes, and the bias of the heads."""
        w_o = params["w_o"]
        w_h = kernels.recurrent_kernel(params["w_h"])
        return CfCWeights(w_h, w_o, w_o.T, params["b_o"])

    def _advance(self, w: CfCWeights, carry: State, z: CfCInputs) -> tuple[State, CfCValues]:
        t = tanh(S * (z.x + kernels.recurrent_product(carry, w.w_h)))  # (CF1)
        heads = kernels.add_bias(kernels.dot(A * t, w.w_o), w.b_o)
        p_f, p_g, rate, offset = kernels.split_gates(heads, 4)  # (CF2)
        f = tanh(p_f)
        g = tanh(p_g)
        tau = sigmoid(_times(rate, z.dt) + offset)  # (CF3)
        return f + tau * (g - f), CfCValues(t, f, g, tau, rate)  # (CF4)

    def _adjoint(
        self, w: CfCWeights, residuals: Residuals, d_carry: State
    ) -> tuple[State, CfCDeltas]:
        t, f, g, tau, rate = residuals.saved
        dt = residuals.z.dt
        delta_c = d_carry * (g - f) * tau * (1 - tau)  # (CF5)
        delta_f = d_carry * (1 - tau) * (1 - f * f)
        delta_g = d_carry * tau * (1 - g * g)  # (CF6)
        delta_heads = kernels.join_gates(delta_f, delta_g, _times(delta_c, dt), delta_c)
        delta_s = kernels.dot(delta_heads, w.w_o_t) * A * S * (1 - t * t)  # (CF7)
        d_dt = None
        if dt is not None:
            d_dt = jnp.sum(delta_c * rate, axis=-1)
        d_h_tm1 = kernels.recurrent_product_adjoint(delta_s, w.w_h)  # (CF8)
        return d_h_tm1, CfCDeltas(delta_s, delta_heads, d_dt)

    def _gradients(
        self, w: CfCWeights, residuals: Residuals, deltas: CfCDeltas
    ) -> tuple[CfCWeights, CfCInputs]:
        d_w_h = kernels.recurrent_kernel_gradient(residuals.previous_carry, deltas.s, w.w_h)
        d_w_o = kernels.kernel_gradient(A * residuals.saved.t, deltas.heads, w.w_o)
        d_b_o = kernels.bias_gradient(deltas.heads)
        d_w = CfCWeights(d_w_h, d_w_o, kernels.NO_GRADIENT, d_b_o)
        return d_w, CfCInputs(deltas.s, deltas.dt)  # (CF9)


def _times(x: State, dt: Time | None) -> State:
    """Returns x dt; x itself if there are no times, which means dt = 1."""
    return x if dt is None else x * dt[..., None]
