"""The coupled oscillatory recurrent network of Rusch and Mishra (2021)."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import tanh
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GatedCell
from jaxrnn.cells.kernels import RecurrentKernel
from jaxrnn.types import Array, Params, Residuals, State


class CoRNNCarry(NamedTuple):
    """The positions y and the velocities v of the oscillators, each `(*batch, H)`."""

    y: State
    v: State


@dataclasses.dataclass(frozen=True, repr=False)
class cornn(GatedCell):
    """The coRNN, driven and damped oscillators that are coupled by their positions and velocities.

    The system y'' = tanh(x W_x + [y y'] W_h + b) - γ y - ε y', in steps of dt, is

        z_t  = x_t W_x + b,    f_t = tanh(z_t + [y_{t-1} v_{t-1}] W_h)                       (O1)
        v_t  = v_{t-1} + dt (f_t - γ y_{t-1} - ε v_{t-1})                                    (O2)
        y_t  = y_{t-1} + dt v_t                                                              (O3)

    where y_t is the output. Backward, with λ_t = ∂L/∂y_t and μ_t = ∂L/∂v_t,

        μ_t += dt λ_t,    δ_t = dt μ_t ⊙ (1 - f_t²)                                          (O4)
        [λ_{t-1} μ_{t-1}] = [λ_t - dt γ μ_t    (1 - dt ε) μ_t] + δ_t W_hᵀ                    (O5)
        ∂L/∂W_h = Σ_t [y_{t-1} v_{t-1}]ᵀ δ_t,    ∂L/∂z_t = δ_t                               (O6)

    Parameters: `w_x (I, H)`, `w_h (2H, H)`, `b (H)`, all of one floating-point dtype; `init` draws
    w_x Lecun-normal and w_h orthogonal. The carry is `CoRNNCarry(y, v)`, each `(*batch, H)`, of
    float32 if params are narrower; v is z in the paper. Inputs are x `(*batch, I)`, outputs are y
    `(*batch, H)` of the params' dtype, dimensionless.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        dt: the time of a step, above 0; ValueError otherwise.
        gamma: γ, the stiffness of each oscillator, above 0; ValueError otherwise.
        epsilon: ε, the damping, above 0; ValueError otherwise.

    Gradient: exact, hand-written. Time: one recurrent product a step forward and one backward, in
    order; the gradient of the kernel is one more product, for all steps at once. Memory: y, v and
    f, 3·T·B·H.

    Source: T. K. Rusch, S. Mishra, "Coupled oscillatory recurrent neural network (coRNN): an
    accurate and (gradient) stable architecture for learning long time dependencies", ICLR 2021;
    arXiv:2010.00951, eq. (3), with explicit damping as in the authors' code.
    """

    dt: float
    gamma: float
    epsilon: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dt", "gamma", "epsilon"):
            value = check.require_positive(name, getattr(self, name))
            self.replace_fields(**{name: check.require_finite(name, value)})

    @property
    def gate_biases(self) -> tuple[float]:
        """The initial bias of the one pre-activation, 0."""
        return (0.0,)

    @property
    def state_size(self) -> int:
        """2H, the positions and the velocities."""
        return 2 * self.hidden_size

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> CoRNNCarry:
        """Returns oscillators at rest; float32 at least, since both are sums over all time."""
        wide = kernels.at_least_float32(dtype)
        # Two arrays, since a donated carry must not be donated twice.
        y = kernels.zeros(self.hidden_size, batch_shape, wide)
        v = kernels.zeros(self.hidden_size, batch_shape, wide)
        return CoRNNCarry(y, v)

    def project(self, params: Params, xs: Array) -> State:
        """Returns z = x W_x + b."""
        return self.project_gates(params, xs)[0]  # (O1)

    def output(self, params: Params, carries: CoRNNCarry) -> State:
        """Returns the positions y."""
        y = check.require_instance("carry", carries, CoRNNCarry).y
        return y.astype(params["b"].dtype)

    def _advance(self, w: RecurrentKernel, carry: CoRNNCarry, z: State) -> tuple[CoRNNCarry, State]:
        y, v = carry
        f = tanh(z + kernels.recurrent_product(kernels.join_gates(y, v), w))  # (O1)
        v = v + self.dt * (f - self.gamma * y - self.epsilon * v)  # (O2)
        # y moves with the new v, and not with the old one as in the explicit Euler method.
        return CoRNNCarry(y + self.dt * v, v), f  # (O3)

    def _adjoint(
        self, w: RecurrentKernel, residuals: Residuals, d_carry: CoRNNCarry
    ) -> tuple[CoRNNCarry, State]:
        f = residuals.saved
        d_v = d_carry.v + self.dt * d_carry.y
        delta = self.dt * d_v * (1 - f * f)  # (O4)
        through_f = kernels.recurrent_product_adjoint(delta, w)
        d_y_tm1, d_v_tm1 = kernels.split_gates(through_f, 2)
        d_y_tm1 += d_carry.y - self.dt * self.gamma * d_v
        d_v_tm1 += (1 - self.dt * self.epsilon) * d_v
        return CoRNNCarry(d_y_tm1, d_v_tm1), delta  # (O5)

    def _gradients(
        self, w: RecurrentKernel, residuals: Residuals, deltas: State
    ) -> tuple[RecurrentKernel, State]:
        states = kernels.join_gates(*residuals.previous_carry)
        return kernels.recurrent_kernel_gradient(states, deltas, w), deltas  # (O6)
