"""The simple recurrent network of Elman (1990)."""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GatedCell
from jaxrnn.types import Array, Params, Residuals, State, Weights

Activation = Callable[[Array], Array]
# (h_t, λ_t) -> δ_t = λ_t ⊙ f'(a_t), for the activations whose slope follows from h = f(a). For
# these, no pre-activation is kept. The slope of relu at 0 is 0, as in JAX.
DELTA_FROM_STATE: dict[Activation, Callable[[State, State], State]] = {
    jnp.tanh: lambda h, d_h: d_h * (1 - h * h),
    jax.nn.relu: lambda h, d_h: jnp.where(h > 0, d_h, 0),
}


class PreActivation(NamedTuple):
    """The pre-activation a, `(*lead, H)`; None if the slope follows from the state.

    It has a name, since `history` returns it.
    """

    a: State | None


@dataclasses.dataclass(frozen=True, repr=False)
class SimpleCell(GatedCell):
    """The recurrence h_t = f(z_t + r(h_{t-1}, w)), for a product r and its two adjoints.

    `elman` has the product r = h W_h, and `indrnn` the product r = u ⊙ h.
    """

    activation: Activation = dataclasses.field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check.require_elementwise("activation", self.activation)

    @property
    def gate_biases(self) -> tuple[float]:
        """The initial bias of the one pre-activation, 0."""
        return (0.0,)

    @abc.abstractmethod
    def _product(self, h: State, w: Weights) -> State:
        """Returns r(h, w)."""

    @abc.abstractmethod
    def _product_adjoint(self, delta: State, w: Weights) -> State:
        """Returns (∂r/∂h)ᵀ δ."""

    @abc.abstractmethod
    def _product_gradient(self, hs: State, deltas: State, w: Weights) -> Weights:
        """Returns Σ (∂r/∂w)ᵀ δ, summed over time and batch."""

    def project(self, params: Params, xs: Array) -> State:
        """Returns z = x W_x + b."""
        return self.project_gates(params, xs)[0]  # (E1)

    def _advance(self, w: Weights, carry: State, z: State) -> tuple[State, PreActivation]:
        a = z + self._product(carry, w)  # (E2)
        h = self.activation(a)  # (E3)
        if self._delta_from_state is not None:
            return h, PreActivation(None)
        return h, PreActivation(a)

    def _adjoint(self, w: Weights, residuals: Residuals, d_carry: State) -> tuple[State, State]:
        if self._delta_from_state is not None:
            delta = self._delta_from_state(residuals.carry, d_carry)  # (E4)
        else:
            _, pullback = jax.vjp(self.activation, residuals.saved.a)
            (delta,) = pullback(d_carry)  # (E4)
        return self._product_adjoint(delta, w), delta  # (E5)

    def _gradients(self, w: Weights, residuals: Residuals, deltas: State) -> tuple[Weights, State]:
        return self._product_gradient(residuals.previous_carry, deltas, w), deltas  # (E6)

    @property
    def _delta_from_state(self) -> Callable[[State, State], State] | None:
        """The function of (h_t, λ_t) that returns δ_t; None if δ_t needs a_t."""
        return DELTA_FROM_STATE.get(self.activation)


@dataclasses.dataclass(frozen=True, repr=False)
class elman(SimpleCell):
    """The simple recurrent cell, h_t = f(x_t W_x + h_{t-1} W_h + b).

        z_t      = x_t W_x + b                                                               (E1)
        a_t      = z_t + h_{t-1} W_h                                                         (E2)
        h_t      = f(a_t),    y_t = h_t                                                      (E3)

    and backward, with λ_t = ∂L/∂h_t,

        δ_t      = λ_t ⊙ f'(a_t)                                                             (E4)
        λ_{t-1}  = δ_t W_hᵀ + ∂ℓ_{t-1}/∂h_{t-1}                                              (E5)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ δ_t,    ∂L/∂z_t = δ_t                                        (E6)

    where ℓ_{t-1} is the loss of step t-1. For tanh, f'(a_t) = 1 - h_t². For relu, f'(a_t) is 1
    where h_t > 0, and 0 elsewhere. So only h_t is kept for these two.

    Parameters: `w_x (I, H)`, `w_h (H, H)`, `b (H)`, all of one floating-point dtype; `init` draws
    w_x Lecun-normal and w_h orthogonal. The carry is h `(*batch, H)`, inputs are x `(*batch, I)`,
    outputs are h `(*batch, H)`, dimensionless.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        activation: f, an elementwise and differentiable function. JAX derives its slope, except for
            `jnp.tanh` and `jax.nn.relu`.

    Gradient: exact, hand-written. Time: one recurrent product a step forward and one backward, in
    order; the gradient of the kernel is one more product, for all steps at once. Memory: h_t,
    T·B·H, with tanh or relu; twice as much otherwise.

    Source: J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990).
    """

    activation: Activation = dataclasses.field(default=jnp.tanh, kw_only=True)

    def _product(self, h: State, w: Weights) -> State:
        return kernels.recurrent_product(h, w)

    def _product_adjoint(self, delta: State, w: Weights) -> State:
        return kernels.recurrent_product_adjoint(delta, w)

    def _product_gradient(self, hs: State, deltas: State, w: Weights) -> Weights:
        return kernels.recurrent_kernel_gradient(hs, deltas, w)
