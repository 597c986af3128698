"""UORO: an unbiased estimate of the influence, of rank one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.online.learner import Learner
from jaxrnn.online.plan import influencing_weights, pullback
from jaxrnn.online.rows import OVER_ROWS, Arguments, RowStep, widest
from jaxrnn.types import Key, Step

# u `(B, N)`, one number for each unit, and s `(B, *weight.shape)`, one for each weight.
Factors = tuple[jax.Array, list[jax.Array]]
EPSILON = 1e-7  # keeps the ratios of (2) finite where a norm is zero


@dataclasses.dataclass(frozen=True, repr=False)
class uoro(Learner):
    """Unbiased online recurrent optimization: the influence as a random matrix of rank one.

    For each row of a batch, S_t is estimated by u_t s_tᵀ, with one number for each unit and one for
    each weight. With random signs ν_t,

        u_t = ρ0 J_t u_{t-1} + ρ1 ν_t,    s_t = s_{t-1} / ρ0 + (ν_tᵀ D_t) / ρ1                   (1)
        ρ0² = |s_{t-1}| / |J_t u_{t-1}|,    ρ1² = |ν_tᵀ D_t| / |ν_t|                             (2)

    so that the mean of u_t s_tᵀ over the signs is S_t of `rtrl`; (2) makes its variance smallest.
    |·| is the Euclidean norm; 1e-7 is added to each.

    Args:
        step: a Step whose output is its loss.

    Methods: `init`, which needs a `key`, and `update`, see `jaxrnn.online.Learner`. Equal arguments
    construct equal learners. The same key draws the same signs in whatever calls the steps run.

    Gradient: unbiased, with a variance that grows with the number of units and the memory of the
    step. Time for each step: its gradient, two pullbacks, and one product with J_t. Memory: O(B P).

    Source: C. Tallec, Y. Ollivier, "Unbiased online recurrent optimization", ICLR 2018.
    """

    step: Step

    needs_key = True

    def __post_init__(self) -> None:
        check.require_callable("step", self.step, takes=3)

    def influence(self, row: RowStep, arguments: Arguments) -> "RankOneInfluence":
        """Returns the estimate."""
        return RankOneInfluence(row, arguments)


class RankOneInfluence:
    """The influence as a product of two vectors; weights that reach no carry are left out."""

    def __init__(self, row: RowStep, arguments: Arguments) -> None:
        """Takes the step of one row, and the shapes and dtypes of its arguments."""
        self.row = row
        self.weights = arguments.w
        self.kept = influencing_weights(row, arguments)  # the numbers of the arrays in s

    def zeros(self, rows: int) -> Factors:
        """Returns u_0 and s_0."""
        s: list[jax.Array] = []
        for i in self.kept:
            weight = self.weights[i]
            s.append(jnp.zeros((rows, *weight.shape), widest(weight.dtype, self.row.dtype)))
        return jnp.zeros((rows, self.row.num_units), self.row.dtype), s

    def past_gradient(self, influence: Factors, d_v: jax.Array) -> list[Any]:
        """Returns Σ_rows (∂L/∂v_{t-1} · u) s for each weight array; 0 for one that is not kept."""
        u, s = influence
        factors = jnp.sum(d_v.astype(u.dtype) * u, axis=1)
        gradients: list[Any] = [0] * len(self.weights)
        for i, of_rows in zip(self.kept, s, strict=True):
            gradients[i] = jnp.tensordot(factors.astype(of_rows.dtype), of_rows, axes=1)
        return gradients

    def advance(self, influence: Factors, arguments: Arguments, key: Key) -> Factors:
        """Returns u_t and s_t (1)."""
        u, _ = influence
        signs = jax.random.rademacher(key, u.shape, u.dtype)

        def of_row(influence: Factors, signs: jax.Array, arguments: Arguments) -> Factors:
            u, s = influence
            pull = pullback(self.row, arguments)
            # The pullback is linear, so its own pullback is the product with J_t.
            d_v, pull_again = jax.vjp(lambda d_new_v: pull(d_new_v)[1], signs)
            (carried,) = pull_again(u.astype(d_v.dtype))
            d_w, _ = pull(signs)
            new = [d_w[i] for i in self.kept]
            rho_0 = jnp.sqrt(_norm(s) / _norm([carried]).astype(_norm(s).dtype))  # (2)
            rho_1 = jnp.sqrt(_norm(new) / _norm([signs]).astype(_norm(new).dtype))  # (2)
            # The mean does not depend on the scales, and a norm of zero has no derivative.
            rho_0, rho_1 = jax.lax.stop_gradient((rho_0, rho_1))
            u = rho_0.astype(u.dtype) * carried + rho_1.astype(u.dtype) * signs  # (1)
            s = [
                a / rho_0.astype(a.dtype) + (b / rho_1.astype(b.dtype)).astype(a.dtype)
                for a, b in zip(s, new, strict=True)
            ]
            return u, s

        return jax.vmap(of_row, in_axes=(0, 0, OVER_ROWS))(influence, signs, arguments)


def _norm(arrays: list[jax.Array]) -> jax.Array:
    """Returns the norm of all numbers together, and a little more."""
    dtype = widest(*(a.dtype for a in arrays))
    squares = [jnp.sum(jnp.square(a.astype(dtype))) for a in arrays]
    return jnp.sqrt(sum(squares, jnp.zeros((), dtype))) + EPSILON
