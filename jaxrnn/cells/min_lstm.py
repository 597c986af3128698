"""The minimal LSTM of Feng et al. (2024), whose gates do not depend on the state."""

import dataclasses

from jax.nn import log_sigmoid, sigmoid

from jaxrnn.cells.gated import GateInputs
from jaxrnn.cells.linear import Affine, InputGatedCell
from jaxrnn.types import Array, Params


@dataclasses.dataclass(frozen=True, repr=False)
class min_lstm(InputGatedCell):
    """The minLSTM: forget and input gate depend on the input alone, and sum to one.

        x_f, x_i, x_n = x_t W_x + b                                                         (MS1)
        f = σ(x_f),    i = σ(x_i),    n = x_n                                               (MS2)
        f' = f / (f + i),    i' = i / (f + i)                                               (MS3)
        h_t = f' ⊙ h_{t-1} + i' ⊙ n,    y_t = h_t                                           (MS4)

    where the columns of x_t W_x + b are split between the gates. This is the recurrence of
    `jaxrnn.cells.linear` with a = f' and b = i' ⊙ n. Backward, with λ_t = ∂L/∂h_t,

        λ_{t-1} = λ_t ⊙ f'                                                                  (MS5)
        ∂L/∂a_t = λ_t ⊙ h_{t-1},    ∂L/∂b_t = λ_t                                           (MS6)

    and JAX differentiates (MS3) to (MS1), which are outside the loop. (MS3) is computed as
    f' = σ(log f - log i), i' = σ(log i - log f), which is finite if f and i underflow.

    Parameters: `w_x (I, 3H)`, `b (3H)`, with gates in the order f, i, n, all of one floating-point
    dtype; `init` draws w_x Lecun-normal. The carry is h `(*batch, H)`, inputs are x `(*batch, I)`,
    outputs are h `(*batch, H)`, dimensionless. This is the plain form of the cell: n may be
    negative, and h is not computed in logarithms.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.

    Gradient: exact, hand-written. Time: no product in the loop; O(H) for each step and row, in
    order. Memory: h and a in the loop, the three gates before it, O(T·B·H).

    Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio, H. Hajimirsadeghi, "Were RNNs all we needed?"
    (2024), arXiv:2410.01201.
    """

    @property
    def gate_biases(self) -> tuple[float, float, float]:
        """The initial biases of f, i and n, 0."""
        return (0.0, 0.0, 0.0)

    def project(self, params: Params, xs: Array) -> GateInputs:
        """Returns a and b of the recurrence."""
        x_f, x_i, n = self.project_gates(params, xs)  # (MS1)
        log_odds = log_sigmoid(x_f) - log_sigmoid(x_i)
        return GateInputs(Affine(sigmoid(log_odds), sigmoid(-log_odds) * n))  # (MS3)
