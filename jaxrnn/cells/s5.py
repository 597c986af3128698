"""The diagonal state space layer S5 of Smith et al. (2023)."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GateInputs
from jaxrnn.cells.linear import Affine, LinearCell, apply_dropout
from jaxrnn.types import Array, Key, Params

Modes = Complex[Array, "*lead M"]
# A mode forgets all within a larger step too, and a much larger one would give the slope 0 · ∞.
LARGEST_LOG_STEP = 20


@dataclasses.dataclass(frozen=True, repr=False)
class s5(LinearCell):
    """S5: a linear state space in continuous time, diagonal and complex, with a learned time step.

        dx/dt = Λ ⊙ x + u B,    y = 2 Re(x C),    Λ = lambda_re + i lambda_im                (S1)

    for inputs u_t that are constant during step t, which takes the time Δ = exp(log_step):

        x_t = ā ⊙ x_{t-1} + u_t B̄,    ā = exp(Λ Δ),    B̄ = (ā - 1) / Λ ⊙ B                 (S2)
        y_t = 2 Re(x_t C)                                                                    (S3)

    with B = b_re + i b_im and C = c_re + i c_im. Backward, with λ_t = ∂L/∂Re x_t - i ∂L/∂Im x_t,
    which is JAX's cotangent of a complex number, and the loss ℓ_{t-1} of step t-1,

        λ_{t-1} = λ_t ⊙ ā + ∂ℓ_{t-1}/∂x_{t-1}                                                (S4)
        ∂L/∂ā   = Σ_t λ_t ⊙ x_{t-1},    ∂L/∂(u_t B̄) = λ_t                                    (S5)

    and JAX differentiates (S3) and the rest of (S2), which are outside the loop. The state space is
    real, so its N modes are pairs of complex conjugates. One mode M = N/2 of each pair is computed,
    and the factor 2 stands for the other. Without `conjugate_symmetry`, all M = N modes are
    computed, and the factor is 1. Nothing keeps the real part of Λ below 0 in training; a small
    learning rate for `lambda_re`, `lambda_im` and `log_step` is usual.

    The cell has no skip connection D ⊙ u_t, which is part of the published layer, since outputs
    depend on the carry alone. If I = H, a residual connection around the cell is D = identity.

    Parameters: `lambda_re`, `lambda_im`, `log_step` `(M)`, `b_re`, `b_im` `(I, M)`, `c_re`, `c_im`
    `(M, H)`, all of one floating-point dtype. `init` sets Λ to the eigenvalues of HiPPO-N, the
    normal part of the HiPPO-LegS matrix of N/K states, once for each of the K blocks. In the basis
    of these states, it draws B Lecun-normal, and the real and imaginary parts of C normal, with
    variance 1/N. Δ is log-uniform between `dt_min` and `dt_max`. The carry is x `(*batch, M)`,
    complex128 for float64 params and complex64 for narrower ones. Inputs are `(*batch, I)`, outputs
    are `(*batch, H)` of the params' dtype, dimensionless.

    Args:
        hidden_size: H, the number of outputs, at least 1; ValueError below, TypeError if not an
            int.
        state_size: N, a multiple of K, and of 2K with `conjugate_symmetry`; ValueError otherwise.
        num_blocks: K, the number of blocks of the initial state matrix, at least 1.
        conjugate_symmetry: whether one mode of each conjugate pair is computed.
        dt_min: the smallest initial Δ. 0 < dt_min ≤ dt_max; ValueError otherwise.
        dt_max: the largest initial Δ.

    Gradient: exact, hand-written. Time: no product in the loop; O(M) for each step and row, in
    order. Memory: x, 2·T·B·M real numbers.

    Source: J. T. H. Smith, A. Warrington, S. W. Linderman, "Simplified state space layers for
    sequence modeling", ICLR 2023; arXiv:2208.04933.
    """

    hidden_size: int
    state_size: int
    _: dataclasses.KW_ONLY
    num_blocks: int = 1
    conjugate_symmetry: bool = True
    dt_min: float = 0.001
    dt_max: float = 0.1

    def __post_init__(self) -> None:
        check.require_int("hidden_size", self.hidden_size, least=1)
        check.require_int("state_size", self.state_size, least=1)
        check.require_int("num_blocks", self.num_blocks, least=1)
        check.require_bool("conjugate_symmetry", self.conjugate_symmetry)
        divisor = self.num_blocks
        if self.conjugate_symmetry:
            divisor *= 2  # the modes of a block are pairs
        fits = self.state_size % divisor == 0
        check.require(fits, "state_size", self.state_size, f"a multiple of {divisor}")
        dt_min = check.require_finite("dt_min", self.dt_min)
        dt_max = check.require_finite("dt_max", self.dt_max)
        is_range = 0 < dt_min <= dt_max
        check.require(is_range, "dt_min, dt_max", f"{dt_min}, {dt_max}", "0 < dt_min <= dt_max")
        self.replace_fields(dt_min=dt_min, dt_max=dt_max)

    @property
    def num_modes(self) -> int:
        """M, the number of complex numbers in the carry."""
        return self.state_size // 2 if self.conjugate_symmetry else self.state_size

    @property
    def parameter_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each parameter; None stands for any size."""
        mode = (self.num_modes,)
        b = (None, self.num_modes)
        c = (self.num_modes, self.hidden_size)
        modes = {"lambda_re": mode, "lambda_im": mode, "log_step": mode}
        return {**modes, "b_re": b, "b_im": b, "c_re": c, "c_im": c}

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the initial parameters."""
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        wide = kernels.at_least_float32(dtype)
        key_b, key_c_re, key_c_im, key_step = jax.random.split(key, 4)
        hippo = _hippo_n(self.state_size // self.num_blocks, self.conjugate_symmetry)
        # The state matrix has a copy of HiPPO-N in each block of its diagonal, so the eigenvectors
        # of the whole are those of a block, in its place.
        blocks = np.eye(self.num_blocks)
        v_re = jnp.asarray(np.kron(blocks, hippo.vectors.real), wide)
        v_im = jnp.asarray(np.kron(blocks, hippo.vectors.imag), wide)
        shape_c = (self.hidden_size, self.state_size)
        b = jax.random.normal(key_b, (input_size, self.state_size), wide) / math.sqrt(input_size)
        c_re = jax.random.normal(key_c_re, shape_c, wide) / math.sqrt(self.state_size)
        c_im = jax.random.normal(key_c_im, shape_c, wide) / math.sqrt(self.state_size)
        log_range = (math.log(self.dt_min), math.log(self.dt_max))
        # x V* has the coordinates of x in the basis V of modes; V is the change back.
        params = {
            "lambda_re": jnp.asarray(np.tile(hippo.values.real, self.num_blocks), wide),
            "lambda_im": jnp.asarray(np.tile(hippo.values.imag, self.num_blocks), wide),
            "log_step": jax.random.uniform(key_step, (self.num_modes,), wide, *log_range),
            "b_re": b @ v_re,
            "b_im": -b @ v_im,
            "c_re": (c_re @ v_re - c_im @ v_im).T,
            "c_im": (c_re @ v_im + c_im @ v_re).T,
        }
        return kernels.cast_parameters(params, dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Modes:
        """Returns zero modes."""
        zero = kernels.zeros(self.num_modes, batch_shape, kernels.at_least_float32(dtype))
        return jax.lax.complex(zero, zero)

    def project(self, params: Params, xs: Array) -> GateInputs:
        """Returns z = u B̄."""
        check.require_params("s5", params, self.parameter_shapes)
        check.require_features("xs", "s5", xs, size=params["b_re"].shape[0])
        p = kernels.widen(params)
        us = jnp.asarray(xs, params["b_re"].dtype).astype(p["b_re"].dtype)
        factor = kernels.scale(_integral_of_exp(_exponents(p)), _step(p))
        b_bar = kernels.scale(jax.lax.complex(p["b_re"], p["b_im"]), factor)
        # Real inputs: two real products are half the work of a complex one.
        return GateInputs((jax.lax.complex(us @ jnp.real(b_bar), us @ jnp.imag(b_bar)),))  # (S2)

    def prepare(self, params: Params) -> Complex[Array, " M"]:
        """Returns ā."""
        p = kernels.widen(params)
        return jnp.exp(_exponents(p))  # (S2)

    def affine(self, w: Complex[Array, " M"], zs: GateInputs) -> Affine:
        """Returns ā and z of (S2)."""
        (z,) = zs.gates
        return Affine(w, apply_dropout(z, zs.dropout_mask))

    def output(self, params: Params, carries: Modes) -> Float[Array, "*lead H"]:
        """Returns y = 2 Re(x C)."""
        check.require_params("s5", params, self.parameter_shapes)
        p = kernels.widen(params)
        factor = 2 if self.conjugate_symmetry else 1
        ys = jnp.real(carries) @ p["c_re"] - jnp.imag(carries) @ p["c_im"]
        return (factor * ys).astype(params["c_re"].dtype)  # (S3)


class Eigensystem(NamedTuple):
    """The eigenvalues `(M)` and eigenvectors `(N, M)` of a normal matrix, in NumPy."""

    values: np.ndarray
    vectors: np.ndarray


@functools.lru_cache(maxsize=64)
def _hippo_n(size: int, conjugate_symmetry: bool) -> Eigensystem:
    """Returns the eigensystem of HiPPO-N; with symmetry, half of it, one of each conjugate pair.

    HiPPO-N is -1/2 plus a skew-symmetric matrix S,

        S[m,n] = √(m + 1/2) √(n + 1/2) for m < n, and its negative for m > n.                (S6)

    It depends on the size alone, so NumPy computes it while the program is traced; a JAX program
    would call LAPACK.
    """
    root = np.sqrt(np.arange(size) + 0.5)
    lower = np.tril(np.outer(root, root), -1)
    skew = lower.T - lower  # (S6)
    # -iS is Hermitian, so its eigenvalues ω are real, and those of HiPPO-N are -1/2 + iω. They are
    # in ascending order, ±ω in pairs, so the first half has one of each pair.
    frequencies, vectors = np.linalg.eigh(-1j * skew)
    kept = size // 2 if conjugate_symmetry else size
    # An eigenvector has any phase. This one makes starts equal on all machines.
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    vectors = vectors * (abs(largest) / largest)
    return Eigensystem(-0.5 + 1j * frequencies[:kept], vectors[:, :kept])


def _step(p: Params) -> Float[Array, " M"]:
    """Returns Δ."""
    return jnp.exp(jnp.minimum(p["log_step"], LARGEST_LOG_STEP))


def _exponents(p: Params) -> Complex[Array, " M"]:
    """Returns Λ Δ."""
    step = _step(p)
    return jax.lax.complex(p["lambda_re"] * step, p["lambda_im"] * step)


def _integral_of_exp(z: Complex[Array, " M"]) -> Complex[Array, " M"]:
    """Returns (exp(z) - 1) / z, the integral of exp(s z) for s from 0 to 1; 1 at z = 0."""
    is_zero = z == 0
    # The branch that is not taken has to be finite too, or its slope would make the gradient NaN.
    # At 0 the value is 1 and the slope is 1/2, as in 1 + z/2.
    safe = jnp.where(is_zero, 1, z)
    return jnp.where(is_zero, 1 + z / 2, jnp.expm1(safe) / safe)
