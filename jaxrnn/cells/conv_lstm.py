"""The convolutional long short-term memory of Shi et al. (2015)."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid, tanh
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GateInputs
from jaxrnn.cells.lstm import (
    LSTMCarry,
    LSTMCell,
    LSTMGates,
    output_adjoint,
    update_memory,
    update_memory_adjoint,
)
from jaxrnn.cells.orthogonal import orthogonal
from jaxrnn.types import Array, Key, Params, Residuals

Image = Float[Array, "..."]  # (*lead, *spatial, channels)
ConvKernel = Float[Array, "..."]  # (*window, channels in, channels out)


class RecurrentConvKernel(NamedTuple):
    """A recurrent kernel, and the kernel of the transposed convolution."""

    w: ConvKernel
    w_t: ConvKernel


@dataclasses.dataclass(frozen=True, repr=False)
class conv_lstm(LSTMCell):
    """The ConvLSTM, an LSTM whose products are convolutions over images.

        z_t      = x_t * W_x + b                                                             (V1)
        a_t      = z_t + h_{t-1} * W_h,    i, f, o = σ(a_t),    g = tanh(a_t)                (V2)
        c_t      = f ⊙ c_{t-1} + i ⊙ g                                                       (V3)
        h_t      = o ⊙ tanh(c_t),    y_t = h_t                                               (V4)

    where * is a convolution with padding "SAME", so that images keep their size, and the channels
    of a_t are split between the gates. Backward, with λ_t = ∂L/∂h_t, μ_t = ∂L/∂c_t and m =
    tanh(c_t),

        μ_t     += λ_t ⊙ o ⊙ (1 - m²),    δ_o = λ_t ⊙ m ⊙ o(1-o)                             (V5)
        δ_i, δ_f, δ_g from μ_t                                                               (V6)
        λ_{t-1}  = [δ_i δ_f δ_g δ_o] ⊛ W_h,    μ_{t-1} = μ_t ⊙ f                             (V7)
        ∂L/∂W_h  = the convolution of all h_{t-1} and all δ_t,    ∂L/∂z_t = δ_t              (V8)

    where δ_i, δ_f and δ_g follow from μ_t as in (L6) of `lstm`, and ⊛ is the transposed
    convolution, that with the mirrored kernel.

    Parameters: `w_x (*window, I, 4H)`, `w_h (*window, H, 4H)`, `b (4H)`, with gates in the order i,
    f, g, o, all of one floating-point dtype; `init` draws w_x Lecun-normal and w_h orthogonal for
    each gate. The window has `kernel_size` pixels along each spatial axis. The carry is
    `LSTMCarry(h, c)`, each `(*batch, *spatial, H)`; c is float32 if params are narrower. Inputs are
    x `(*batch, *spatial, I)`, outputs are h `(*batch, *spatial, H)`, dimensionless. There are no
    peepholes.

    Args:
        hidden_size: H, the channels of the state, at least 1; ValueError below, TypeError if not an
            int.
        spatial_shape: the size of the images, a tuple of one to three ints of at least 1;
            ValueError or TypeError otherwise.
        kernel_size: the pixels of the window along each spatial axis, at least 1.
        forget_bias: the initial value of the forget gate's part of `b`. Nothing is added to it
            later.

    Gradient: exact, hand-written. Time: one recurrent convolution a step forward and one backward,
    in order; the gradient of the kernel is one more convolution, for all steps at once. Memory: h,
    c and the four gates, 6·T·B·H for each pixel.

    Source: X. Shi, Z. Chen, H. Wang, D.-Y. Yeung, W.-K. Wong, W.-C. Woo, "Convolutional LSTM
    network", NeurIPS 2015; arXiv:1506.04214, eq. (3) without peepholes.
    """

    spatial_shape: tuple[int, ...]
    kernel_size: int = dataclasses.field(default=3, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = self.spatial_shape
        check.require_option_type("spatial_shape", shape, isinstance(shape, tuple), "a tuple")
        check.require(1 <= len(shape) <= 3, "spatial_shape", shape, "one to three sizes")
        for size in shape:
            check.require_int("spatial_shape", size, least=1)
        check.require_int("kernel_size", self.kernel_size, least=1)

    @property
    def num_feature_axes(self) -> int:
        """The spatial axes, and the axis of channels."""
        return len(self.spatial_shape) + 1

    def feature_shape(self, input_size: int) -> tuple[int, ...]:
        """Returns `(*spatial, I)`."""
        return *self.spatial_shape, input_size

    @property
    def parameter_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each parameter; None stands for any size."""
        width = 4 * self.hidden_size
        return {
            "w_x": (*self._window, None, width),
            "w_h": (*self._window, self.hidden_size, width),
            "b": (width,),
        }

    @property
    def _window(self) -> tuple[int, ...]:
        """The pixels along each spatial axis."""
        return (self.kernel_size,) * len(self.spatial_shape)

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the initial parameters."""
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        wide = kernels.at_least_float32(dtype)
        size = self.hidden_size
        window = self._window
        key_x, *keys_h = jax.random.split(key, 5)
        w_x = jax.nn.initializers.lecun_normal()(key_x, (*window, input_size, 4 * size), wide)
        # A convolution multiplies each window, as one row of numbers, by this matrix.
        matrix_shape = (math.prod(window) * size, size)
        gate_kernels = []
        for key_h in keys_h:
            matrix = orthogonal(key_h, matrix_shape, wide)
            gate_kernels.append(matrix.reshape(*window, size, size))
        biases = [jnp.full(size, bias, wide) for bias in self.gate_biases]
        params = {
            "w_x": w_x,
            "w_h": kernels.join_gates(*gate_kernels),
            "b": jnp.concatenate(biases),
        }
        return kernels.cast_parameters(params, dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LSTMCarry:
        """Returns the zero state; c is float32 at least, since it is a sum over all time."""
        features = self.feature_shape(self.hidden_size)
        h = kernels.zeros(features, batch_shape, dtype)
        c = kernels.zeros(features, batch_shape, kernels.at_least_float32(dtype))
        return LSTMCarry(h, c)

    def project_gates(self, params: Params, xs: Array) -> list[jax.Array]:
        """Checks params and xs, and returns (V1), one array for each gate."""
        self._check_inputs(params, xs)
        xs = jnp.asarray(xs, params["w_x"].dtype)
        products = kernels.add_bias(_convolve(xs, params["w_x"]), params["b"])
        return list(kernels.split_gates(products, 4))

    def prepare(self, params: Params) -> RecurrentConvKernel:
        """Returns the recurrent kernel, and that of the transposed convolution."""
        w = params["w_h"]
        mirrored = jnp.flip(w, tuple(range(len(self.spatial_shape))))
        return RecurrentConvKernel(w, jnp.swapaxes(mirrored, -1, -2))

    def _advance(
        self, w: RecurrentConvKernel, carry: LSTMCarry, z: GateInputs
    ) -> tuple[LSTMCarry, LSTMGates]:
        p = LSTMGates(*kernels.split_gates(_convolve(carry.h, w.w), 4))
        c, i, f, g = update_memory(p, carry.c, z)  # (V2), (V3)
        o = sigmoid(z.gates.o + p.o)
        return LSTMCarry(o * tanh(c), c), LSTMGates(i, f, g, o)  # (V4)

    def _adjoint(
        self, w: RecurrentConvKernel, residuals: Residuals, d_carry: LSTMCarry
    ) -> tuple[LSTMCarry, LSTMGates]:
        d_c, delta_o = output_adjoint(residuals, d_carry)  # (V5)
        delta = update_memory_adjoint(residuals, residuals.saved, d_c, delta_o)  # (V6)
        d_h_tm1 = _convolve(kernels.join_gates(*delta), w.w_t, transposed=True)
        return LSTMCarry(d_h_tm1, d_c * residuals.saved.f), delta  # (V7)

    def _gradients(
        self, w: RecurrentConvKernel, residuals: Residuals, deltas: LSTMGates
    ) -> tuple[RecurrentConvKernel, GateInputs]:
        hs_tm1 = residuals.previous_carry.h
        joined = kernels.join_gates(*deltas)
        # Rounded to the dtype of the kernel, as `kernels.kernel_gradient` does, but summed wide.
        rounded = joined.astype(w.w.dtype).astype(joined.dtype)
        like = jax.ShapeDtypeStruct(w.w.shape, joined.dtype)
        # A convolution is linear in its kernel, so the gradient is the transposed map of δ.
        pullback = jax.linear_transpose(lambda kernel: _convolve(hs_tm1, kernel), like)
        (d_w,) = pullback(rounded)
        return RecurrentConvKernel(d_w, kernels.NO_GRADIENT), GateInputs(deltas)  # (V8)

    def _check_inputs(self, params: Params, xs: Array) -> None:
        """Raises an error unless params and images fit."""
        check.require_params("conv_lstm", params, self.parameter_shapes)
        check.require_features("xs", "conv_lstm", xs, size=params["w_x"].shape[-2])
        spatial = xs.shape[-self.num_feature_axes : -1]
        expected = f"images of the spatial_shape {self.spatial_shape} for conv_lstm"
        check.require(spatial == self.spatial_shape, "xs", xs, expected)


def _convolve(images: Image, kernel: ConvKernel, *, transposed: bool = False) -> Image:
    """Returns the convolution of images with any leading axes, padded to keep their size.

    Factors are in the dtype of the kernel, sums and result in the dtype of the images. A window of
    even size reaches one pixel further to the right, or to the left if the convolution is a
    transposed one.
    """
    num_spatial = kernel.ndim - 2
    lead = images.shape[: -num_spatial - 1]
    image_shape = images.shape[-num_spatial - 1 :]
    # Narrow factors and wide sums: the factors are rounded to the narrow dtype, and multiplied in
    # the wide one.
    rounded = jnp.asarray(images, kernel.dtype).astype(images.dtype)
    flat = jnp.reshape(rounded, (math.prod(lead), *image_shape))
    padding = [((size - 1) // 2, size // 2) for size in kernel.shape[:num_spatial]]
    if transposed:
        # The mirrored window of even size reaches further on the other side.
        padding = [(right, left) for left, right in padding]
    letters = "XYZ"[:num_spatial]
    result = lax.conv_general_dilated(
        flat,
        jnp.asarray(kernel, images.dtype),
        window_strides=(1,) * num_spatial,
        padding=padding,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )
    return jnp.reshape(result, (*lead, *result.shape[1:]))
