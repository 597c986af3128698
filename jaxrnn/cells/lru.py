"""The linear recurrent unit of Orvieto et al. (2023)."""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.cells.linear import Affine, adjoint, advance, gather
from jaxrnn.types import Array, Cell, Params, once

Modes = Complex[Array, "*lead H"]


@once
def lru(
    hidden_size: int,
    output_size: int | None = None,
    *,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * math.pi,
) -> Cell:
    """The LRU: a linear recurrence of damped complex oscillations, one a hidden unit.

        z_t = γ ⊙ (u_t B),    γ = exp(gamma_log),    B = b_re + i b_im                       (R1)
        x_t = a ⊙ x_{t-1} + z_t,    a = exp(-exp(nu_log) + i exp(theta_log))                 (R2)
        y_t = Re(x_t C),    C = c_re + i c_im                                                (R3)

    for inputs u_t and the complex state x_t, the carry. |a| < 1 whatever the parameters. Backward,
    with λ_t = ∂L/∂Re x_t - i ∂L/∂Im x_t, which is JAX's cotangent of a complex number,

        λ_{t-1} = λ_t ⊙ a + (what step t-1 sends back itself)                                (R4)
        ∂L/∂a   = Σ_t λ_t ⊙ x_{t-1},    ∂L/∂z_t = λ_t                                        (R5)

    In this convention dL = Re Σ λ dx, so the adjoint multiplies by a and not by its conjugate; the
    direction of steepest ascent is the conjugate of λ, which only who learns the complex carry that
    starts a sequence need mind, since all parameters are real.

    There is no skip D u_t, since outputs depend on the carry alone; a residual connection around
    the cell is D = identity.

    Args:
        hidden_size: H, the number of complex modes, at least 1; ValueError below, TypeError if not
            an int.
        output_size: O, at least 1; H unless given.
        r_min: |a| starts uniform over the ring r_min ≤ |a| ≤ r_max by area, 0 ≤ r_min < r_max ≤ 1;
            ValueError otherwise.
        r_max: likewise.
        max_phase: the phase of a, in radians a step, starts uniform in (0, max_phase); above 0 and
            at most 2π, ValueError otherwise.

    Returns:
        A Cell with params `nu_log`, `theta_log`, `gamma_log` (H), `b_re`, `b_im` (I, H), `c_re`,
        `c_im` (H, O), all of one floating dtype, and the carry x `(*batch, H)`, complex128 for
        float64 and complex64 for narrower params. Inputs `(*batch, I)`, outputs `(*batch, O)` of
        the params' dtype, dimensionless. `init` draws B and C normal, of variance 1/2I and 1/H a
        part, and sets γ = √(1 - |a|²), so that white noise keeps its variance.

    Gradient: exact, by hand. Time: no product in the loop; O(H) a step and row, in order. Memory:
    x alone, 2·T·B·H real numbers.

    Source: A. Orvieto, S. L. Smith, A. Gu, A. Fernando, C. Gulcehre, R. Pascanu, S. De,
    "Resurrecting recurrent neural networks for long sequences", ICML 2023; arXiv:2303.06349.
    """
    check.integer("hidden_size", hidden_size, least=1)
    if output_size is None:
        return lru(hidden_size, hidden_size, r_min=r_min, r_max=r_max, max_phase=max_phase)
    check.integer("output_size", output_size, least=1)
    r_min, r_max = check.number("r_min", r_min), check.number("r_max", r_max)
    ring = 0 <= r_min < r_max <= 1
    check.that(ring, "r_min, r_max", f"{r_min}, {r_max}", "0 <= r_min < r_max <= 1")
    max_phase = check.number("max_phase", max_phase)
    check.that(0 < max_phase <= 2 * math.pi, "max_phase", max_phase, "a number in (0, 2π]")
    h, b, c = (hidden_size,), (None, hidden_size), (hidden_size, output_size)
    shapes = dict(nu_log=h, theta_log=h, gamma_log=h, b_re=b, b_im=b, c_re=c, c_im=c)

    def init(key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        check.integer("input_size", input_size, least=1)
        check.key("key", key)
        wide, keys = parts.at_least_float32(dtype), jax.random.split(key, 5)

        def normal(key, rows, columns, variance):
            return math.sqrt(variance) * jax.random.normal(key, (rows, columns), wide)

        eps = float(jnp.finfo(wide).eps)
        # Neither end: a logarithm of each and of one minus each follows.
        ring, phase = jax.random.uniform(keys[0], (2, hidden_size), wide, eps, 1 - eps)
        lost = 1 - r_max**2 + ring * (r_max**2 - r_min**2)  # 1 - |a|²
        params = {
            # |a|² = r_max² (1 - …), whose logarithm is there for the smallest r_max too.
            "nu_log": jnp.log(-math.log(r_max) - jnp.log1p(-ring * (1 - (r_min / r_max) ** 2)) / 2),
            "theta_log": jnp.log(max_phase * phase),
            "gamma_log": jnp.log(lost) / 2,
            "b_re": normal(keys[1], input_size, hidden_size, 0.5 / input_size),
            "b_im": normal(keys[2], input_size, hidden_size, 0.5 / input_size),
            "c_re": normal(keys[3], hidden_size, output_size, 1 / hidden_size),
            "c_im": normal(keys[4], hidden_size, output_size, 1 / hidden_size),
        }
        return {name: p.astype(dtype) for name, p in params.items()}

    def carry(batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Modes:
        zero = parts.zeros(hidden_size, batch_shape, parts.at_least_float32(dtype))
        return jax.lax.complex(zero, zero)

    def project(params: Params, us: Array) -> parts.Drive:
        check.params_fit("lru", params, shapes)
        for name in ("b_re", "b_im"):
            check.features("xs", "lru", us, size=params[name].shape[0])
        us = jnp.asarray(us, params["b_re"].dtype)
        p = _wide(params)
        us, gamma = us.astype(p["b_re"].dtype), jnp.exp(p["gamma_log"])
        # γ goes into B, so that the gradient of γ needs no (T, *batch, H) array of its own.
        z_re, z_im = (us @ parts.scaled(p[name], gamma) for name in ("b_re", "b_im"))  # (R1)
        return parts.Drive(Affine(None, jax.lax.complex(z_re, z_im)))

    def prepare(params: Params) -> Complex[Array, " H"]:
        p = _wide(params)
        # Beyond 10 the radius is 0 anyway, and farther out its slope would be 0 · ∞.
        nu, phase = jnp.exp(jnp.minimum(p["nu_log"], 10)), jnp.exp(p["theta_log"])
        radius = jnp.exp(-nu)
        return jax.lax.complex(radius * jnp.cos(phase), radius * jnp.sin(phase))  # (R2)

    def output(params: Params, xs: Modes) -> Float[Array, "*lead O"]:
        check.params_fit("lru", params, shapes)
        p = _wide(params)
        ys = jnp.real(xs) @ p["c_re"] - jnp.imag(xs) @ p["c_im"]  # (R3)
        return ys.astype(params["c_re"].dtype)

    return Cell(init, carry, project, advance, output, adjoint, gather, prepare)


def _wide(params: Params) -> Params:
    """The parameters in the dtype of the state's real part."""
    return {name: jnp.asarray(p, parts.at_least_float32(p.dtype)) for name, p in params.items()}
