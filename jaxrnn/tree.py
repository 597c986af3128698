"""Helpers for pytrees and time axes.

In a tree of gradients or cotangents, None in the place of a leaf is zero, or stands for an array
that has no gradient, such as integers and keys. So a params tree `{"w": float32[3], "n": int32[]}`
has the gradients `{"w": float32[3], "n": None}`. To JAX, None is a tree without leaves; the
functions here count it as a leaf.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.check import Leaf, PyTree, is_inexact, one_step, require_same_tree
from jaxrnn.types import Array


def _is_none(leaf: object) -> bool:
    return leaf is None


def have_same_structure(first: PyTree, second: PyTree) -> bool:
    """Whether two trees have the same structure, for any leaves."""
    # As objects, since mypy knows of no comparison of structures.
    first_structure: object = jax.tree.structure(first)
    second_structure: object = jax.tree.structure(second)
    return first_structure == second_structure


def split_inexact(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a tree into two of the same structure: leaves with a gradient, and the others.

    Each tree has None in the place of the other's leaves.
    """
    inexact = jax.tree.map(lambda x: x if is_inexact(x) else None, tree)
    others = jax.tree.map(lambda x: None if is_inexact(x) else x, tree)
    return inexact, others


def merge_inexact(first: PyTree, second: PyTree) -> PyTree:
    """Returns the tree that `split_inexact` has split."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=_is_none)


def add_sparse(tree: PyTree, sparse: PyTree) -> PyTree:
    """Returns `tree + sparse`, leaf by leaf; None in either counts as zero."""

    def add(a: Leaf | None, b: Leaf | None) -> Leaf | None:
        if a is None:
            return b
        if b is None:
            return a
        return a + b

    return jax.tree.map(add, tree, sparse, is_leaf=_is_none)


def sparse_cotangents(tree: PyTree) -> PyTree:
    """Returns the cotangents of a custom_vjp with None in the place of zeros.

    `jax.custom_vjp` with `symbolic_zeros=True` passes a symbolic zero for an output that nobody
    used, and a float0 for an integer output.
    """

    def is_zero(ct: Leaf) -> bool:
        return isinstance(ct, SymbolicZero) or getattr(ct, "dtype", None) == jax.dtypes.float0

    return jax.tree.map(lambda ct: None if is_zero(ct) else ct, tree, is_leaf=is_zero)


def zero_cotangents(tree: PyTree) -> PyTree:
    """Returns zeros for all leaves that have a gradient, None for the others."""
    return jax.tree.map(lambda x: jnp.zeros_like(x) if is_inexact(x) else None, tree)


def keep_where_present(sparse: PyTree, tree: PyTree) -> PyTree:
    """Returns `tree` with None wherever `sparse` has None."""
    return jax.tree.map(lambda s, x: None if s is None else x, sparse, tree, is_leaf=_is_none)


def vjp_inexact(fun: Callable[..., PyTree], *primals: PyTree) -> Callable[[PyTree], PyTree]:
    """Returns the pullback of `jax.vjp`, for primals and values of any dtype.

    Cotangents have None where a leaf has no gradient. The pullback returns a tuple with one
    element, the tuple of the cotangents of the primals.
    """
    inexact, others = split_inexact(primals)

    def inexact_fun(inexact: PyTree) -> PyTree:
        values, _ = split_inexact(fun(*merge_inexact(inexact, others)))
        return values

    _, pullback = jax.vjp(inexact_fun, inexact)
    return pullback


def shift_right(first: PyTree, rest: PyTree) -> PyTree:
    """Shifts a sequence by one step: puts `first` before `rest` and drops the last step.

    Given c_0 and c_1..c_T, it returns c_0..c_{T-1}, the carries before each step. Given a start
    token and targets, it returns a decoder's inputs under teacher forcing, x_1 = start, x_t =
    y_{t-1}.

    Args:
        first: a tree of arrays `(...)`.
        rest: the same tree, each leaf `(T, ...)`.

    Returns:
        The same tree, each leaf `(T, ...)`.

    Raises:
        TypeError, ValueError: if `first` does not have the structure, shapes and dtypes of one step
            of `rest`.

    Gradient: exact. Memory: one copy.

    Examples:
        >>> jaxrnn.shift_right(jnp.int32(0), jnp.array([7, 8, 9], jnp.int32)).tolist()
        [0, 7, 8]
    """
    first = to_arrays("first", first)
    rest = to_arrays("rest", rest)
    if jax.tree.leaves(rest):
        check.num_steps(rest, "rest")
    require_same_tree("first", first, one_step(rest), ", as one step of the rest")

    def shift(a: Array, b: Array) -> jax.Array:
        # Cut after, and not before, so that T = 0 gives no step.
        return jnp.concatenate([a[None], b])[: len(b)]

    return jax.tree.map(shift, first, rest)


def expand_mask(mask: Array, x: Leaf) -> Array:
    """Returns the mask with as many axes as x, to be broadcast over the last axes of x.

    The mask may be any array whose axes are the first axes of x.
    """
    num_last_axes = jnp.ndim(x) - mask.ndim
    return jnp.reshape(mask, (*mask.shape, *(1,) * num_last_axes))


def where(mask: Array, tree: PyTree, other: PyTree) -> PyTree:
    """Returns `tree` where the mask is True, else `other`; the mask covers the first axes."""
    chex.assert_trees_all_equal_structs(tree, other)
    return jax.tree.map(lambda a, b: jnp.where(expand_mask(mask, a), a, b), tree, other)


def zero_unmasked(mask: Array, tree: PyTree) -> PyTree:
    """Returns `tree` where the mask is True, else zeros."""
    return fill_unmasked(mask, tree, 0.0)


def fill_unmasked(mask: Array, tree: PyTree, value: float) -> PyTree:
    """Returns `tree` where the mask is True, else `value`.

    Keys, and arrays whose first axes are not those of the mask, stay as they are. An integer
    becomes 0 for any `value`, since every vocabulary has the token 0.
    """

    def fill(x: Leaf) -> Leaf:
        is_key = jnp.issubdtype(jnp.result_type(x), jax.dtypes.extended)
        if is_key or jnp.shape(x)[: mask.ndim] != mask.shape:
            return x
        other = value if is_inexact(x) else 0
        return jnp.where(expand_mask(mask, x), x, jnp.full_like(x, other))

    return jax.tree.map(fill, tree)


def leaves_by_name(tree: PyTree) -> dict[str, Leaf]:
    """Returns a dict from the path of each leaf, its keys joined with dots, to the leaf."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def is_surely_less(a: int, b: int) -> bool:
    """Returns whether a < b, for two sizes.

    It is False if a size is a symbol that `jax.export` has left open.
    """
    if jax.export.is_symbolic_dim(a) or jax.export.is_symbolic_dim(b):
        return False
    return a < b


def slice_time(xs: PyTree, begin: int, end: int | None) -> PyTree:
    """Returns the steps from `begin` up to and without `end`."""
    return jax.tree.map(lambda x: x[begin:end], xs)


def reverse_time(xs: PyTree) -> PyTree:
    """Reverses the time axis."""
    return jax.tree.map(lambda x: jnp.flip(x, 0), xs)


def to_time_major(xs: PyTree, *, axis: int = 1) -> PyTree:
    """Converts batch-major data to time-major: moves `axis` of every leaf to the front.

    Gradient: exact. Time and memory: at most one copy. Raises TypeError or ValueError if `axis` is
    not an axis of every leaf.

    Examples:
        >>> jaxrnn.to_time_major(jnp.ones((4, 50, 8))).shape
        (50, 4, 8)
    """
    check.require_int("axis", axis)
    check.require_arrays(xs=xs)
    for path, x in jax.tree.leaves_with_path(xs):
        fits = -jnp.ndim(x) <= axis < jnp.ndim(x)
        place = "xs" + jax.tree_util.keystr(path)
        check.require(fits, place, check.describe(x), f"one with an axis {axis}")
    return jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), xs)


def to_arrays(name: str, tree: PyTree) -> PyTree:
    """Converts Python and NumPy numbers to JAX arrays, and keeps arrays unchanged.

    Raises an error for anything else.
    """
    check.require_arrays(**{name: tree})
    return jax.tree.map(lambda x: x if isinstance(x, Array) else jnp.asarray(x), tree)


def checked_arguments(
    step: Callable[..., object], params: PyTree, carry: PyTree, xs: PyTree
) -> tuple[PyTree, PyTree]:
    """Checks the arguments of a loop, and returns params and carry as it needs them.

    Within a `shard_map`, they become arrays that vary over every mesh axis over which one of the
    arguments varies. JAX's transposition of this conversion sums the gradient of a replicated
    argument over these axes.
    """
    carry = to_arrays("carry", carry)
    check.require_step(step, params, carry, xs)
    leaves = jax.tree.leaves((params, carry, xs))
    axes = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in leaves))
    return jax.tree.map(lambda x: to_varying(x, axes), (params, carry))


def to_varying(x: Leaf, axes: frozenset[str]) -> Leaf:
    """Returns `x` as an array that varies over these mesh axes of a `shard_map`."""
    missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Returns each leaf in the dtype of the corresponding leaf of `like`."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Casts floating-point arrays to `dtype`, and complex arrays to the same precision.

    All other leaves stay unchanged.
    """

    def cast_leaf(x: Leaf) -> Leaf:
        if not is_inexact(x):
            return x
        is_real = jnp.issubdtype(jnp.result_type(x), jnp.floating)
        return jnp.asarray(x, dtype if is_real else complex_dtype(dtype))

    return jax.tree.map(cast_leaf, tree)


def complex_dtype(dtype: DTypeLike) -> np.dtype:
    """Returns complex128 for float64, and complex64 for narrower ones."""
    return np.result_type(dtype, np.complex64)
