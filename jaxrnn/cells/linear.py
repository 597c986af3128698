"""The recurrence of cells that are linear in their state, with its backward pass.

With λ_t = ∂L/∂h_t, and k the dropout mask of what is added, else 1,

    h_t      = a_t ⊙ h_{t-1} + k ⊙ b_t                                                       (A1)
    λ_{t-1}  = λ_t ⊙ a_t                                                                     (A2)
    ∂L/∂a_t  = λ_t ⊙ h_{t-1},    ∂L/∂b_t = k ⊙ λ_t                                           (A3)

An a_t that depends on t lies in z. A constant a is the cell's w, `(H,)`, and its gradient the sum
of (A3); the other of the two is None. Nothing is saved beside the carry. All of it holds for
complex numbers as it stands: JAX's cotangent of h is λ = ∂L/∂Re h - i ∂L/∂Im h, so that dL = Re Σ λ
dh, and a holomorphic step is transposed by its derivative a and not by the conjugate of it.
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
    """The map h ↦ a ⊙ h + b of a step, or its cotangents; a is None where w has it."""


def advance(w: Vector | None, h_tm1: State, z: GateInputs) -> tuple[State, tuple[()]]:
    """One step of (A1)."""
    return _times_a(h_tm1, w, z) + kernels.scale(z.gates.b, z.dropout_mask), ()


def adjoint(w: Vector | None, residuals: Residuals, d_h: State) -> tuple[State, State]:
    """One step of (A2); δ_t is λ_t."""
    return _times_a(d_h, w, residuals.z), d_h


def gradients(
    w: Vector | None, residuals: Residuals, deltas: State
) -> tuple[Vector | None, GateInputs]:
    """All of (A3)."""
    d_a = deltas * residuals.previous_carry
    d_b = kernels.scale(deltas, residuals.z.dropout_mask)
    if w is None:
        return None, GateInputs(Affine(d_a, d_b))
    return kernels.bias_gradient(d_a), GateInputs(Affine(None, d_b))


def _times_a(h: State, w: Vector | None, z: GateInputs) -> State:
    return h * (z.gates.a if w is None else jnp.broadcast_to(w, h.shape))


@dataclasses.dataclass(frozen=True, repr=False)
class InputGatedCell(GatedCell):
    """A linear cell whose a_t and b_t depend on the input alone; no parameter acts in the loop."""

    @property
    def state_size(self) -> int:
        """0: there is no recurrent kernel."""
        return 0

    def prepare(self, params: Params) -> None:
        """None: the loop reads no parameters."""
        return

    def _advance(self, w: None, carry: State, z: GateInputs) -> tuple[State, tuple[()]]:
        return advance(w, carry, z)

    def _adjoint(self, w: None, residuals: Residuals, d_carry: State) -> tuple[State, State]:
        return adjoint(w, residuals, d_carry)

    def _gradients(
        self, w: None, residuals: Residuals, deltas: State
    ) -> tuple[Vector | None, GateInputs]:
        return gradients(w, residuals, deltas)
