"""The recurrence of cells that are linear in their state, with its backward pass.

With λ_t = ∂L/∂h_t, and the dropout mask k (1 without dropout),

    h_t      = a_t ⊙ h_{t-1} + k ⊙ b_t                                                       (A1)
    λ_{t-1}  = λ_t ⊙ a_t                                                                     (A2)
    ∂L/∂a_t  = λ_t ⊙ h_{t-1},    ∂L/∂b_t = k ⊙ λ_t                                           (A3)

An a_t that depends on t is part of z. A constant a is the cell's w, `(H,)`, and its gradient is the
sum of (A3) over time and batch. The other of the two is None. `advance` saves nothing. The
equations also hold for complex numbers. JAX's cotangent of a complex h is λ = ∂L/∂Re h - i ∂L/∂Im
h, so that dL = Re Σ λ dh. So the adjoint of a holomorphic step multiplies by its derivative a, and
not by the conjugate of a.
"""

import dataclasses
from collections import namedtuple

import jax.numpy as jnp
from jaxtyping import Inexact

from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GatedCell, GateInputs
from jaxrnn.cells.kernels import Vector
from jaxrnn.types import Array, Params, Residuals

State = Inexact[Array, "*lead H"]


class Affine(namedtuple("Affine", "a b")):
    """The map h ↦ a ⊙ h + b of a step, or its cotangents; a is None if w holds it."""


def advance(w: Vector | None, h_tm1: State, z: GateInputs) -> tuple[State, tuple[()]]:
    """Runs one step of (A1)."""
    return _times_a(h_tm1, w, z) + kernels.scale(z.gates.b, z.dropout_mask), ()


def adjoint(w: Vector | None, residuals: Residuals, d_h: State) -> tuple[State, State]:
    """Runs one step of (A2); δ_t is λ_t."""
    return _times_a(d_h, w, residuals.z), d_h


def gradients(
    w: Vector | None, residuals: Residuals, deltas: State
) -> tuple[Vector | None, GateInputs]:
    """Returns (A3) for all steps."""
    d_a = deltas * residuals.previous_carry
    d_b = kernels.scale(deltas, residuals.z.dropout_mask)
    if w is None:
        return None, GateInputs(Affine(d_a, d_b))
    return kernels.bias_gradient(d_a), GateInputs(Affine(None, d_b))


def _times_a(h: State, w: Vector | None, z: GateInputs) -> State:
    return h * (z.gates.a if w is None else jnp.broadcast_to(w, h.shape))


@dataclasses.dataclass(frozen=True, repr=False)
class InputGatedCell(GatedCell):
    """A linear cell whose a_t and b_t depend on the input alone.

    No parameter is used in the loop.
    """

    @property
    def state_size(self) -> int:
        """0, since there is no recurrent kernel."""
        return 0

    def prepare(self, params: Params) -> None:
        """Returns None, since the loop reads no parameters."""
        return

    def _advance(self, w: None, carry: State, z: GateInputs) -> tuple[State, tuple[()]]:
        return advance(w, carry, z)

    def _adjoint(self, w: None, residuals: Residuals, d_carry: State) -> tuple[State, State]:
        return adjoint(w, residuals, d_carry)

    def _gradients(
        self, w: None, residuals: Residuals, deltas: State
    ) -> tuple[Vector | None, GateInputs]:
        return gradients(w, residuals, deltas)
