"""The minimal GRU of Feng et al. (2024), whose gates do not see the state."""

import dataclasses

from jax.nn import sigmoid

from jaxrnn.cells.gated import GateInputs
from jaxrnn.cells.linear import Affine, InputGatedCell
from jaxrnn.types import Array, Params


@dataclasses.dataclass(frozen=True, repr=False)
class min_gru(InputGatedCell):
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

    Gradient: exact, hand-written. Time: no product in the loop; O(H) a step and row, in order. Memory:
    h and a in the loop, z and n before it, 4·T·B·H.

    Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio, H. Hajimirsadeghi, "Were RNNs all we needed?"
    (2024), arXiv:2410.01201.
    """

    @property
    def gate_biases(self) -> tuple[float, float]:
        """z and n, whose biases start at 0."""
        return (0.0, 0.0)

    def project(self, params: Params, xs: Array) -> GateInputs:
        """a and b of the recurrence."""
        x_z, n = self.project_gates(params, xs)  # (N1)
        return GateInputs(Affine(sigmoid(-x_z), sigmoid(x_z) * n))  # (N2)
