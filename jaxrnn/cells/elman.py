"""The simple recurrent network of Elman (1990)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.cells.parts import Kernel
from jaxrnn.types import Array, Cell, Params, Seen, State


class ElmanSaved(NamedTuple):
    """The pre-activation, or None where the slope can be told from h_t."""

    a: Float[Array, "*lead H"] | None


def elman(hidden_size: int, *, activation: Callable[[Array], Array] = jnp.tanh) -> Cell:
    """The simple recurrent cell, h_t = f(x_t W_x + h_{t-1} W_h + b).

        z_t      = x_t W_x + b                                                               (E1)
        a_t      = z_t + h_{t-1} W_h                                                         (E2)
        h_t      = f(a_t),    y_t = h_t                                                      (E3)

    and backward, with λ_t = ∂L/∂h_t,

        δ_t      = λ_t ⊙ f'(a_t)                                                             (E4)
        λ_{t-1}  = δ_t W_hᵀ + (what step t-1 sends back itself)                              (E5)
        ∂L/∂W_h  = Σ_t h_{t-1}ᵀ δ_t,    ∂L/∂z_t = δ_t                                        (E6)

    For tanh, f'(a_t) = 1 - h_t², so nothing but h_t is remembered.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        activation: f, elementwise and differentiable; its slope is derived by JAX unless it is
            `jnp.tanh`.

    Returns:
        A Cell with params `w_x (I, H)`, `w_h (H, H)`, `b (H)`, all of one floating dtype, and the
        carry h `(*batch, H)`. Inputs x `(*batch, I)`, outputs `(*batch, H)`, dimensionless.
        `init` draws w_x Lecun-normal and w_h orthogonal.

    Gradient: exact, by hand. Time: one recurrent product a step forward and one backward, in order;
    the kernel's gradient is one more for all steps at once. Memory: h_t alone, T·B·H, with tanh;
    twice that otherwise.

    Source: J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990).
    """
    check.integer("hidden_size", hidden_size, least=1)
    check.function("activation", activation)
    return _elman(hidden_size, activation)


@functools.cache
def _elman(hidden_size: int, activation: Callable[[Array], Array]) -> Cell:
    def init(key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        return parts.initial(key, input_size, hidden_size, 1, dtype)

    def carry(batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return parts.zero_carry(hidden_size, batch_shape, dtype)

    def project(params: Params, xs: Array) -> State:
        return parts.project_gates("elman", params, xs, 1, hidden_size)[0]  # (E1)

    def prepare(params: Params) -> Kernel:
        return parts.kernel(params["w_h"])

    def advance(w: Kernel, h_tm1: State, z_t: State) -> tuple[State, ElmanSaved]:
        a = z_t + parts.product(h_tm1, w)  # (E2)
        return activation(a), ElmanSaved(None if activation is jnp.tanh else a)  # (E3)

    def output(params: Params, hs: State) -> State:
        return hs

    def adjoint(w: Kernel, seen: Seen, d_h: State) -> tuple[State, State]:
        h_t, a = seen.carry, seen.saved.a
        if a is None:
            delta = d_h * (1 - h_t * h_t)  # (E4) for tanh
        else:
            (delta,) = jax.vjp(activation, a)[1](d_h)  # (E4)
        return parts.product_adjoint(delta, w), delta  # (E5)

    def gather(w: Kernel, seen: Seen, deltas: State) -> tuple[Kernel, State]:
        return parts.product_gathered(seen.carry_tm1, deltas, w), deltas  # (E6)

    return Cell(init, carry, project, advance, output, adjoint, gather, prepare)
