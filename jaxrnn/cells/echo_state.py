"""The echo state network of Jaeger (2001), a reservoir that does not learn."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import tanh
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GatedCell
from jaxrnn.cells.kernels import RecurrentKernel
from jaxrnn.types import Array, Key, Params, Residuals, State

NUM_SQUARINGS = 40  # a power of 2⁴⁰, whose root has the error of a rounding


@dataclasses.dataclass(frozen=True, repr=False)
class echo_state(GatedCell):
    """The echo state network, whose weights are random and stay so; only a readout learns.

        z_t      = x_t W_x + b                                                               (ES1)
        g_t      = tanh(z_t + h_{t-1} W_h)                                                   (ES2)
        h_t      = (1 - α) h_{t-1} + α g_t,    y_t = h_t                                     (ES3)

    and backward, with λ_t = ∂L/∂h_t,

        δ_t      = α λ_t ⊙ (1 - g_t²)                                                        (ES4)
        λ_{t-1}  = (1 - α) λ_t + δ_t W_hᵀ                                                    (ES5)
        ∂L/∂z_t  = δ_t,    ∂L/∂W_x = ∂L/∂W_h = ∂L/∂b = 0                                     (ES6)

    The weights are parameters, so files and trees hold them, but under every loop their gradient is
    exactly zero, as behind `jax.lax.stop_gradient`. The gradients of inputs and carry are exact.
    `stacked(echo_state(500), linear(2))` is the whole network. An optimizer that changes parameters
    without a gradient, such as one with weight decay, must leave these alone.

    Parameters: `w_x (I, H)`, `w_h (H, H)`, `b (H)`, all of one floating-point dtype; `init` draws
    w_x and b uniform in [-input_scale, input_scale], and w_h uniform, with the share `density` of
    its numbers not 0, scaled to the spectral radius. The carry is h `(*batch, H)`, inputs are x
    `(*batch, I)`, outputs are h `(*batch, H)`, dimensionless.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        spectral_radius: the largest modulus of an eigenvalue of W_h, above 0. Below 1, the state
            usually forgets where it began. A sparse W_h whose eigenvalues are all 0 is not scaled.
        leak: α, above 0 and at most 1.
        input_scale: the bound of W_x and b, above 0.
        density: the probability that an entry of W_h is not 0, above 0 and at most 1.

    Raises:
        ValueError: for a number outside its range.

    Gradient: exact for inputs and carry, zero for the parameters; hand-written. Time: one recurrent
    product a step forward and one backward, in order. Memory: g, T·B·H.

    Source: H. Jaeger, "The echo state approach to analysing and training recurrent neural
    networks", GMD report 148 (2001); H. Jaeger et al., "Optimization and applications of echo state
    networks with leaky-integrator neurons", Neural Networks 20 (2007).
    """

    _: dataclasses.KW_ONLY
    spectral_radius: float = 0.9
    leak: float = 1.0
    input_scale: float = 1.0
    density: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("spectral_radius", "leak", "input_scale", "density"):
            value = check.require_positive(name, getattr(self, name))
            self.replace_fields(**{name: check.require_finite(name, value)})
        for name in ("leak", "density"):
            value = getattr(self, name)
            check.require(value <= 1, name, value, "a number above 0 and at most 1")

    @property
    def gate_biases(self) -> tuple[float]:
        """One pre-activation."""
        return (0.0,)

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters, which no training changes."""
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        wide = kernels.at_least_float32(dtype)
        size = self.hidden_size
        bound = self.input_scale
        key_x, key_b, key_h, key_mask = jax.random.split(key, 4)
        # Drawn with any scale, since the division by the radius removes it.
        w_h = jax.random.uniform(key_h, (size, size), wide, -1, 1)
        w_h = jnp.where(jax.random.bernoulli(key_mask, self.density, w_h.shape), w_h, 0)
        radius = spectral_radius(w_h)
        params = {
            "w_x": jax.random.uniform(key_x, (input_size, size), wide, -bound, bound),
            "w_h": w_h * jnp.where(radius > 0, self.spectral_radius / radius, 1),
            "b": jax.random.uniform(key_b, (size,), wide, -bound, bound),
        }
        return kernels.cast_parameters(params, dtype)

    def project(self, params: Params, xs: Array) -> State:
        """Returns z = x W_x + b."""
        fixed_params = jax.tree.map(lax.stop_gradient, params)
        return self.project_gates(fixed_params, xs)[0]  # (ES1)

    def prepare(self, params: Params) -> RecurrentKernel:
        """Returns the recurrent kernel with its transpose, without a gradient."""
        return kernels.recurrent_kernel(lax.stop_gradient(params["w_h"]))

    def _advance(self, w: RecurrentKernel, carry: State, z: State) -> tuple[State, State]:
        g = tanh(z + kernels.recurrent_product(carry, w))  # (ES2)
        return (1 - self.leak) * carry + self.leak * g, g  # (ES3)

    def _adjoint(
        self, w: RecurrentKernel, residuals: Residuals, d_carry: State
    ) -> tuple[State, State]:
        g = residuals.saved
        delta = self.leak * d_carry * (1 - g * g)  # (ES4)
        d_recurrent = kernels.recurrent_product_adjoint(delta, w)
        return (1 - self.leak) * d_carry + d_recurrent, delta  # (ES5)

    def _gradients(
        self, w: RecurrentKernel, residuals: Residuals, deltas: State
    ) -> tuple[RecurrentKernel, State]:
        return RecurrentKernel(kernels.NO_GRADIENT, kernels.NO_GRADIENT), deltas  # (ES6)


class _Power(NamedTuple):
    """A power A^n, divided by its norms so far.

    Fields:
        power: A^n / exp(n · log_radius).
        log_radius: the sum of the logarithms of all norms, each divided by its n; it goes to log ρ.
        share: 1/n.
    """

    power: Array
    log_radius: Array
    share: Array


def spectral_radius(a: Float[Array, "H H"]) -> jax.Array:
    """Returns the largest modulus of an eigenvalue, by matrix products alone.

        ρ = lim ‖A^n‖^{1/n},    n = 2^k                                                      (ES7)

    for any norm, here the largest number. A is squared k times, and divided by its norm each time
    so that it neither over- nor underflows. The function calls no LAPACK, since a program that does
    so in two independent places can deadlock on jaxlib 0.10.1 (see pyproject.toml).

    Time: k = 40 products of `(H, H)` matrices.

    Source: I. Gelfand, "Normierte Ringe", Matematicheskii Sbornik 9 (1941).
    """

    def square(state: _Power, _: None) -> tuple[_Power, None]:
        power, log_radius, share = state
        size = jnp.max(jnp.abs(power))
        # A nilpotent matrix has a power that is 0. Then log 0 = -∞, so the radius is 0.
        scaled = power / jnp.where(size > 0, size, 1)
        product = jnp.matmul(scaled, scaled, precision="highest")
        return _Power(product, log_radius + share * jnp.log(size), share / 2), None

    start = _Power(a, jnp.zeros((), a.dtype), jnp.ones((), a.dtype))
    last, _ = lax.scan(square, start, None, length=NUM_SQUARINGS)
    return jnp.exp(last.log_radius)
