"""The minimal LSTM of Feng et al. (2024), whose gates do not see the state."""

import dataclasses

from jax.nn import log_sigmoid, sigmoid

from jaxrnn.cells.gated import GateInputs
from jaxrnn.cells.linear import Affine, InputGatedCell
from jaxrnn.types import Array, Params


@dataclasses.dataclass(frozen=True, repr=False)
class min_lstm(InputGatedCell):
    """The minLSTM: forget and input gate depend on the input alone and sum to one.

        x_f, x_i, x_n = x_t W_x + b, each its own columns                                    (S1)
        f = σ(x_f),    i = σ(x_i),    n = x_n                                                (S2)
        f' = f / (f + i),    i' = i / (f + i)                                                (S3)
        h_t = f' ⊙ h_{t-1} + i' ⊙ n,    y_t = h_t                                            (S4)

    This is `linear`'s recurrence with a = f' and b = i' ⊙ n. Backward, with λ_t = ∂L/∂h_t,

        λ_{t-1} = λ_t ⊙ f'                                                                   (S5)
        ∂L/∂a_t = λ_t ⊙ h_{t-1},    ∂L/∂b_t = λ_t                                            (S6)

    and JAX takes it on from there through (S3) to (S1), which lie outside the loop. (S3) is taken
    as f' = σ(log f - log i), i' = σ(log i - log f), which has a value where f and i underflow.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.

    Returns:
        A Cell with params `w_x (I, 3H)`, `b (3H)`, gates in the order f, i, n, all of one floating
        dtype, and the carry h `(*batch, H)`. Inputs x `(*batch, I)`, outputs h `(*batch, H)`,
        dimensionless. `init` draws w_x Lecun-normal. The plain form: n may be negative, and h is
        not taken in logarithms.

    Gradient: exact, hand-written. Time: no product in the loop; O(H) a step and row, in order. Memory:
    h and a in the loop, the three gates before it, O(T·B·H).

    Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio, H. Hajimirsadeghi, "Were RNNs all we needed?"
    (2024), arXiv:2410.01201.
    """

    @property
    def gate_biases(self) -> tuple[float, float, float]:
        """f, i and n, whose biases start at 0."""
        return (0.0, 0.0, 0.0)

    def project(self, params: Params, xs: Array) -> GateInputs:
        """a and b of the recurrence."""
        x_f, x_i, n = self.project_gates(params, xs)  # (S1)
        log_odds = log_sigmoid(x_f) - log_sigmoid(x_i)
        return GateInputs(Affine(sigmoid(log_odds), sigmoid(-log_odds) * n))  # (S3)
