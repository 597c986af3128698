"""The recurrence that cells without a nonlinearity in time share, with its backward pass.

With λ_t = ∂L/∂h_t, and keep k where noise is put on what is added (see `parts`), else 1,

    h_t      = a_t ⊙ h_{t-1} + k ⊙ b_t                                                       (A1)
    λ_{t-1}  = λ_t ⊙ a_t                                                                     (A2)
    ∂L/∂a_t  = λ_t ⊙ h_{t-1},    ∂L/∂b_t = k ⊙ λ_t                                           (A3)

An a_t that varies lies in z, one that does not is the cell's w, `(H,)`, and its gradient the sum of
(A3); the other of the two is None. Nothing is saved beside the carry. All of it holds for complex
numbers as it stands: JAX's cotangent of h is λ = ∂L/∂Re h - i ∂L/∂Im h, so that dL = Re Σ λ dh, and
a holomorphic step is transposed by its derivative a and not by the conjugate of it.
"""

from collections import namedtuple

import jax.numpy as jnp
from jaxtyping import Inexact

from jaxrnn.cells import parts
from jaxrnn.cells.parts import Drive, Vector
from jaxrnn.types import Array, Seen

State = Inexact[Array, "*lead H"]


class Affine(namedtuple("Affine", "a b")):
    """The map h ↦ a ⊙ h + b of a step, or its cotangents; a is None where w has it."""


def advance(w: Vector | None, h_tm1: State, z: Drive) -> tuple[State, tuple[()]]:
    """One step of (A1)."""
    return _times_a(h_tm1, w, z) + parts.scaled(z.gates.b, z.keep), ()


def adjoint(w: Vector | None, seen: Seen, d_h: State) -> tuple[State, State]:
    """One step of (A2); δ_t is λ_t."""
    return _times_a(d_h, w, seen.z), d_h


def gather(w: Vector | None, seen: Seen, deltas: State) -> tuple[Vector | None, Drive]:
    """All of (A3)."""
    d_a, d_b = deltas * seen.carry_tm1, parts.scaled(deltas, seen.z.keep)
    if w is None:
        return None, Drive(Affine(d_a, d_b))
    return parts.summed(d_a), Drive(Affine(None, d_b))


def _times_a(h: State, w: Vector | None, z: Drive) -> State:
    return h * (z.gates.a if w is None else jnp.broadcast_to(w, h.shape))


# All that runs over time, where a_t lies in z: all parameters act on the inputs, none in the loop.
STEP = (advance, adjoint, gather, lambda params: None)
