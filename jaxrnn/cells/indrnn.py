"""The independently recurrent network of Li et al. (2018)."""

from collections.abc import Callable

import jax
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.cells.parts import Activated, Form
from jaxrnn.types import Array, Cell, Params, Seen, State, once

Scale = Float[Array, " H"]  # u


@once
def indrnn(hidden_size: int, *, activation: Callable[[Array], Array] = jax.nn.relu) -> Cell:
    """The independently recurrent cell: each unit sees of the past only itself.

        z_t      = x_t W_x + b                                                               (I1)
        a_t      = z_t + u ⊙ h_{t-1}                                                         (I2)
        h_t      = f(a_t),    y_t = h_t                                                      (I3)

    and backward, with λ_t = ∂L/∂h_t,

        δ_t      = λ_t ⊙ f'(a_t)                                                             (I4)
        λ_{t-1}  = δ_t ⊙ u                                                                   (I5)
        ∂L/∂u    = Σ_t h_{t-1} ⊙ δ_t,    ∂L/∂z_t = δ_t                                       (I6)

    For relu, f'(a_t) is 1 where h_t > 0 and 0 elsewhere (at the kink too, as JAX has it), and for
    tanh it is 1 - h_t², so nothing but h_t is remembered. A unit's gradient over n steps scales
    with u^n: keep |u|^T near 1.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        activation: f, elementwise and differentiable; its slope is derived by JAX unless it is
            `jax.nn.relu` or `jnp.tanh`.

    Returns:
        A Cell with params `w_x (I, H)`, `u (H)`, `b (H)`, all of one floating dtype, and the carry
        h `(*batch, H)`. Inputs x `(*batch, I)`, outputs `(*batch, H)`, dimensionless. `init` draws
        w_x Lecun-normal and u uniform in [0, 1], the paper's range for relu where nothing is known
        of the lengths to be remembered.

    Gradient: exact, by hand. Time: no product in the loop; O(H) a step and row, in order. Memory:
    h_t alone, T·B·H, with relu or tanh; twice that otherwise.

    Source: S. Li, W. Li, C. Cook, C. Zhu, Y. Gao, "Independently recurrent neural network
    (IndRNN): building a longer and deeper RNN", CVPR 2018; arXiv:1803.04831.
    """
    check.function("activation", activation)
    more = {"u": ((hidden_size,), jax.random.uniform)}
    form = Form("indrnn", hidden_size, biases=(0.0,), more=more, state_size=0)

    def project(params: Params, xs: Array) -> State:
        return form.project(params, xs)[0]  # (I1)

    def prepare(params: Params) -> Scale:
        return params["u"]

    def advance(u: Scale, h_tm1: State, z_t: State) -> tuple[State, Activated]:
        a = z_t + parts.scaled(h_tm1, u)  # (I2)
        return parts.activated(activation, a)  # (I3)

    def adjoint(u: Scale, seen: Seen, d_h: State) -> tuple[State, State]:
        delta = parts.activated_adjoint(activation, seen, d_h)  # (I4)
        return parts.scaled(delta, u), delta  # (I5)

    def gather(u: Scale, seen: Seen, deltas: State) -> tuple[Scale, State]:
        return parts.summed(seen.carry_tm1 * deltas), deltas  # (I6)

    return form.cell(project, advance, adjoint, gather, prepare)
