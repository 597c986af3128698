"""The certificate: is the gradient of a loop what it says it is?"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import check, tree
from jaxrnn.expression import name_of
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.scan import scan
from jaxrnn.types import (
    Carry,
    Cell,
    Loop,
    LoopAround,
    Network,
    Params,
    Part,
    PyTree,
    Step,
    StepResult,
    gradient_of,
    window_start_of,
)

# The laws (float64, leaf by leaf: ‖a - b‖ ≤ limit ‖b‖).
LIMITS = {"values of scan": 1e-13, "autodiff": 1e-12, "finite differences": 1e-6}
# How much farther from the truth than autodiff a narrow gradient may be, and one rounding more.
NARROW_FACTOR = 1.5
MOVE = 2.0**-12

# Differences of fourth order, f' = Σ w f(θ + eu): the error ε⁴ of the formula and the error 2⁻⁵²/ε
# of rounding, both small, on a steep curve too (a layer norm of few units). And by how much the
# differences over ±ε and ±2ε disagree: not at all, unless a kink (relu) lies between their ends.
EPSILON = 1e-6
STEPS = EPSILON * np.array([1, -1, 2, -2])
WEIGHTS = np.array([[8, -8, -1, 1], [6, -6, -3, 3]]) / (12 * EPSILON)

Arguments = tuple[Params, Carry, PyTree]
Trial = tuple[Arguments, PyTree, PyTree]  # arguments, cotangents, directions
Comparison = tuple[str, str, float, float]  # reference, array, error, limit
ARGUMENTS, OUTPUTS = ("params", "carry", "xs"), ("carry_T", "ys")


class Row(NamedTuple):
    """One comparison, of one array.

    Fields:
        step, loop: names of what was certified.
        backward: which backward pass ran: "handwritten", "derived", "autodiff", or "unknown" of a loop
            that is not ours.
        reference: "values of scan", "autodiff", "finite differences", or "float64 (in float32)", the narrow dtype.
        array: "params['w_h']", "carry", "xs", …; for values "carry_T.h", "ys", ….
        error: ‖a - b‖ / ‖b‖, the worst of all draws, of differences but for one that met a kink
            (relu); against the float64 truth the median.
        limit: what the error may be.
    """

    step: str
    loop: str
    backward: str
    reference: str
    array: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether the error is within its limit; NaN is not."""
        return bool(self.error <= self.limit)

    def excess(self) -> float:
        """The error in units of its limit; NaN counts as infinite."""
        return np.inf if np.isnan(self.error) else self.error / self.limit


class Certificate(NamedTuple):
    """All comparisons; prints as a table.

    Fields:
        rows: one Row an array and reference.
    """

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether there are rows and all of them are within their limits."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    def worst(self) -> "Certificate":
        """Of each step, loop and reference only the array nearest to, or farthest past, its limit."""
        # The last of each remains: the worst, and of those that are as bad the first.
        kept = {row[:4]: row for row in sorted(self.rows[::-1], key=Row.excess)}
        return Certificate(tuple(row for row in self.rows if kept[row[:4]] is row))

    def __str__(self) -> str:
        lines = [(*Row._fields, "")]
        for row in self.rows:
            verdict = "ok" if row.ok else "OUT"
            lines.append((*row[:5], f"{row.error:.1e}", f"{row.limit:.1e}", verdict))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        out = sum(not row.ok for row in self.rows)
        return "\n".join([*table, f"{len(self.rows)} comparisons, {out} out of limits"])


def certify(
    step: Part | Step,
    params: Params = None,
    carry: Carry = None,
    xs: PyTree = None,
    *,
    loop: Loop = bptt,
    narrow_dtype: jax.typing.DTypeLike = jnp.float32,
    num_draws: int = 8,
    seed: int = 0,
    names: tuple[str, str] | None = None,
) -> Certificate:
    """Compare the gradient of a loop with autodiff, finite differences and, in float32, the truth.

    With random cotangents v of all outputs, f = ⟨v, loop(step, params, carry, xs)⟩ and g = ∂f/∂θ
    for each array θ of params, carry and xs (of complex numbers, ⟨a, b⟩ = Re Σ a b, without a
    conjugate, which is JAX's convention for gradients):

        float64   ‖values - values of scan‖ ≤ 1e-13 ‖values of scan‖                         (1)
        float64   ‖g - g_scan‖ ≤ 1e-12 ‖g_scan‖, g_scan by `jax.grad` of `lax.scan`          (2)
        float64   differences of f along u, of fourth order, equal ⟨g, u⟩ to 1e-6, u random  (3)
        float32   med ‖g - g*‖ / ‖g*‖ ≤ 1.5 med ‖g_scan - g*‖ / ‖g*‖ + one rounding, 2⁻²³    (4)

    where med is the median of all draws, each at arguments moved by 2⁻¹² of themselves in a random
    direction, g* is the float64 gradient at the float32 arguments, and products are taken at the
    highest precision. For a loop that truncates the gradient, `scan` runs each window from the carry
    that was there, held constant; so the truncated gradient too is compared with differences.

    It works in 64-bit mode and leaves no global setting changed.

    Args:
        step: a Cell, a Layer or a Network, for which parameters and data are drawn unless given (T
            = 11, batch 3, 5 inputs, or 5 different tokens), or a plain Step, with params, carry and
            xs. It has to keep to the dtype it gets. A Network is run as one Step by the loop.
        params: where to compare; params, carry and xs all three or none.
        carry: likewise.
        xs: likewise.
        loop: the loop to certify.
        narrow_dtype: the floating dtype of (4); what a zero state has wider is kept wider.
        num_draws: how often cotangents (and arguments that were not given) are drawn anew; at least 8.
        seed: of all draws, an int.
        names: what to call step and loop in the table; their own names unless given.

    Returns:
        A Certificate: `.ok`, `.rows`, and a table when printed.

    Raises:
        TypeError, ValueError: if arguments do not fit the step.
    """
    check.require_callable("step", step, takes=3)
    check.require_callable("loop", loop, takes=4)
    drawn_anew = gradient_of(loop) == "stochastic"
    got = f"{name_of(loop)}, whose gradient is stochastic"
    check.require(not drawn_anew, "loop", got, "one with a gradient to compare")
    narrow_dtype = check.require_floating("narrow_dtype", narrow_dtype)
    fits = jnp.dtype(narrow_dtype).itemsize < 8
    check.require(fits, "narrow_dtype", narrow_dtype, "a dtype narrower than float64")
    if names is not None:
        pair = isinstance(names, (tuple, list)) and [*map(type, names)] == [str, str]
        check.require_option_type("names", names, pair, "two texts")
    check.require_int("num_draws", num_draws, least=8)
    check.require_int("seed", seed, least=0)
    given = [arg is not None for arg in (params, carry, xs)]
    fits = all(given) or (isinstance(step, Part) and not any(given))
    expected = "all or none" if isinstance(step, Part) else "all for a plain Step"
    check.require(fits, "params, carry, xs", f"{sum(given)} of the three", expected)
    check.require_arrays(params=params, carry=carry, xs=xs)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        trials: list[Trial] = []
        for rng in np.random.default_rng(seed).spawn(num_draws):
            args = tree.cast(
                (params, carry, xs) if any(given) else draw_arguments(step, rng), jnp.float64
            )
            v = _normal_like(rng, jax.eval_shape(lambda *args: scan(step, *args), *args))
            trials.append((args, v, _normal_like(rng, tree.split_inexact(args)[0], (4,))))
        backward = _backward_pass(step, loop)
        rows = [*_float64_rows(step, loop, trials), *_narrow_rows(step, loop, trials, narrow_dtype)]
    of_step, of_loop = names or (name_of(step), name_of(loop))
    return Certificate(tuple(Row(of_step, of_loop, backward, *comparison) for comparison in rows))


def draw_arguments(cell: Any, rng: np.random.Generator) -> Arguments:
    """Parameters as they start, with noise so that no bias is zero, and a carry and xs to go with.

    T = 11, so that segments of 4 and of 5 leave a rest; batch 3; 5 inputs, or tokens from 0 to 4,
    which have no gradient; float64 in 64-bit mode.
    """
    dtype = jnp.result_type(float)
    params = cell.init(jax.random.key(int(rng.integers(2**31))), 5, dtype)
    params = jax.tree.map(lambda p, n: p + 0.1 * n, params, _normal_like(rng, params))
    carry = _normal_like(rng, cell.initial_carry((3,), dtype))
    if cell.num_feature_axes == 0:
        return params, carry, jnp.asarray(rng.integers(0, 5, (11, 3)))
    return params, carry, _normal_like(rng, jax.ShapeDtypeStruct((11, 3, 5), dtype))


def _backward_pass(step: Part | Step, loop: Loop) -> str:
    """Which backward pass runs: that of JAX, a hand-written one, or one derived from the step."""
    is_layer_by_layer = isinstance(loop, LoopAround) and isinstance(step, Network)
    while hasattr(loop, "loop"):
        loop = loop.loop
    if loop is scan:
        return "autodiff"
    if loop is not bptt:
        return "unknown"
    is_handwritten = isinstance(step, Cell) and step.has_handwritten_backward
    return "handwritten" if is_handwritten or is_layer_by_layer else "derived"


def _float64_rows(step: Step, loop: Loop, trials: Sequence[Trial]) -> Iterator[Comparison]:
    """(1), (2) and (3), each the worst of all draws; one may be set aside where (3) met a kink."""

    @jax.jit
    def errors(args: Arguments, v: PyTree, us: PyTree) -> Any:
        reference = _reference_loop(loop, step, args)
        (gradient, values), (autodiff, truth) = (
            _gradient(f, step, args, v) for f in (loop, reference)
        )
        inexact, others = tree.split_inexact(args)
        form: Any = jax.tree.structure(inexact)

        def difference(chosen: PyTree, u: PyTree) -> jax.Array:
            """Along u in the chosen array alone: chosen is 1 there and 0 at all others."""

            def value(e: jax.Array) -> jax.Array:
                steps = jax.tree.map(lambda c, d: (e * c).astype(d.dtype) * d, chosen, u)
                return _inner(
                    v, reference(step, *tree.merge_inexact(tree.add_sparse(inexact, steps), others))
                )

            return jnp.asarray(WEIGHTS) @ jax.vmap(value)(jnp.asarray(STEPS))

        # Four directions for each array; all differences are one program over a batch of them.
        one_hot = form.unflatten(jnp.eye(form.num_leaves))
        both = jax.vmap(jax.vmap(difference, in_axes=(None, 0)), in_axes=(0, None))(one_hot, us)
        along, kinks = (form.unflatten(part) for part in jnp.moveaxis(both, -1, 0))
        slopes = jax.tree.map(jax.vmap(_inner, in_axes=(None, 0)), gradient, us)
        rows = {
            "values of scan": _distances(OUTPUTS, values, truth),
            "autodiff": _distances(ARGUMENTS, gradient, autodiff),
            "finite differences": _distances(ARGUMENTS, slopes, along),
        }
        return rows, _distances(ARGUMENTS, tree.add_sparse(slopes, kinks), slopes)

    errors_by_reference, kinks = jax.tree.map(
        lambda *e: np.array(e), *(errors(*trial) for trial in trials)
    )
    for reference, arrays in errors_by_reference.items():
        for array, draws in arrays.items():
            if (
                reference == "finite differences"
                and np.sum(met := kinks[array] > LIMITS[reference]) == 1
            ):
                draws = draws[~met]  # That one says nothing.
            yield reference, array, float(np.max(draws)), LIMITS[reference]


def _narrow_rows(
    step: Step, loop: Loop, trials: Sequence[Trial], dtype: Any
) -> Iterator[Comparison]:
    """(4), the median of all draws: in one that is ill-conditioned both errors are chance."""

    @jax.jit
    def errors(args: Arguments, v: PyTree, us: PyTree) -> Any:
        # Given arguments are moved a little, anew in each draw: rounding at one point is chance.
        inexact, others = tree.split_inexact(args)
        moved = jax.tree.map(lambda x, u: x * (1 + MOVE * u[0]), inexact, us)
        (params, carry, xs), (d_carry, d_ys) = tree.cast(
            (tree.merge_inexact(moved, others), v), dtype
        )
        if isinstance(step, Part):
            batch = check.batch_shape(check.one_step(xs), step.num_feature_axes)
            like = step.initial_carry(batch, dtype)
            carry, d_carry = (tree.cast_like(c, like) for c in (carry, d_carry))
        args, v = (params, carry, xs), (d_carry, d_ys)
        wide, wide_v = tree.cast((args, v), jnp.float64)
        truth, _ = _gradient(_reference_loop(loop, step, wide), step, wide, wide_v)
        pair = (_gradient(f, step, args, v)[0] for f in (loop, _reference_loop(loop, step, args)))
        return tuple(_distances(ARGUMENTS, tree.cast(g, jnp.float64), truth) for g in pair)

    draws = [errors(*trial) for trial in trials]
    ours, autodiff = jax.tree.map(lambda *e: float(np.median(e)), *draws)
    for array, error in ours.items():
        limit = NARROW_FACTOR * autodiff[array] + float(jnp.finfo(dtype).eps)
        yield f"float64 (in {dtype})", array, error, limit


def _reference_loop(loop: Loop, step: Step, args: Arguments) -> Loop:
    """`scan`; for a loop that truncates, window by window, each from the carry that was there.

    Those carries are constants here, so both references have the truncated gradient.
    """
    window_start = window_start_of(loop)
    params, carry, xs = args
    if window_start is None or check.num_steps(xs) == 0:
        return scan
    _, starts = jax.lax.scan(lambda c, x: (step(params, c, x)[0], c), carry, xs)
    begins = [window_start(t) for t in range(check.num_steps(xs))]

    def windowed(step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        def window(begin: int) -> StepResult:
            start = jax.tree.map(lambda c: c[begin], starts) if begin else carry
            end = len(begins) - begins[::-1].index(begin)
            last, ys = scan(step, params, start, tree.slice_time(xs, begin, end))
            return last, tree.slice_time(ys, -begins.count(begin), None)

        lasts, ys = zip(*map(window, sorted(set(begins))), strict=True)
        return lasts[-1], jax.tree.map(lambda *parts: jnp.concatenate(parts), *ys)

    return windowed


def _gradient(loop: Loop, step: Step, args: Arguments, v: PyTree) -> tuple[PyTree, PyTree]:
    """The gradient of ⟨v, outputs⟩, None for what has none, and the outputs."""
    inexact, others = tree.split_inexact(args)

    def inner_product(inexact: PyTree) -> tuple[Any, PyTree]:
        outputs = loop(step, *tree.merge_inexact(inexact, others))
        return _inner(v, outputs), outputs

    return jax.grad(inner_product, has_aux=True)(inexact)


def _distances(names: tuple[str, ...], got: PyTree, wanted: PyTree) -> dict[str, Any]:
    """‖a - b‖ / ‖b‖ by the array's name; where b is zero, 0 if a is too and infinite if not."""

    def distance(a: jax.Array, b: jax.Array) -> jax.Array:
        error, size = jnp.linalg.norm(a - b), jnp.linalg.norm(b)
        return jnp.where(error == 0, 0.0, error / size)

    got, wanted = (dict(zip(names, tree.split_inexact(t)[0], strict=True)) for t in (got, wanted))
    errors = jax.tree.leaves_with_path(jax.tree.map(distance, got, wanted))
    return {path[0].key + jax.tree_util.keystr(path[1:]): error for path, error in errors}


def _inner(v: PyTree, outputs: PyTree) -> Any:
    """⟨v, outputs⟩ = Re Σ v · outputs over all arrays that have a gradient."""
    pairs = zip(jax.tree.leaves(v), jax.tree.leaves(outputs), strict=True)
    inexact = [(jnp.conj(a), b) for a, b in pairs if check.is_inexact(b)]
    return sum(jnp.vdot(*pair).real.astype(jnp.float64) for pair in inexact)


def _normal_like(rng: np.random.Generator, shapes: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
    """Standard normal numbers for every inexact array, zeros for the others; with axes in front."""

    def normal(x: Any) -> Any:
        shape = (*lead, *x.shape)
        if not check.is_inexact(x):
            return jnp.zeros(shape, x.dtype)
        numbers = rng.standard_normal(shape)
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            numbers = numbers + 1j * rng.standard_normal(shape)
        return jnp.asarray(numbers, x.dtype)

    return jax.tree.map(normal, shapes)
