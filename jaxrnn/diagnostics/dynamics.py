"""Fixed and slow points of a step under a constant input: what a trained network computes."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import check, tree
from jaxrnn.diagnostics.least_squares import Evaluation, minimise_squares
from jaxrnn.transforms.rows import flatten_rows, unflatten_rows
from jaxrnn.types import Array, Carry, Params, PyTree, Step

# ‖F(c) - c‖ of a fixed point. Rounding errors of large carries are a few orders below.
TOLERANCES = {"float32": 1e-5, "float64": 1e-10}
# A modulus within this distance of 1 counts as 1, since rounding errors decide on which side it is.
MARGIN = 1e-5


class FixedPoints(NamedTuple):
    """P fixed and slow points of a step F: fixed points first, and stable ones first among them.

    Fields:
        points: the carries c, each leaf `(P, ...)`.
        speeds: q = ½ ‖F(c) - c‖², `(P,)`.
        is_fixed: `(P,)`, whether ‖F(c) - c‖ is within the tolerance; False at a slow point.
        jacobians: ∂F/∂c, `(P, N, N)`, for the N real numbers of a carry, in the order of its
            leaves; a complex number counts as two.
        eigenvalues: of the Jacobian, `(P, N)`, complex, in descending order of their moduli.
        counts: `(P,)`, the number of starts that ended at each point.
        num_unconverged: the number of starts that ended at none of them.
    """

    points: Carry
    speeds: np.ndarray
    is_fixed: np.ndarray
    jacobians: np.ndarray
    eigenvalues: np.ndarray
    counts: np.ndarray
    num_unconverged: int

    @property
    def num_unstable(self) -> np.ndarray:
        """The number of directions that grow at each point: |λ| > 1 + `MARGIN`, `(P,)`."""
        return np.sum(np.abs(self.eigenvalues) > 1 + MARGIN, axis=-1)

    @property
    def is_stable(self) -> np.ndarray:
        """Whether a point is fixed and all |λ| < 1 - `MARGIN`, `(P,)`."""
        shrinks = np.abs(self.eigenvalues) < 1 - MARGIN
        return self.is_fixed & np.all(shrinks, axis=-1)

    @property
    def kinds(self) -> list[str]:
        """One word for each point: "stable", "saddle", "unstable", "marginal" or "slow".

        A fixed point is unstable if all |λ| > 1, and a saddle if only some are. It is marginal if
        none is, and some |λ| = 1 within `MARGIN`, as on a line of fixed points.
        """
        num_directions = self.eigenvalues.shape[-1]
        kinds: list[str] = []
        for index, is_fixed in enumerate(self.is_fixed):
            if not is_fixed:
                kinds.append("slow")
            elif self.is_stable[index]:
                kinds.append("stable")
            elif self.num_unstable[index] == 0:
                kinds.append("marginal")
            elif self.num_unstable[index] == num_directions:
                kinds.append("unstable")
            else:
                kinds.append("saddle")
        return kinds

    def select(self, mask: Array) -> "FixedPoints":
        """Returns the points where the mask `(P,)` is True, such as `found.is_stable`."""
        check.require_bool_sequence("mask", mask, len(self.speeds))
        return self._take(np.flatnonzero(mask))

    def _take(self, rows: np.ndarray) -> "FixedPoints":
        """Returns these points, in this order."""
        arrays = jax.tree.map(lambda x: x[rows], tuple(self[:-1]))
        return FixedPoints._make([*arrays, self.num_unconverged])

    def __str__(self) -> str:
        """One line for each point, and one for the starts that did not converge."""
        largest = np.abs(self.eigenvalues[:, 0])
        lines = [
            f"{kind}: speed {self.speeds[i]:.1e}, largest |λ| {largest[i]:.4f}, "
            f"{self.num_unstable[i]} directions grow, {self.counts[i]} starts"
            for i, kind in enumerate(self.kinds)
        ]
        return "\n".join([*lines, f"{self.num_unconverged} starts did not converge"])


def fixed_points(
    step: Step,
    params: Params,
    carry: Carry,
    x: PyTree,
    *,
    tolerance: float | None = None,
    merge_distance: float = 1e-3,
    max_iterations: int = 300,
) -> FixedPoints:
    """Finds fixed and slow points of a step under a constant input, from many starts.

        F(c) = step(params, c, x)[0],    r(c) = F(c) - c,    q(c) = ½ ‖r(c)‖²                (1)

    Each start descends on q by Newton's method with the damping of Levenberg and Marquardt (see
    `least_squares`). It ends at a zero of r, which is a fixed point, or at a minimum of q above
    zero, which is a slow point: the state moves, and moves least there. Ends within
    `merge_distance` of each other are one point, that of the least speed. Near a point,

        F(c + δ) ≈ F(c) + J δ,    J = ∂F/∂c                                                  (2)

    so a fixed point is stable if all eigenvalues of J have a modulus below 1. A search from starts
    finds no proof that there are no other points; states of the trained task are good starts.

    Args:
        step: a Cell, a Network or any Step, without batch axes. Its noise is off.
        params: the parameters of the step.
        carry: the starts, each leaf `(S, ...)`, float32 or float64, such as the carries of
            `jaxrnn.history` with time and batch as one axis. Integers in it stay as they are.
        x: the input of one step, without batch axes, the same for all starts.
        tolerance: the largest ‖r‖ of a fixed point. Defaults to 1e-10 in float64 and 1e-5 in
            float32. Use float64 where it matters: cast `params` and `carry` to it. Raise it where
            starts do not converge on a slow manifold, such as that of closed gates.
        merge_distance: Euclidean distance within which two ends are one point.
        max_iterations: the largest number of Newton steps of a start.

    Returns:
        `FixedPoints`. Starts that end at neither, or leave the finite numbers, are counted.

    Raises:
        TypeError, ValueError: if an argument does not fit.

    Gradient: not supported. The Jacobian is what `jax.vjp` makes of the step, so it is not that of
    F for a step whose gradient is changed, such as by `clip_adjoint`. Cannot run under jit. Time:
    each iteration takes N backward passes of one step, for all starts at once, and a system of N
    linear equations for each. Memory: a few times S·N².

    Source: D. Sussillo, O. Barak, "Opening the black box: low-dimensional dynamics in
    high-dimensional recurrent neural networks", Neural Computation 25 (2013).
    """
    check.require_concrete(params=params, carry=carry, x=x)
    check.require_positive("merge_distance", merge_distance)
    check.require_int("max_iterations", max_iterations, least=1)
    carry = tree.to_arrays("carry", carry)
    dtype = _require_starts(carry)
    tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
    check.require_positive("tolerance", tolerance)
    check.require_hashable("step", step)
    x = tree.to_arrays("x", x)
    expected = "at least one (jnp.zeros(()) if the step needs no input)"
    check.require(jax.tree.leaves(x), "x", f"{x!r}, which has no arrays", expected)
    first_start = jax.tree.map(lambda c: c[0], _on_host(carry))
    check.require_step(step, params, first_start, jax.tree.map(lambda a: a[None], _on_host(x)))

    def evaluate(points: np.ndarray, rows: np.ndarray) -> Evaluation:
        values = _evaluate(step, params, carry, x, jnp.asarray(points, dtype), rows)
        return Evaluation(*(np.asarray(value, float) for value in values))

    starts = np.asarray(flatten_rows(carry, 1), float)
    ends, is_converged = minimise_squares(
        evaluate,
        starts,
        tolerance=tolerance,
        eps=float(jnp.finfo(dtype).eps),
        max_iterations=max_iterations,
    )
    rows, counts = _merge(ends, is_converged, merge_distance)
    jacobians = ends.jacobians[rows] + np.eye(starts.shape[1])  # of F = r + c
    eigenvalues = np.linalg.eigvals(jacobians).astype(complex)
    by_modulus = np.argsort(-np.abs(eigenvalues), axis=-1, kind="stable")
    found = FixedPoints(
        points=_carry_of(carry, ends.points, rows, dtype),
        speeds=ends.speeds[rows],
        is_fixed=np.sqrt(2 * ends.speeds[rows]) <= tolerance,
        jacobians=jacobians,
        eigenvalues=np.take_along_axis(eigenvalues, by_modulus, axis=-1),
        counts=counts,
        num_unconverged=int(np.sum(~is_converged)),
    )
    return _sorted(found)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(
    step: Step, params: Params, starts: Carry, x: PyTree, points: jax.Array, rows: Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the points that the dtypes of the carry can hold, r and ∂r/∂c, for some rows."""

    def residual(point: jax.Array, start: Carry) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        # An array of the carry may be narrower than the point, so r is that of the rounded carry.
        carry = unflatten_rows(point, start)
        rounded = flatten_rows(carry, 0)
        r = flatten_rows(step(params, carry, x)[0], 0) - rounded
        return r, (rounded, r)

    def one(point: jax.Array, start: Carry) -> tuple[jax.Array, jax.Array, jax.Array]:
        jacobian, (rounded, r) = jax.jacrev(residual, has_aux=True)(point, start)
        return rounded, r, jacobian

    return jax.vmap(one)(points, jax.tree.map(lambda c: c[rows], starts))


def _require_starts(carry: Carry) -> str:
    """Returns the dtype of the starts; raises an error unless they are rows of wide floats."""
    leaves = jax.tree.leaves_with_path(carry)
    sizes = {jnp.shape(leaf)[:1] for _, leaf in leaves}
    got = f"leading axes of {sorted(sizes)}"
    check.require(len(sizes) == 1 and sizes != {()}, "carry", got, "one leading axis, of S starts")
    check.require(sizes != {(0,)}, "carry", "no starts", "at least one")
    real_dtypes: list[str] = []
    for path, leaf in leaves:
        if check.is_inexact(leaf):
            name = str(jnp.finfo(leaf.dtype).dtype)
            place = "carry" + jax.tree_util.keystr(path)
            check.require_type(name in TOLERANCES, place, leaf, "float32 or float64")
            real_dtypes.append(name)
            is_finite = np.all(np.isfinite(np.asarray(leaf)))
            check.require(is_finite, place, "numbers that are not finite", "finite ones")
    check.require(real_dtypes, "carry", "no floating-point arrays", "some", TypeError)
    return max(real_dtypes)  # "float64" > "float32"


def _on_host(tree_of_arrays: PyTree) -> PyTree:
    """Returns NumPy arrays, of which a part is taken without compiling; keys stay as they are."""
    is_key = functools.partial(jnp.issubdtype, arg2=jax.dtypes.extended)
    return jax.tree.map(lambda a: a if is_key(a.dtype) else np.asarray(a), tree_of_arrays)


def _merge(
    ends: Evaluation, is_converged: np.ndarray, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that stand for all within a distance, and how many each stands for.

    The row of the least speed comes first and takes all near it, then the least of the others.
    """
    remaining = np.flatnonzero(is_converged)
    remaining = remaining[np.argsort(ends.speeds[remaining], kind="stable")]
    rows: list[int] = []
    counts: list[int] = []
    while len(remaining):
        gaps = np.linalg.norm(ends.points[remaining] - ends.points[remaining[0]], axis=-1)
        rows.append(int(remaining[0]))
        counts.append(int(np.sum(gaps <= distance)))
        remaining = remaining[gaps > distance]
    return np.array(rows, int), np.array(counts, int)


def _carry_of(starts: Carry, points: np.ndarray, rows: np.ndarray, dtype: str) -> Carry:
    like = jax.tree.map(lambda c: c[rows], starts)
    return unflatten_rows(jnp.asarray(points[rows], dtype), like)


def _sorted(found: FixedPoints) -> FixedPoints:
    """Sorts by: fixed or slow, the number of directions that grow, the number of starts."""
    return found._take(np.lexsort((-found.counts, found.num_unstable, ~found.is_fixed)))
