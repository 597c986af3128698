"""The independently recurrent network of Li et al. (2018)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.types import Array, Cell, Params, Seen, State


class IndRNNSaved(NamedTuple):
    """The pre-activation, or None where the slope can be told from h_t."""

    a: Float[Array, "*lead H"] | None


def indrnn(hidden_size: int, *, activation: Callable[[Array], Array] = jax.nn.relu) -> Cell:
    """The independently recurrent cell: each unit sees of the past only itself.

        z_t      = x_t W_x + b                                                               (I1)
        a_t      = z_t + u ⊙ h_{t-1}                                                         (I2)
        h_t      = f(a_t),    y_t = h_t                                                      (I3)

    and backward, with λ_t = ∂L/∂h_t,

        δ_t      = λ_t ⊙ f'(a_t)                                                             (I4)
        λ_{t-1}  = δ_t ⊙ u                                                                   (I5)
        ∂L/∂u    = Σ_t h_{t-1} ⊙ δ_t,    ∂L/∂z_t = δ_t                                       (I6)

    For relu, f'(a_t) is 1 where h_t > 0 and 0 elsewhere (at the kink too, as JAX has it), so
    nothing but h_t is remembered. A unit's gradient over n steps scales with u^n: keep
    |u|^T near 1.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        activation: f, elementwise and differentiable; its slope is derived by JAX unless it is
            `jax.nn.relu`.

    Returns:
        A Cell with params `w_x (I, H)`, `u (H)`, `b (H)`, all of one floating dtype, and the carry
        h `(*batch, H)`. Inputs x `(*batch, I)`, outputs `(*batch, H)`, dimensionless. `init` draws
        w_x Lecun-normal and u uniform in [0, 1], the paper's range for relu where nothing is known
        of the lengths to be remembered.

    Gradient: exact, by hand. Time: no product in the loop; O(H) a step and row, in order. Memory:
    h_t alone, T·B·H, with relu; twice that otherwise.

    Source: S. Li, W. Li, C. Cook, C. Zhu, Y. Gao, "Independently recurrent neural network
    (IndRNN): building a longer and deeper RNN", CVPR 2018; arXiv:1803.04831.
    """
    check.integer("hidden_size", hidden_size, least=1)
    check.function("activation", activation)
    return _indrnn(hidden_size, activation)


@functools.cache
def _indrnn(hidden_size: int, activation: Callable[[Array], Array]) -> Cell:
    def init(key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        key_x, key_u = jax.random.split(key)
        params = parts.initial_input(key_x, input_size, hidden_size, 1, dtype)
        return {**params, "u": jax.random.uniform(key_u, (hidden_size,), dtype)}

    def carry(batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return parts.zero_carry(hidden_size, batch_shape, dtype)

    def project(params: Params, xs: Array) -> State:
        more = {"w_h": None, "u": (hidden_size,)}
        return parts.project_gates("indrnn", params, xs, 1, hidden_size, **more)[0]  # (I1)

    def prepare(params: Params) -> Float[Array, " H"]:
        return params["u"]

    def advance(u: Float[Array, " H"], h_tm1: State, z_t: State) -> tuple[State, IndRNNSaved]:
        a = z_t + parts.scaled(h_tm1, u)  # (I2)
        return activation(a), IndRNNSaved(None if activation is jax.nn.relu else a)  # (I3)

    def output(params: Params, hs: State) -> State:
        return hs

    def adjoint(u: Float[Array, " H"], seen: Seen, d_h: State) -> tuple[State, State]:
        h_t, a = seen.carry, seen.saved.a
        if a is None:
            delta = jnp.where(h_t > 0, d_h, 0)  # (I4) for relu
        else:
            (delta,) = jax.vjp(activation, a)[1](d_h)  # (I4)
        return parts.scaled(delta, u), delta  # (I5)

    def gather(
        u: Float[Array, " H"], seen: Seen, deltas: State
    ) -> tuple[Float[Array, " H"], State]:
        return parts.summed(seen.carry_tm1 * deltas), deltas  # (I6)

    return Cell(init, carry, project, advance, output, adjoint, gather, prepare)
