"""The certificate: compares the gradient of a loop with independent references."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import check, tree
from jaxrnn.certificate import Certificate, Comparison
from jaxrnn.expression import name_of
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.parallel import parallel
from jaxrnn.loops.scan import scan
from jaxrnn.reference_loop import Arguments, reference_loop
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
    gradient_of,
)

# The largest error of each law (float64, leaf by leaf): ‖a - b‖ ≤ limit ‖b‖.
LIMITS = {"values of scan": 1e-13, "autodiff": 1e-12, "finite differences": 1e-6}
# The error of a narrow gradient may be this multiple of autodiff's error, plus one rounding.
NARROW_FACTOR = 1.5
# The relative size of the random perturbation of the arguments in (4).
PERTURBATION = 2.0**-12

# Differences of fourth order, with d_k = f(θ + kεu) - f(θ - kεu):
#
#     f' = (8 d_1 - d_2) / 12ε    is the derivative, with an error of order ε⁴
#     (6 d_1 - 3 d_2) / 12ε       is d_1/2ε - d_2/4ε, which is 0 if both differences agree
#
# The error ε⁴ of the formula and the rounding error 2⁻⁵²/ε are both small, also on a steep curve (a
# layer norm of few units). The second row is zero, unless a kink (relu) lies between the ends.
EPSILON = 1e-6
STEPS = EPSILON * np.array([1, -1, 2, -2])
WEIGHTS = np.array([[8, -1], [6, -3]]) / (12 * EPSILON)

ARGUMENTS = ("params", "carry", "xs")
OUTPUTS = ("carry_T", "ys")
NUM_DIRECTIONS = 4
Errors = dict[str, jax.Array]  # the error of each array, by its name
ErrorsByReference = dict[str, Errors]


class Trial(NamedTuple):
    """One draw: the arguments at which the gradient is compared, and what it is compared along.

    Fields:
        args: params, carry and xs.
        cotangents: v, one for each array of the outputs.
        directions: u, for each array of the arguments, with a leading axis of NUM_DIRECTIONS.
    """

    args: Arguments
    cotangents: PyTree
    directions: PyTree


class Error(NamedTuple):
    """The error of one array with respect to one reference; fields are those of `Comparison`."""

    reference: str
    array: str
    error: float
    limit: float


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
    """Compares the gradient of a loop with autodiff, finite differences and a float64 gradient.

    With random cotangents v of all outputs, f = ⟨v, loop(step, params, carry, xs)⟩ and g = ∂f/∂θ
    for each array θ of params, carry and xs (for complex numbers, ⟨a, b⟩ = Re Σ a b without a
    conjugate, which is JAX's convention for gradients):

        float64   ‖values - values of scan‖ ≤ 1e-13 ‖values of scan‖                         (1)
        float64   ‖g - g_scan‖ ≤ 1e-12 ‖g_scan‖, g_scan by `jax.grad` of `lax.scan`          (2)
        float64   differences of f along u, of fourth order, equal ⟨g, u⟩ to 1e-6, u random  (3)
        float32   med ‖g - g*‖ / ‖g*‖ ≤ 1.5 med ‖g_scan - g*‖ / ‖g*‖ + one rounding, 2⁻²³    (4)

    Here med is the median of all draws, each at arguments that are perturbed by 2⁻¹² of themselves
    in a random direction; g* is the float64 gradient at the float32 arguments; products are
    computed at the highest precision. For a loop that truncates the gradient, `scan` runs each
    window from the carry of the forward pass, held constant. So a truncated gradient too is
    compared with finite differences. An array whose gradient by autodiff is exactly zero, since the
    step does not read it or stops its gradient, is not compared with differences but with zero.

    `certify` works in 64-bit mode and leaves all global settings unchanged.

    Args:
        step: a Cell, a Layer or a Network; or a plain Step, with params, carry and xs. It has to
            compute in the dtype of its arguments. The loop runs a Network as one Step.
        params: the parameters at which to compare. params, carry and xs are given together, or
            drawn together: T = 11, batch 3, 5 inputs, or 5 different tokens.
        carry: the carry before the first step.
        xs: the inputs of all steps.
        loop: the loop to certify.
        narrow_dtype: the floating dtype of (4). A carry that the step keeps in a wider dtype stays
            wider.
        num_draws: the number of draws of cotangents, and of arguments if these are drawn; at least
            8.
        seed: the seed of all draws, an int.
        names: the names of step and loop in the table. Defaults to the names of the objects.

    Returns:
        A Certificate, which has `.ok` and `.rows` and prints as a table.

    Raises:
        TypeError, ValueError: if arguments do not fit the step.

    Examples:
        >>> certificate = jaxrnn.certify(jaxrnn.elman(4))
        >>> certificate.ok
        True
    """
    _check_options(step, loop, num_draws, seed, names)
    narrow_dtype = check.require_floating("narrow_dtype", narrow_dtype)
    is_narrow = jnp.dtype(narrow_dtype).itemsize < 8
    check.require(is_narrow, "narrow_dtype", narrow_dtype, "a dtype narrower than float64")
    num_given = sum(argument is not None for argument in (params, carry, xs))
    fits = num_given == 3 or (isinstance(step, Part) and num_given == 0)
    expected = "all or none" if isinstance(step, Part) else "all for a plain Step"
    check.require(fits, "params, carry, xs", f"{num_given} of the three", expected)
    check.require_arrays(params=params, carry=carry, xs=xs)
    # Else an accelerator would round the factors of products, in the references too.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        trials = []
        # A generator for each draw: more draws leave the first ones as they are.
        for rng in np.random.default_rng(seed).spawn(num_draws):
            args: Arguments = (params, carry, xs)
            if isinstance(step, Part) and num_given == 0:
                args = draw_arguments(step, rng)
            trials.append(_draw_trial(step, tree.cast(args, jnp.float64), rng))
        backward = _backward_pass(step, loop)
        errors = [
            *_float64_errors(step, loop, trials),
            *_narrow_errors(step, loop, trials, narrow_dtype),
        ]
    step_name, loop_name = names or (name_of(step), name_of(loop))
    return Certificate(tuple(Comparison(step_name, loop_name, backward, *e) for e in errors))


def _check_options(
    step: Part | Step, loop: Loop, num_draws: int, seed: int, names: tuple[str, str] | None
) -> None:
    """Raises an error unless each of these options of `certify` fits."""
    check.require_callable("step", step, takes=3)
    check.require_callable("loop", loop, takes=4)
    is_stochastic = gradient_of(loop) == "stochastic"
    got = f"{name_of(loop)}, whose gradient is stochastic"
    check.require(not is_stochastic, "loop", got, "one with a gradient to compare")
    if names is not None:
        is_pair = isinstance(names, (tuple, list)) and [*map(type, names)] == [str, str]
        check.require_option_type("names", names, is_pair, "two strings")
    check.require_int("num_draws", num_draws, least=8)
    check.require_int("seed", seed, least=0)


def _draw_trial(step: Step, args: Arguments, rng: np.random.Generator) -> Trial:
    """Draws cotangents of all outputs, and directions for all arguments with a gradient."""
    outputs = jax.eval_shape(lambda *args: scan(step, *args), *args)
    cotangents = _normal_like(rng, outputs)
    inexact, _ = tree.split_inexact(args)
    return Trial(args, cotangents, _normal_like(rng, inexact, (NUM_DIRECTIONS,)))


def draw_arguments(cell: Part, rng: np.random.Generator) -> Arguments:
    """Draws initial parameters, with noise so that no bias is zero, and a carry and inputs.

    T = 11, which neither 4 nor 5 divides; batch 3; 5 features, or tokens from 0 to 4, which have no
    gradient; float64 in 64-bit mode.
    """
    dtype = jnp.result_type(float)
    params = cell.init(jax.random.key(int(rng.integers(2**31))), 5, dtype)
    # Zero biases would hide an error in what they multiply.
    noise = _normal_like(rng, params)
    params = jax.tree.map(lambda p, n: p + 0.1 * n, params, noise)
    carry = _normal_like(rng, cell.initial_carry((3,), dtype))
    if cell.num_feature_axes == 0:
        return params, carry, jnp.asarray(rng.integers(0, 5, (11, 3)))
    shape = (11, 3, *cell.feature_shape(5))
    return params, carry, _normal_like(rng, jax.ShapeDtypeStruct(shape, dtype))


def _backward_pass(step: Part | Step, loop: Loop) -> str:
    """Returns the kind of backward pass that runs; see `Comparison.backward`."""
    is_layer_by_layer = isinstance(loop, LoopAround) and isinstance(step, Network)
    # A loop that runs another loop, such as truncated(8), leaves the backward pass to that one.
    while hasattr(loop, "loop"):
        loop = loop.loop
    if loop is scan:
        return "autodiff"
    if loop is not bptt and not isinstance(loop, parallel):
        return "unknown"
    is_handwritten = isinstance(step, Cell) and step.has_handwritten_backward
    return "handwritten" if is_handwritten or is_layer_by_layer else "derived"


def _float64_errors(step: Step, loop: Loop, trials: Sequence[Trial]) -> Iterator[Error]:
    """Yields the errors of (1), (2) and (3), each the worst of all draws.

    In (3), one draw that met a kink may be left out.
    """

    @jax.jit
    def errors_of(args: Arguments, v: PyTree, us: PyTree) -> tuple[ErrorsByReference, Errors]:
        reference = reference_loop(loop, step, args)
        gradient, values = _gradient(loop, step, args, v)
        reference_gradient, reference_values = _gradient(reference, step, args, v)
        derivatives, kinks = _derivatives(reference, step, args, v, us)
        # Where a step stops the gradient, differences do not see that.
        derivatives = jax.tree.map(
            lambda d, g: jnp.where(jnp.any(g != 0), d, 0), derivatives, reference_gradient
        )
        slopes = jax.tree.map(jax.vmap(_inner, in_axes=(None, 0)), gradient, us)
        errors = {
            "values of scan": _distances(OUTPUTS, values, reference_values),
            "autodiff": _distances(ARGUMENTS, gradient, reference_gradient),
            "finite differences": _distances(ARGUMENTS, slopes, derivatives),
        }
        return errors, _distances(ARGUMENTS, tree.add_sparse(slopes, kinks), slopes)

    draws = [errors_of(*trial) for trial in trials]
    errors_by_reference, kinks = jax.tree.map(lambda *e: np.array(e), *draws)
    for reference, arrays in errors_by_reference.items():
        limit = LIMITS[reference]
        for array, errors in arrays.items():
            if reference == "finite differences":
                met_kink = kinks[array] > limit
                # One draw may meet a kink by chance. If several do, something else is wrong.
                if np.sum(met_kink) == 1:
                    errors = errors[~met_kink]
            yield Error(reference, array, float(np.max(errors)), limit)


def _derivatives(
    reference: Loop, step: Step, args: Arguments, v: PyTree, us: PyTree
) -> tuple[PyTree, PyTree]:
    """Returns the derivatives of ⟨v, outputs⟩ along the directions of each array, by differences.

    The second tree is zero where no kink lies between the ends of the differences. Both have a
    number for each direction in the place of each array.
    """
    inexact, others = tree.split_inexact(args)
    arrays, structure = jax.tree.flatten(inexact)

    def difference(selected: PyTree, u: PyTree) -> jax.Array:
        """Differentiates along u in one array: `selected` is 1 for it and 0 for all others."""

        def value(e: jax.Array) -> jax.Array:
            steps = jax.tree.map(lambda s, d: (e * s).astype(d.dtype) * d, selected, u)
            moved = tree.merge_inexact(tree.add_sparse(inexact, steps), others)
            return _inner(v, reference(step, *moved))

        values = jax.vmap(value)(jnp.asarray(STEPS))
        # Differences first: they are exactly 0 where nothing depends on the array.
        return jnp.asarray(WEIGHTS) @ (values[::2] - values[1::2])

    # All directions of all arrays are one batch of one program.
    one_hot = jax.tree.unflatten(structure, jnp.eye(len(arrays)))
    over_directions = jax.vmap(difference, in_axes=(None, 0))
    differences = jax.vmap(over_directions, in_axes=(0, None))(one_hot, us)  # (arrays, us, 2)
    derivatives, kinks = jnp.moveaxis(differences, -1, 0)
    return jax.tree.unflatten(structure, derivatives), jax.tree.unflatten(structure, kinks)


def _narrow_errors(
    step: Step, loop: Loop, trials: Sequence[Trial], dtype: np.dtype
) -> Iterator[Error]:
    """Yields the errors of (4), each the median of all draws.

    In an ill-conditioned draw, the errors of both gradients are a matter of chance.
    """

    @jax.jit
    def errors_of(args: Arguments, v: PyTree, us: PyTree) -> tuple[Errors, Errors]:
        # The rounding error at one point is chance, so each draw perturbs the arguments a little.
        inexact, others = tree.split_inexact(args)
        moved = jax.tree.map(lambda x, u: x * (1 + PERTURBATION * u[0]), inexact, us)
        params, carry, xs = tree.cast(tree.merge_inexact(moved, others), dtype)
        d_carry, d_ys = tree.cast(v, dtype)
        if isinstance(step, Part):
            # A cell may keep a wider carry, such as the memory of an LSTM.
            batch = check.batch_shape(check.one_step(xs), step.num_feature_axes)
            initial = step.initial_carry(batch, dtype)
            carry = tree.cast_like(carry, initial)
            d_carry = tree.cast_like(d_carry, initial)
        narrow_args = (params, carry, xs)
        narrow_v = (d_carry, d_ys)
        # g* of (4): in float64, at the narrow arguments.
        wide_args, wide_v = tree.cast((narrow_args, narrow_v), jnp.float64)
        exact, _ = _gradient(reference_loop(loop, step, wide_args), step, wide_args, wide_v)

        def error_of(loop: Loop) -> Errors:
            gradient, _ = _gradient(loop, step, narrow_args, narrow_v)
            return _distances(ARGUMENTS, tree.cast(gradient, jnp.float64), exact)

        return error_of(loop), error_of(reference_loop(loop, step, narrow_args))

    draws = [errors_of(*trial) for trial in trials]
    errors, autodiff_errors = jax.tree.map(lambda *e: float(np.median(e)), *draws)
    for array, error in errors.items():
        limit = NARROW_FACTOR * autodiff_errors[array] + float(jnp.finfo(dtype).eps)
        yield Error(f"float64 (in {dtype})", array, error, limit)


def _gradient(loop: Loop, step: Step, args: Arguments, v: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the gradient of ⟨v, outputs⟩, None for integers, and the outputs."""
    inexact, others = tree.split_inexact(args)

    def inner_product(inexact: PyTree) -> tuple[jax.Array, PyTree]:
        outputs = loop(step, *tree.merge_inexact(inexact, others))
        return _inner(v, outputs), outputs

    return jax.grad(inner_product, has_aux=True)(inexact)


def _distances(names: tuple[str, ...], got: PyTree, expected: PyTree) -> Errors:
    """Returns ‖a - b‖ / ‖b‖ by the name of the array.

    Where b is zero, the result is 0 if a is zero too, and infinity otherwise.
    """

    def distance(a: jax.Array, b: jax.Array) -> jax.Array:
        error = jnp.linalg.norm(a - b)
        size = jnp.linalg.norm(b)
        return jnp.where(error == 0, 0.0, error / size)

    got, _ = tree.split_inexact(got)
    expected, _ = tree.split_inexact(expected)
    distances = jax.tree.map(distance, got, expected)
    # With dicts, the path of an array begins with its name: params['w_h'], carry.h, xs.
    by_name = dict(zip(names, distances, strict=True))
    errors = jax.tree.leaves_with_path(by_name)
    return {path[0].key + jax.tree_util.keystr(path[1:]): error for path, error in errors}


def _inner(v: PyTree, outputs: PyTree) -> jax.Array:
    """Returns ⟨v, outputs⟩ = Re Σ v · outputs over all arrays that have a gradient."""
    pairs = zip(jax.tree.leaves(v), jax.tree.leaves(outputs), strict=True)
    # `vdot` conjugates its first argument, and this product has no conjugate.
    inexact = [(jnp.conj(a), b) for a, b in pairs if check.is_inexact(b)]
    return jnp.asarray(sum(jnp.vdot(a, b).real.astype(jnp.float64) for a, b in inexact))


def _normal_like(rng: np.random.Generator, shapes: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
    """Draws standard normal arrays, with `lead` as first axes; zeros for integer arrays."""

    def normal(x: check.Leaf) -> jax.Array:
        shape = (*lead, *x.shape)
        if not check.is_inexact(x):
            return jnp.zeros(shape, x.dtype)  # such as a counter in the carry, or its cotangent
        numbers = rng.standard_normal(shape)
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            numbers = numbers + 1j * rng.standard_normal(shape)
        return jnp.asarray(numbers, x.dtype)

    return jax.tree.map(normal, shapes)
