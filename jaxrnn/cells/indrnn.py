"""The independently recurrent network of Li et al. (2018)."""

from collections.abc import Callable

import jax

from jaxrnn.cells import parts
from jaxrnn.cells.elman import recurrence
from jaxrnn.types import Array, Cell, State, once


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

    This is `elman`'s recurrence with W_h = diag(u). For relu, f'(a_t) is 1 where h_t > 0 and 0
    elsewhere (at the kink too, as JAX has it), and for tanh it is 1 - h_t², so nothing but h_t is
    remembered. A unit's gradient over n steps scales with u^n: keep |u|^T near 1.

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
    more = {"u": ((hidden_size,), jax.random.uniform)}
    form = parts.Form("indrnn", hidden_size, biases=(0.0,), more=more, state_size=0)

    def gathered(hs_tm1: State, deltas: State, u: parts.Vector) -> parts.Vector:
        return parts.summed(hs_tm1 * deltas)  # (I6)

    products = parts.scaled, parts.scaled, gathered  # (I2), (I5)
    return recurrence(form, activation, lambda params: params["u"], *products)
