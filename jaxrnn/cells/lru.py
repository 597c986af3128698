"""The linear recurrent unit of Orvieto et al. (2023)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GateInputs
from jaxrnn.cells.linear import Affine, LinearCell, apply_dropout
from jaxrnn.types import Array, Key, Params

Modes = Complex[Array, "*lead H"]
# A larger nu_log gives the radius 0 too, and a much larger one would give the slope 0 · ∞.
LARGEST_NU_LOG = 10


@dataclasses.dataclass(frozen=True, repr=False)
class lru(LinearCell):
    """The LRU: a linear recurrence of damped complex oscillations, one for each hidden unit.

        z_t = γ ⊙ (u_t B),    γ = exp(gamma_log),    B = b_re + i b_im                       (R1)
        x_t = a ⊙ x_{t-1} + z_t,    a = exp(-exp(nu_log) + i exp(theta_log))                 (R2)
        y_t = Re(x_t C),    C = c_re + i c_im                                                (R3)

    for inputs u_t and the complex state x_t, which is the carry. |a| < 1 for all parameters.
    Backward, with λ_t = ∂L/∂Re x_t - i ∂L/∂Im x_t, which is JAX's cotangent of a complex number,
    and the loss ℓ_{t-1} of step t-1,

        λ_{t-1} = λ_t ⊙ a + ∂ℓ_{t-1}/∂x_{t-1}                                                (R4)
        ∂L/∂a   = Σ_t λ_t ⊙ x_{t-1},    ∂L/∂z_t = λ_t                                        (R5)

    In this convention dL = Re Σ λ dx, so the adjoint multiplies by a and not by the conjugate of a.
    The direction of steepest ascent is the conjugate of λ. This matters only for a learned complex
    carry, since all parameters are real.

    The cell has no skip connection D u_t, since outputs depend on the carry alone. A residual
    connection around the cell is D = identity.

    Parameters: `nu_log`, `theta_log`, `gamma_log` `(H)`, `b_re`, `b_im` `(I, H)`, `c_re`, `c_im`
    `(H, O)`, all of one floating-point dtype; `init` draws B and C normal, with variance 1/2I and
    1/H for each of the real and imaginary parts, and sets γ = √(1 - |a|²), so that white noise
    keeps its variance. The carry is x `(*batch, H)`, complex128 for float64 params and complex64
    for narrower ones. Inputs are `(*batch, I)`, outputs are `(*batch, O)` of the params' dtype,
    dimensionless.

    Args:
        hidden_size: H, the number of complex modes, at least 1; ValueError below, TypeError if not
            an int.
        output_size: O, at least 1; defaults to H.
        r_min: the inner radius of the ring r_min ≤ |a| ≤ r_max. The initial a is uniform over the
            area of this ring. 0 ≤ r_min < r_max ≤ 1; ValueError otherwise.
        r_max: the outer radius of this ring.
        max_phase: the initial phase of a, in radians for each step, is uniform in (0, max_phase).
            Above 0 and at most 2π; ValueError otherwise.

    Gradient: exact, hand-written. Time: no product in the loop; O(H) for each step and row, in
    order. Memory: x, 2·T·B·H real numbers.

    Source: A. Orvieto, S. L. Smith, A. Gu, A. Fernando, C. Gulcehre, R. Pascanu, S. De,
    "Resurrecting recurrent neural networks for long sequences", ICML 2023; arXiv:2303.06349.
    """

    hidden_size: int
    output_size: int | None = None
    _: dataclasses.KW_ONLY
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi

    def __post_init__(self) -> None:
        check.require_int("hidden_size", self.hidden_size, least=1)
        if self.output_size is None:
            self.replace_fields(output_size=self.hidden_size)
        check.require_int("output_size", self.output_size, least=1)
        # Infinity and NaN fail the comparisons below.
        r_min = check.require_number("r_min", self.r_min)
        r_max = check.require_number("r_max", self.r_max)
        is_ring = 0 <= r_min < r_max <= 1
        check.require(is_ring, "r_min, r_max", f"{r_min}, {r_max}", "0 <= r_min < r_max <= 1")
        max_phase = check.require_number("max_phase", self.max_phase)
        fits = 0 < max_phase <= 2 * math.pi
        check.require(fits, "max_phase", max_phase, "a number in (0, 2π]")
        self.replace_fields(r_min=r_min, r_max=r_max, max_phase=max_phase)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each parameter; None stands for any size."""
        mode = (self.hidden_size,)
        b = (None, self.hidden_size)
        c = (self.hidden_size, self.output_size)
        modes = {"nu_log": mode, "theta_log": mode, "gamma_log": mode}
        return {**modes, "b_re": b, "b_im": b, "c_re": c, "c_im": c}

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the initial parameters."""
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        assert self.output_size is not None  # set in __post_init__
        wide = kernels.at_least_float32(dtype)
        keys = jax.random.split(key, 5)
        hidden_size = self.hidden_size
        output_size = self.output_size
        r_min = self.r_min
        r_max = self.r_max

        def normal(key: Key, rows: int, columns: int, variance: float) -> jax.Array:
            return math.sqrt(variance) * jax.random.normal(key, (rows, columns), wide)

        eps = float(jnp.finfo(wide).eps)
        # Excludes 0 and 1, since the logarithms of u and of 1 - u follow.
        area, phase = jax.random.uniform(keys[0], (2, hidden_size), wide, eps, 1 - eps)
        # |a|² = r_max² - u (r_max² - r_min²) for u uniform, so a is uniform over the area.
        one_minus_square = 1 - r_max**2 + area * (r_max**2 - r_min**2)  # 1 - |a|²
        # |a|² = r_max² (1 - …), a form whose logarithm is finite for the smallest r_max too.
        log_radius = math.log(r_max) + jnp.log1p(-area * (1 - (r_min / r_max) ** 2)) / 2
        params = {
            "nu_log": jnp.log(-log_radius),
            "theta_log": jnp.log(self.max_phase * phase),
            "gamma_log": jnp.log(one_minus_square) / 2,
            "b_re": normal(keys[1], input_size, hidden_size, 0.5 / input_size),
            "b_im": normal(keys[2], input_size, hidden_size, 0.5 / input_size),
            "c_re": normal(keys[3], hidden_size, output_size, 1 / hidden_size),
            "c_im": normal(keys[4], hidden_size, output_size, 1 / hidden_size),
        }
        return kernels.cast_parameters(params, dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Modes:
        """Returns zero modes."""
        zero = kernels.zeros(self.hidden_size, batch_shape, kernels.at_least_float32(dtype))
        return jax.lax.complex(zero, zero)

    def project(self, params: Params, xs: Array) -> GateInputs:
        """Returns z = γ ⊙ (u B)."""
        check.require_params("lru", params, self.parameter_shapes)
        for name in ("b_re", "b_im"):
            check.require_features("xs", "lru", xs, size=params[name].shape[0])
        p = kernels.widen(params)
        us = jnp.asarray(xs, params["b_re"].dtype).astype(p["b_re"].dtype)
        gamma = jnp.exp(p["gamma_log"])
        # γ scales B and not z, so that the gradient of γ needs no (T, *batch, H) array.
        # Real inputs: two real products are half the work of a complex one.
        z_re = us @ kernels.scale(p["b_re"], gamma)  # (R1)
        z_im = us @ kernels.scale(p["b_im"], gamma)  # (R1)
        return GateInputs((jax.lax.complex(z_re, z_im),))

    def prepare(self, params: Params) -> Complex[Array, " H"]:
        """Returns a."""
        p = kernels.widen(params)
        nu = jnp.exp(jnp.minimum(p["nu_log"], LARGEST_NU_LOG))
        phase = jnp.exp(p["theta_log"])
        radius = jnp.exp(-nu)  # below 1 for any nu_log
        return jax.lax.complex(radius * jnp.cos(phase), radius * jnp.sin(phase))  # (R2)

    def output(self, params: Params, carries: Modes) -> Float[Array, "*lead O"]:
        """Returns y = Re(x C)."""
        check.require_params("lru", params, self.parameter_shapes)
        p = kernels.widen(params)
        ys = jnp.real(carries) @ p["c_re"] - jnp.imag(carries) @ p["c_im"]  # (R3)
        return ys.astype(params["c_re"].dtype)

    def affine(self, w: Complex[Array, " H"], zs: GateInputs) -> Affine:
        """Returns a and z of (R2)."""
        (z,) = zs.gates
        return Affine(w, apply_dropout(z, zs.dropout_mask))
