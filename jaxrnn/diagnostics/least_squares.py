"""Minimises sums of squares from many starts at once, by the method of Levenberg and Marquardt.

The functions are evaluated by JAX, and the linear equations are solved by NumPy. A compiled program
that calls LAPACK in two independent places can deadlock on jaxlib 0.10.1 (see pyproject.toml).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# A step has to reduce q by at least this share of what the linear model predicts.
SUFFICIENT_DECREASE = 1e-4
LARGEST_DAMPING = 1e16


class Evaluation(NamedTuple):
    """The values of a function at each row of points.

    Fields:
        points: `(S, N)`, as the function's dtypes represent them.
        residuals: r, `(S, N)`.
        jacobians: A = ∂r/∂h, `(S, N, N)`.
    """

    points: np.ndarray
    residuals: np.ndarray
    jacobians: np.ndarray

    @property
    @np.errstate(over="ignore", invalid="ignore")
    def speeds(self) -> np.ndarray:
        """q = ½ ‖r‖², `(S,)`; ∞ where ‖r‖² or ‖A‖² is not finite."""
        speeds = np.sum(self.residuals**2, axis=-1) / 2
        is_finite = np.isfinite(speeds + np.sum(self.jacobians**2, axis=(-2, -1)))
        return np.where(is_finite, speeds, np.inf)

    @property
    def relative_gradients(self) -> np.ndarray:
        """‖Aᵀ r‖ / (1 + ‖A‖) ‖r‖, `(S,)`: 0 at a minimum of q, 1 at most.

        Of r = F(h) - h, the identity in A has the norm 1. At a slow point A itself may be zero.
        """
        gradients = np.linalg.norm(_transposed_product(self.jacobians, self.residuals), axis=-1)
        sizes = 1 + np.linalg.norm(self.jacobians, axis=(-2, -1))
        sizes = sizes * np.linalg.norm(self.residuals, axis=-1)
        return gradients / np.where(sizes == 0, 1, sizes)


@np.errstate(over="ignore", invalid="ignore")
def minimise_squares(
    evaluate: Callable[[np.ndarray, np.ndarray], Evaluation],
    starts: np.ndarray,
    *,
    tolerance: float,
    eps: float,
    max_iterations: int,
) -> tuple[Evaluation, np.ndarray]:
    """Minimises q(h) = ½ ‖r(h)‖² from each start, by damped Newton steps.

        (Aᵀ A + μ I) d = -Aᵀ r,    A = ∂r/∂h,    μ = σ ‖r‖²                                  (1)

    A step that reduces q is taken. σ shrinks if q falls as the linear model predicts, and grows
    otherwise. Since μ vanishes with r, the steps become Newton's near a zero of r, also where A is
    singular, such as on a line of zeros. Where q has a minimum above 0, they converge to it.

    A row ends if r is at most the tolerance and no step reduces it further; if its gradient is zero
    but for rounding errors and q no longer falls; or if no damping makes q fall.

    Args:
        evaluate: the function of some rows: their points `(n, N)` and their numbers `(n)`, to an
            `Evaluation`. n is S, or S divided by a power of 4.
        starts: `(S, N)`, float64.
        tolerance: the norm of r below which a point is a zero.
        eps: the rounding unit of the function's dtype.
        max_iterations: the largest number of steps.

    Returns:
        The last evaluation, and which rows converged: to a zero, or to a minimum above 0.

    Source: K. Levenberg (1944); D. Marquardt (1963); N. Yamashita, M. Fukushima, "On the rate of
    convergence of the Levenberg-Marquardt method", Computing Supplementa 15 (2001).
    """
    smallest_gradient = eps**0.3
    smallest_decrease = eps**0.4
    now = Evaluation(*map(np.array, evaluate(starts, np.arange(len(starts)))))
    speeds = now.speeds
    is_active = np.isfinite(speeds)
    factors = np.full(len(starts), 1e-2)  # σ
    for _ in range(max_iterations):
        rows = np.flatnonzero(is_active)
        if not len(rows):
            break
        before = Evaluation(*(array[rows] for array in now))
        steps, predicted = _damped_steps(before, factors[rows])
        # Row 0 fills the evaluation up to one of few sizes, and its results are dropped.
        padding = np.zeros(_padded_size(len(rows), len(starts)) - len(rows), int)
        padded_points = np.concatenate([before.points + steps, now.points[padding]])
        padded_trial = evaluate(padded_points, np.concatenate([rows, padding]))
        trial = Evaluation(*(array[: len(rows)] for array in padded_trial))
        trial_speeds = trial.speeds
        decrease = speeds[rows] - trial_speeds
        gain = decrease / np.where(predicted > 0, predicted, 1)
        is_better = (decrease > 0) & (gain > SUFFICIENT_DECREASE)
        is_flat = np.abs(decrease) <= smallest_decrease * speeds[rows]
        better = rows[is_better]
        for array, new in zip(now, trial, strict=True):
            array[better] = new[is_better]
        speeds[better] = trial_speeds[is_better]
        # How well the linear model holds decides about the damping of the next step.
        factors[rows] *= np.select([gain > 0.75, gain > 0.25], [0.1, 1.0], default=4.0)
        is_zero = np.sqrt(2 * speeds[rows]) <= tolerance
        is_minimum = before.relative_gradients <= smallest_gradient
        is_done = (is_zero & ~is_better) | (is_minimum & is_flat)
        is_done |= (speeds[rows] == 0) | (factors[rows] > LARGEST_DAMPING)
        is_active[rows] = ~is_done
    is_zero = np.sqrt(2 * speeds) <= tolerance
    is_minimum = np.isfinite(speeds) & (now.relative_gradients <= smallest_gradient)
    return now, is_zero | is_minimum


def _padded_size(count: int, size: int) -> int:
    """Returns the least of size, size/4, … that holds `count` rows, so that few shapes compile."""
    while size % 4 == 0 and size // 4 >= count:
        size //= 4
    return size


def _damped_steps(now: Evaluation, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps d of (1), and by how much the linear model of r predicts q to fall."""
    a = now.jacobians
    r = now.residuals
    normal = np.swapaxes(a, -2, -1) @ a
    # The smallest damping keeps the equations solvable where A is singular and r nearly zero.
    floor = 1e-15 * np.trace(normal, axis1=-2, axis2=-1) / normal.shape[-1]
    damping = np.maximum(factors * np.sum(r * r, axis=-1), floor)
    damping = np.where(damping == 0, 1, damping)
    diagonal = np.arange(normal.shape[-1])
    normal[:, diagonal, diagonal] += damping[:, None]
    gradients = _transposed_product(a, r)
    steps = -np.linalg.solve(normal, gradients[..., None])[..., 0]
    # q(h) - ½ ‖r + A d‖² = -gᵀd - ½ dᵀ Aᵀ A d, and Aᵀ A d = -g - μ d by (1).
    predicted = np.sum(steps * (damping[:, None] * steps - gradients), axis=-1) / 2
    return steps, predicted


def _transposed_product(a: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Returns Aᵀ r of each row."""
    return (np.swapaxes(a, -2, -1) @ r[..., None])[..., 0]
