"""The minimal GRU of Feng et al. (2024), whose gates do not see the state."""

from jax.nn import sigmoid

from jaxrnn.cells import linear
from jaxrnn.cells.parts import Drive, Form
from jaxrnn.types import Array, Cell, Params, once


@once
def min_gru(hidden_size: int) -> Cell:
    """The minGRU: a GRU without reset whose gates depend on the input alone.

        x_z, x_n = x_t W_x + b, each its own columns                                         (N1)
        z = σ(x_z),    n = x_n                                                               (N2)
        h_t = (1 - z) ⊙ h_{t-1} + z ⊙ n,    y_t = h_t                                        (N3)

    This is `linear`'s recurrence with a = 1 - z and b = z ⊙ n. Backward, with λ_t = ∂L/∂h_t,

        λ_{t-1} = λ_t ⊙ (1 - z)                                                              (N4)
        ∂L/∂a_t = λ_t ⊙ h_{t-1},    ∂L/∂b_t = λ_t                                            (N5)

    and JAX takes it on from there through (N2) and (N1), which lie outside the loop.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.

    Returns:
        A Cell with params `w_x (I, 2H)`, `b (2H)`, gates in the order z, n, all of one floating
        dtype, and the carry h `(*batch, H)`. Inputs x `(*batch, I)`, outputs h `(*batch, H)`,
        dimensionless. `init` draws w_x Lecun-normal. The plain form: n may be negative, and nothing
        is taken in logarithms.

    Gradient: exact, by hand. Time: no product in the loop; O(H) a step and row, in order. Memory:
    h and a in the loop, z and n before it, 4·T·B·H.

    Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio, H. Hajimirsadeghi, "Were RNNs all we needed?"
    (2024), arXiv:2410.01201.
    """
    form = Form("min_gru", hidden_size, biases=(0.0,) * 2, state_size=0)

    def project(params: Params, xs: Array) -> Drive:
        x_z, n = form.project(params, xs)  # (N1)
        return Drive(linear.Affine(sigmoid(-x_z), sigmoid(x_z) * n))  # (N2)

    return form.cell(project, *linear.STEP)
