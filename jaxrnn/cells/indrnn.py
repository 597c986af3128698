"""The independently recurrent network of Li et al. (2018)."""

import dataclasses

import jax

from jaxrnn.cells import kernels
from jaxrnn.cells.elman import Activation, SimpleCell
from jaxrnn.cells.gated import Parameter
from jaxrnn.cells.kernels import Vector
from jaxrnn.types import Params, State


@dataclasses.dataclass(frozen=True, repr=False)
class indrnn(SimpleCell):
    """The independently recurrent cell, in which each unit reads only its own past.

        z_t      = x_t W_x + b                                                               (I1)
        a_t      = z_t + u ⊙ h_{t-1}                                                         (I2)
        h_t      = f(a_t),    y_t = h_t                                                      (I3)

    and backward, with λ_t = ∂L/∂h_t,

        δ_t      = λ_t ⊙ f'(a_t)                                                             (I4)
        λ_{t-1}  = δ_t ⊙ u                                                                   (I5)
        ∂L/∂u    = Σ_t h_{t-1} ⊙ δ_t,    ∂L/∂z_t = δ_t                                       (I6)

    This is the recurrence of `elman` with W_h = diag(u). For relu, f'(a_t) is 1 where h_t > 0, and
    0 elsewhere (at the kink too, as in JAX). For tanh, f'(a_t) = 1 - h_t². So only h_t is kept for
    these two. The gradient of a unit over n steps scales with u^n, so |u|^T should be near 1.

    Parameters: `w_x (I, H)`, `u (H)`, `b (H)`, all of one floating-point dtype; `init` draws w_x
    Lecun-normal and u uniform in [0, 1], the range that the paper uses for relu if the lengths to
    remember are unknown. The carry is h `(*batch, H)`, inputs are x `(*batch, I)`, outputs are h
    `(*batch, H)`, dimensionless.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        activation: f, an elementwise and differentiable function. JAX derives its slope, except for
            `jax.nn.relu` and `jnp.tanh`.

    Gradient: exact, hand-written. Time: no product in the loop; O(H) for each step and row, in
    order. Memory: h_t, T·B·H, with relu or tanh; twice as much otherwise.

    Source: S. Li, W. Li, C. Cook, C. Zhu, Y. Gao, "Independently recurrent neural network
    (IndRNN): building a longer and deeper RNN", CVPR 2018; arXiv:1803.04831.
    """

    activation: Activation = dataclasses.field(default=jax.nn.relu, kw_only=True)

    @property
    def extra_parameters(self) -> dict[str, Parameter]:
        """The recurrent weight of each unit."""
        return {"u": Parameter((self.hidden_size,), jax.random.uniform)}

    @property
    def state_size(self) -> int:
        """0, since there is no recurrent kernel."""
        return 0

    def prepare(self, params: Params) -> Vector:
        """Returns the recurrent weights u."""
        return params["u"]

    def _product(self, h: State, w: Vector) -> State:
        return kernels.scale(h, w)  # (I2)

    def _product_adjoint(self, delta: State, w: Vector) -> State:
        return kernels.scale(delta, w)  # (I5)

    def _product_gradient(self, hs: State, deltas: State, w: Vector) -> Vector:
        # A sum over time and batch of numbers for each unit, as the gradient of a bias is.
        return kernels.bias_gradient(hs * deltas)  # (I6)
