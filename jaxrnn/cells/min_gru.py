"""The minimal GRU of Feng et al. (2024), whose gates do not depend on the state."""

import dataclasses

from jax.nn import sigmoid

from jaxrnn.cells.gated import GateInputs
from jaxrnn.cells.linear import Affine, InputGatedCell
from jaxrnn.types import Array, Params


@dataclasses.dataclass(frozen=True, repr=False)
class min_gru(InputGatedCell):
    """The minGRU: a GRU without a reset, whose gates depend on the input alone.

        x_z, x_n = x_t W_x + b                                                              (MG1)
        z = σ(x_z),    n = x_n                                                              (MG2)
        h_t = (1 - z) ⊙ h_{t-1} + z ⊙ n,    y_t = h_t                                       (MG3)

    where the columns of x_t W_x + b are split between the gates. This is the recurrence of
    `jaxrnn.cells.linear` with a = 1 - z and b = z ⊙ n. Backward, with λ_t = ∂L/∂h_t,

        λ_{t-1} = λ_t ⊙ (1 - z)                                                             (MG4)
        ∂L/∂a_t = λ_t ⊙ h_{t-1},    ∂L/∂b_t = λ_t                                           (MG5)

    and JAX differentiates (MG2) and (MG1), which are outside the loop.

    Parameters: `w_x (I, 2H)`, `b (2H)`, with gates in the order z, n, all of one floating-point
    dtype; `init` draws w_x Lecun-normal. The carry is h `(*batch, H)`, inputs are x `(*batch, I)`,
    outputs are h `(*batch, H)`, dimensionless. This is the plain form of the cell: n may be
    negative, and nothing is computed in logarithms.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.

    Gradient: exact, hand-written. Time: no product in the loop; O(H) for each step and row, in
    order. Memory: h and a in the loop, z and n before it, 4·T·B·H.

    Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio, H. Hajimirsadeghi, "Were RNNs all we needed?"
    (2024), arXiv:2410.01201.
    """

    @property
    def gate_biases(self) -> tuple[float, float]:
        """The initial biases of z and n, 0."""
        return (0.0, 0.0)

    def project(self, params: Params, xs: Array) -> GateInputs:
        """Returns a and b of the recurrence."""
        x_z, n = self.project_gates(params, xs)  # (MG1)
        # 1 - σ(x) = σ(-x), which does not cancel where σ(x) is near 1.
        return GateInputs(Affine(sigmoid(-x_z), sigmoid(x_z) * n))  # (MG2)
