"""Checks of arrays and of trees of arrays: structure, shape, dtype, devices."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.check.messages import describe, require, require_type
from jaxrnn.check.options import require_callable

PyTree = Any
Leaf = Any  # an array, a traced array, the shape and dtype of an array, or a number
BatchShape = tuple[int, ...]


def is_inexact(leaf: Leaf) -> bool:
    """Whether a leaf is real or complex floating point, and so has a gradient."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


# Trees.


def require_same_structure(name: str, got: PyTree, expected: PyTree, why: str = "") -> None:
    """Raises an error unless two trees have the same structure; `why` ends the message."""
    got_structure: object = jax.tree.structure(got)
    structure: object = jax.tree.structure(expected)
    fits = got_structure == structure
    require(fits, name, f"the tree {got_structure}", f"{structure}{why}", TypeError)


def require_same_tree(name: str, got: PyTree, expected: PyTree, why: str = "") -> None:
    """Raises an error unless two trees agree in structure, and each leaf in shape and dtype.

    `why` ends the message.
    """
    require_same_structure(name, got, expected, why)
    # Of two trees of one structure, leaves come in the same order, and `expected` has the paths.
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves_with_path(expected), strict=True)
    for got_leaf, (path, expected_leaf) in pairs:
        place = name + jax.tree_util.keystr(path)
        leaf = _with_dtype(got_leaf)
        wanted = _with_dtype(expected_leaf)
        described = describe(wanted) + why
        require(leaf.shape == wanted.shape, place, leaf, described)
        require(leaf.dtype == wanted.dtype, place, leaf, described, TypeError)


def _with_dtype(leaf: Leaf) -> Leaf:
    """Returns an array as it is, and the type of a Python number, which has no shape and dtype."""
    return leaf if hasattr(leaf, "dtype") else jax.typeof(leaf)


def require_arrays(**trees: PyTree) -> None:
    """Raises an error unless all leaves are arrays, traced arrays or numbers."""
    for place, leaf in _leaves(trees):
        with contextlib.suppress(TypeError):
            jax.typeof(leaf)  # raises an error for what is no array and no number
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                continue
        # Of a NumPy array whose dtype JAX does not know, the dtype is the point.
        got = f"{type(leaf).__name__} {getattr(leaf, 'dtype', '')}".rstrip()
        require(False, place, got, "an array", TypeError)


def require_concrete(**trees: PyTree) -> None:
    """Raises an error if any leaf is traced, for functions that cannot run under jit."""
    expected = "concrete values (this function cannot run under jit)"
    for place, leaf in _leaves(trees):
        is_traced = isinstance(leaf, jax.core.Tracer)
        require(not is_traced, place, f"a traced {describe(leaf)}", expected, TypeError)


def require_same_devices(**trees: PyTree) -> None:
    """Raises an error if committed arrays lie on different devices; JAX moves all other arrays."""
    first_place = None
    first_devices: list[str] = []
    for place, leaf in _leaves(trees):
        # A traced array has no device yet, and JAX moves an array that is not committed.
        if isinstance(leaf, jax.core.Tracer) or not getattr(leaf, "committed", False):
            continue
        devices = sorted(map(str, leaf.devices()))
        if first_place is None:
            first_place = place
            first_devices = devices
        expected = f"{first_devices}, the devices of {first_place}"
        require(devices == first_devices, place, f"one on {devices}", expected)


def require_one_per_part(parts: Sequence[object], **trees: PyTree) -> None:
    """Raises an error unless each tree of a network is a tuple with one entry for each part."""
    for name, tree in trees.items():
        fits = isinstance(tree, (tuple, list)) and len(tree) == len(parts)
        require_type(fits, name, tree, f"a tuple of {len(parts)}, one for each part")


def _leaves(trees: dict[str, PyTree]) -> Iterator[tuple[str, Leaf]]:
    """Yields the place and the value of each leaf of each tree."""
    for name, tree in trees.items():
        try:
            leaves = jax.tree.leaves_with_path(tree)
        except ValueError as error:  # a dict whose keys cannot be sorted
            got = f"{describe(tree)} ({error})"
            raise TypeError(f"{name}: got {got}, expected keys that can be sorted") from None
        for path, leaf in leaves:
            yield name + jax.tree_util.keystr(path), leaf


# Arrays.


def require_floating(name: str, dtype: Any) -> np.dtype:
    """Returns `dtype` as a NumPy dtype if it is real floating point; raises an error otherwise."""
    fits = False
    with contextlib.suppress(TypeError):
        fits = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    require(fits, name, f"{dtype}", "a floating-point dtype", TypeError)
    return jnp.dtype(dtype)


def require_features(name: str, cell: str, x: Leaf, size: int) -> None:
    """Raises an error unless `x` is a real floating-point array `(..., size)`."""
    require_type(hasattr(x, "shape") and hasattr(x, "dtype"), name, x, f"an array for {cell}")
    expected = f"floating point for {cell} (embed tokens first, jaxrnn.embedding)"
    require_type(jnp.issubdtype(x.dtype, jnp.floating), name, x, expected)
    require(x.shape[-1:] == (size,), name, x, f"a last axis of size {size} for {cell}")


def require_integer_array(name: str, x: Leaf) -> None:
    """Raises an error unless `x` is an array of integers."""
    fits = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer)
    require_type(fits, name, x, "an array of integers")


def require_bool_array(name: str, x: Leaf) -> None:
    """Raises an error unless `x` is an array of bool."""
    require_type(hasattr(x, "dtype") and x.dtype == bool, name, x, "an array of bool")


def require_bool_sequence(name: str, value: Leaf, steps: int) -> None:
    """Raises an error unless `value` is an array of bool whose leading axis has size `steps`."""
    require_bool_array(name, value)
    require(value.shape[:1] == (steps,), name, value, f"a leading axis of T = {steps}")


def require_key(name: str, value: Leaf) -> jax.Array:
    """Returns `value` if it is one key of `jax.random.key` or `PRNGKey`; else raises an error."""
    dtype = getattr(value, "dtype", None)
    shape = getattr(value, "shape", None)
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    is_raw_key = dtype == jnp.uint32 and shape is not None and len(shape) == 1
    require_type(is_key or is_raw_key, name, value, "a key, such as jax.random.key(0)")
    return value


# The arguments and results of steps and cells.


def num_steps(xs: PyTree, name: str = "xs") -> int:
    """Returns T, the size of the leading axis that all leaves of `xs` share."""
    leaves = jax.tree.leaves_with_path(xs)
    if not leaves:
        expected = "at least one with a time axis (jnp.arange(T) if the step needs no input)"
        require(leaves, name, f"{xs!r}, which has no arrays", expected)
    sizes = {}  # by the place of each leaf, so that the message shows which one differs
    for path, leaf in leaves:
        place = name + jax.tree_util.keystr(path)
        require(jnp.ndim(leaf), place, describe(leaf), "a leading time axis")
        sizes[place] = jnp.shape(leaf)[0]
    got = f"leading (time) axes of sizes {sizes}"
    require(len({*sizes.values()}) == 1, name, got, "one size T")
    return next(iter(sizes.values()))


def one_step(xs: PyTree) -> PyTree:
    """Returns the shape, dtype and sharding of one step of `xs`, without the time axis."""

    def step_of(x: Leaf) -> jax.ShapeDtypeStruct:
        aval = jax.typeof(x)
        return jax.ShapeDtypeStruct(
            aval.shape[1:],
            aval.dtype,
            sharding=aval.sharding.update(spec=aval.sharding.spec[1:]),
            manual_axis_type=aval.manual_axis_type,
        )

    return jax.tree.map(step_of, xs)


def batch_shape(x: PyTree, num_feature_axes: int = 1) -> BatchShape:
    """Returns the batch axes of one step's input: the axes of its first leaf without features.

    Features are the last axes: one axis for `(*batch, I)`, none for tokens `(*batch)`.
    """
    leaves = jax.tree.leaves(x)
    shown = describe(leaves[0]) if leaves else repr(x)
    got = f"{shown} for one step"
    axes = ", ".join(["*batch", *["features"] * num_feature_axes])
    expected = f"({axes}), and with time in front (T, {axes}) for a sequence"
    require(leaves and jnp.ndim(leaves[0]) >= num_feature_axes, "xs", got, expected)
    if num_feature_axes == 0:
        is_token = jnp.issubdtype(jnp.result_type(leaves[0]), jnp.integer)
        require(is_token, "xs", got, f"tokens, which are integers {expected}", TypeError)
    return jnp.shape(leaves[0])[: jnp.ndim(leaves[0]) - num_feature_axes]


def require_leading_axes(name: str, marks: Leaf, x: PyTree, num_feature_axes: int) -> None:
    """Raises an error unless the axes of a bool array are the first axes of `x`."""
    require_bool_array(name, marks)
    shape = batch_shape(x, num_feature_axes)
    expected = f"the axes {list(shape)}, those of xs"
    require(shape[: marks.ndim] == marks.shape, name, marks, expected)


def require_batch_axes(
    name: str, shape: BatchShape, batch: BatchShape | None, carry: PyTree
) -> None:
    """Raises an error unless an argument has the batch axes of the sequence.

    For a plain Step `batch` is None. Its batch axes must be leading axes of every array of the
    carry.
    """
    got = f"the batch axes {shape}"
    require(batch in (None, shape), name, got, f"{batch}, those of xs")
    # A plain Step does not say which axes of its carry are batch axes. A mask selects rows of every
    # array of the carry, so its axes have to be there.
    if batch is not None:
        return
    for path, leaf in jax.tree.leaves_with_path(carry):
        place = f"carry{jax.tree_util.keystr(path)} is {describe(leaf)}"
        expected = f"leading axes of every array of the carry; {place}"
        require(jnp.shape(leaf)[: len(shape)] == shape, name, got, expected)


def float_dtype(params: PyTree) -> np.dtype:
    """Returns the narrowest dtype among the real floating-point leaves of `params`."""
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    floats = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    return min(floats, key=lambda dtype: dtype.itemsize, default=jnp.dtype("float32"))


def abstract_zero_carry(
    initial_carry: Callable[..., PyTree], batch: BatchShape, dtype: np.dtype
) -> PyTree:
    """Returns the shapes and dtypes of a cell's zero state, without computing it."""
    # An integer counter in the carry has another dtype if x64 is enabled, so it is part of the key.
    return _abstract_zero_carry(initial_carry, batch, dtype, jnp.result_type(int))


# Every step in a Python loop asks for it, and each answer takes a trace.
@functools.lru_cache(maxsize=1024)
def _abstract_zero_carry(
    initial_carry: Callable[..., PyTree], batch: BatchShape, dtype: np.dtype, integers: np.dtype
) -> PyTree:
    return jax.eval_shape(lambda: initial_carry(batch, dtype))


def require_carry(
    initial_carry: Callable[..., PyTree], params: PyTree, carry: PyTree, batch: BatchShape
) -> None:
    """Raises an error unless `carry` matches `initial_carry(batch, dtype of params)` exactly.

    The match is exact so that a batch of another size is never broadcast.
    """
    zero = abstract_zero_carry(initial_carry, batch, float_dtype(params))
    require_same_tree("carry", carry, zero)


def require_params(cell: str, params: PyTree, shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Raises an error unless `params` is a dict of arrays with these names and shapes.

    All arrays have one floating-point dtype. None in a shape stands for any size.
    """
    got = sorted(params) if isinstance(params, Mapping) else type(params).__name__
    expected = f"the arrays {sorted(shapes)} of {cell}"
    require(got == sorted(shapes), "params", got, expected, TypeError)
    for name, shape in shapes.items():
        place = f"params[{name!r}]"
        array = params[name]
        require_type(hasattr(array, "dtype"), place, array, f"an array for {cell}")
        require(_has_shape(array, shape), place, array, f"{_shape_text(shape)} for {cell}")
        require_floating(place, jnp.result_type(array))
    # A cell computes in the dtype of its parameters, so there is only one.
    dtypes = sorted({str(jnp.result_type(array)) for array in params.values()})
    require(len(dtypes) <= 1, "params", f"the dtypes {dtypes}", f"one for {cell}", TypeError)


def _has_shape(array: Leaf, shape: Sequence[int | None]) -> bool:
    """Whether an array has this shape, in which None stands for any size."""
    if array.ndim != len(shape):
        return False
    pairs = zip(array.shape, shape, strict=True)
    return all(wanted is None or size == wanted for size, wanted in pairs)


def _shape_text(shape: Sequence[int | None]) -> str:
    """Returns a shape such as `[any,16]`, in which None stands for any size."""
    sizes = ["any" if size is None else str(size) for size in shape]
    return f"[{','.join(sizes)}]"


def require_pair(name: str, result: Any) -> tuple[PyTree, PyTree]:
    """Returns the result of the function `name` if it is a pair; raises an error if not."""
    pairs = {
        "loop": "(carry, ys)",
        "step": "(carry, y)",
        "advance": "(carry, saved)",
        "adjoint": "(d_carry, deltas)",
        "gradients": "(d_w, d_zs)",
    }
    require_type(isinstance(result, tuple) and len(result) == 2, name, result, pairs[name])
    return result


def require_step(step: Callable[..., object], params: PyTree, carry: PyTree, xs: PyTree) -> None:
    """Raises an error unless `step` returns a carry of the same structure, shapes and dtypes.

    The step is traced here, and a Cell then checks its own params, xs and carry.
    """
    require_callable("step", step, takes=3)
    require_arrays(params=params, carry=carry)
    num_steps(xs)
    require_arrays(xs=xs)
    require_same_devices(params=params, carry=carry, xs=xs)
    new_carry, _ = require_pair("step", jax.eval_shape(step, params, carry, one_step(xs)))
    require_same_tree("carry", carry, new_carry, ", as the step returned it")


def require_loop_result(result: object, carry: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the result of a loop; raises an error unless it is the pair of a carry and outputs.

    The carry has the form of the first carry. Every output has a leading axis of size T.
    """
    last, ys = require_pair("loop", result)
    require_same_tree("loop(...)[0]", last, carry, ", as the carry before the first step")
    steps = num_steps(xs)
    # A user's own loop may return anything.
    for path, leaf in jax.tree.leaves_with_path(ys):
        place = "loop(...)[1]" + jax.tree_util.keystr(path)
        fits = jnp.shape(leaf)[:1] == (steps,)
        require(fits, place, describe(leaf), f"a leading axis of T = {steps}")
    return last, ys


def require_elementwise(name: str, value: Callable[..., object]) -> None:
    """Raises an error unless `value` is a function that keeps shape and dtype."""
    x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    result = jax.eval_shape(require_callable(name, value, takes=1), x)
    require_same_tree(name, result, x, ", as its argument")


def require_scalar_loss(name: str, value: Leaf) -> None:
    """Raises an error unless `value`, an array or its struct, is one real floating-point number."""
    require(getattr(value, "shape", None) == (), name, describe(value), "a scalar")
    require_floating(name, value.dtype)
