"""The simple recurrent network of Elman (1990)."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.cells.parts import Form
from jaxrnn.types import Array, Cell, Params, Seen, State, once

# λ ⊙ f'(a) of the activations whose slope can be told from h = f(a); of relu it is 0 at the kink,
# as JAX has it.
SLOPES_OF_VALUES: dict[Any, Callable[[State, State], State]] = {
    jnp.tanh: lambda h, d_h: d_h * (1 - h * h),
    jax.nn.relu: lambda h, d_h: jnp.where(h > 0, d_h, 0),
}


class Activated(namedtuple("Activated", "a")):
    """The pre-activation, `(*lead, H)`, or None where the slope can be told from the value."""


@once
def elman(hidden_size: int, *, activation: Callable[[Array], Array] = jnp.tanh) -> Cell:
    """The simple recurrent cell, h_t = f(x_t W_x + h_{t-1} W_h + b).

        z_t      = x_t W_x + b                                                               (E1)
        a_t      = z_t + h_{t-1} W_h                                                         (E2)
        h_t      = f(a_t),    y_t = h_t                                                      (E3)

    and backward, with λ_t = ∂L/∂h_t,

        δ_t      = λ_t ⊙ f'(a_t)                                                             (E4)
        λ_{t-1}  = δ_t W_hᵀ + (what step t-1 sends back itself)                              (E5)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ δ_t,    ∂L/∂z_t = δ_t                                        (E6)

    For tanh, f'(a_t) = 1 - h_t², and for relu it is 1 where h_t > 0 and 0 elsewhere, so nothing but
    h_t is remembered.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        activation: f, elementwise and differentiable; its slope is derived by JAX unless it is
            `jnp.tanh` or `jax.nn.relu`.

    Returns:
        A Cell with params `w_x (I, H)`, `w_h (H, H)`, `b (H)`, all of one floating dtype, and the
        carry h `(*batch, H)`. Inputs x `(*batch, I)`, outputs `(*batch, H)`, dimensionless.
        `init` draws w_x Lecun-normal and w_h orthogonal.

    Gradient: exact, by hand. Time: one recurrent product a step forward and one backward, in order;
    the kernel's gradient is one more for all steps at once. Memory: h_t alone, T·B·H, with tanh or
    relu; twice that otherwise.

    Source: J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990).
    """
    products = parts.product, parts.product_adjoint, parts.product_gathered
    form = Form("elman", hidden_size, biases=(0.0,))
    return recurrence(form, activation, parts.recurrent_kernel, *products)


def recurrence(form: Form, f: Any, prepare: Any, product: Any, adjoint: Any, gathered: Any) -> Cell:
    """The cell of (E1) to (E6) for any product of h_{t-1} and w, given with its two adjoints."""
    slope = SLOPES_OF_VALUES.get(check.elementwise("activation", f))

    def project(params: Params, xs: Array) -> State:
        return form.project(params, xs)[0]  # (E1)

    def advance(w: Any, h_tm1: State, z_t: State) -> tuple[State, Activated]:
        a = z_t + product(h_tm1, w)  # (E2)
        return f(a), Activated(None if slope else a)  # (E3)

    def step_adjoint(w: Any, seen: Seen, d_h: State) -> tuple[State, State]:
        a = seen.saved.a
        delta = slope(seen.carry, d_h) if slope else jax.vjp(f, a)[1](d_h)[0]  # (E4)
        return adjoint(delta, w), delta  # (E5)

    def gather(w: Any, seen: Seen, deltas: State) -> tuple[Any, State]:
        return gathered(seen.carry_tm1, deltas, w), deltas  # (E6)

    return form.cell(project, advance, step_adjoint, gather, prepare)
