"""Small helpers on pytrees and time axes."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jaxrnn import check
from jaxrnn.check import PyTree, is_inexact, one_step, require_same_tree


def _is_none(leaf: Any) -> bool:
    return leaf is None


def split_inexact(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Two trees of the same form: the leaves that have a gradient, and the others; else None."""
    inexact = jax.tree.map(lambda x: x if is_inexact(x) else None, tree)
    others = jax.tree.map(lambda x: None if is_inexact(x) else x, tree)
    return inexact, others


def merge_inexact(first: PyTree, second: PyTree) -> PyTree:
    """The inverse of `split_inexact`."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=_is_none)


def add_sparse(tree: PyTree, sparse: PyTree) -> PyTree:
    """`tree + sparse`, leaf by leaf; None in either counts as zero."""

    def plus(a: Any, b: Any) -> Any:
        return a if b is None else b if a is None else a + b

    return jax.tree.map(plus, tree, sparse, is_leaf=_is_none)


def sparse_cotangents(tree: PyTree) -> PyTree:
    """Cotangents as a custom_vjp with symbolic zeros hands them over, None where they are zero."""

    def is_zero(ct: Any) -> bool:
        return isinstance(ct, SymbolicZero) or getattr(ct, "dtype", None) == jax.dtypes.float0

    return jax.tree.map(lambda ct: None if is_zero(ct) else ct, tree, is_leaf=is_zero)


def zero_cotangents(tree: PyTree) -> PyTree:
    """Zeros of all leaves that have a gradient, None for the others."""
    return jax.tree.map(lambda x: jnp.zeros_like(x) if is_inexact(x) else None, tree)


def keep_where_present(sparse: PyTree, tree: PyTree) -> PyTree:
    """`tree`, with None wherever `sparse` has None."""
    return jax.tree.map(lambda s, x: None if s is None else x, sparse, tree, is_leaf=_is_none)


def vjp_inexact(fun: Callable[..., PyTree], *primals: PyTree) -> Callable[[PyTree], PyTree]:
    """`jax.vjp` for primals and values of any dtype: None stands where a leaf has no gradient.

    The function that it returns gives a tuple of one, the tuple of the primals' cotangents.
    """
    inexact, others = split_inexact(primals)

    def of_inexact(inexact: PyTree) -> PyTree:
        return split_inexact(fun(*merge_inexact(inexact, others)))[0]

    return jax.vjp(of_inexact, inexact)[1]


def shift_right(first: PyTree, rest: PyTree) -> PyTree:
    """Put `first` before `rest` and leave out the last: what was there one step earlier.

    Of c_0 and c_1..c_T it makes c_0..c_{T-1}, what each step finds when it begins. Of a start token
    and targets it makes a decoder's inputs under teacher forcing, x_1 = start, x_t = y_{t-1}.

    Args:
        first: a tree of arrays `(...)`.
        rest: the same tree, each leaf `(T, ...)`.

    Returns:
        The same tree, each leaf `(T, ...)`.

    Raises:
        TypeError, ValueError: if `first` has not the form of one step of `rest`.

    Gradient: exact. Memory: one copy.
    """
    first, rest = to_arrays("first", first), to_arrays("rest", rest)
    if jax.tree.leaves(rest):
        check.num_steps(rest, "rest")
    require_same_tree("first", first, one_step(rest), ", as one step of the rest")
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b])[: len(b)], first, rest)


def expand_mask(mask: Any, x: Any) -> Any:
    """The mask with as many axes as x, to be broadcast over x's last ones."""
    return jnp.reshape(mask, (*mask.shape, *(1,) * (jnp.ndim(x) - mask.ndim)))


def where(mask: Any, tree: PyTree, other: PyTree) -> PyTree:
    """`tree` where the mask is True and `other` elsewhere; the mask covers the first axes."""
    chex.assert_trees_all_equal_structs(tree, other)
    return jax.tree.map(lambda a, b: jnp.where(expand_mask(mask, a), a, b), tree, other)


def zero_unmasked(mask: Any, tree: PyTree) -> PyTree:
    """`tree` where the mask is True and zero elsewhere."""
    return fill_unmasked(mask, tree, 0.0)


def fill_unmasked(mask: Any, tree: PyTree, value: float) -> PyTree:
    """`tree` where the mask is True, else `value`; keys, and what it does not cover, stay.

    An integer becomes 0 whatever the value is: the one token that every vocabulary has.
    """

    def fill(x: Any) -> Any:
        keys = jnp.issubdtype(jnp.result_type(x), jax.dtypes.extended)
        covered = not keys and jnp.shape(x)[: mask.ndim] == mask.shape
        other = value if is_inexact(x) else 0
        return jnp.where(expand_mask(mask, x), x, jnp.full_like(x, other)) if covered else x

    return jax.tree.map(fill, tree)


def leaves_by_name(tree: PyTree) -> dict[str, Any]:
    """Each leaf by its path, the keys joined with dots."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def is_surely_less(a: Any, b: Any) -> bool:
    """Whether a < b, sizes; not where one has a symbol in it that `jax.export` has left open."""
    return not any(map(jax.export.is_symbolic_dim, (a, b))) and bool(a < b)


def slice_time(xs: PyTree, begin: int, end: int | None) -> PyTree:
    """The steps from `begin` to before `end`."""
    return jax.tree.map(lambda x: x[begin:end], xs)


def reverse_time(xs: PyTree) -> PyTree:
    """The other direction of time."""
    return jax.tree.map(lambda x: jnp.flip(x, 0), xs)


def to_time_major(xs: PyTree, axis: int = 1) -> PyTree:
    """Batch-major data made time-major: moves `axis` of every leaf to the front.

    The gradient is exact. Time and memory: at most one copy. TypeError or ValueError for what is no
    axis of all leaves.
    """
    check.require_int("axis", axis)
    check.require_arrays(xs=xs)
    for path, x in jax.tree.leaves_with_path(xs):
        fits, place = -jnp.ndim(x) <= axis < jnp.ndim(x), "xs" + jax.tree_util.keystr(path)
        check.require(fits, place, check.describe(x), f"one with an axis {axis}")
    return jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), xs)


def to_arrays(name: str, tree: PyTree) -> PyTree:
    """Python and NumPy numbers as JAX arrays; arrays unchanged; for anything else our error."""
    check.require_arrays(**{name: tree})
    arrays = jax.Array, np.ndarray
    return jax.tree.map(lambda x: x if isinstance(x, arrays) else jnp.asarray(x), tree)


def checked_arguments(
    step: Any, params: PyTree, carry: PyTree, xs: PyTree
) -> tuple[PyTree, PyTree]:
    """Params and carry as a loop takes them, once all is known to fit; otherwise our error.

    They are arrays that vary over devices, within a `shard_map`, wherever any of them or xs does:
    the gradient of what did not is then JAX's own, the sum over these devices.
    """
    carry = to_arrays("carry", carry)
    check.require_step(step, params, carry, xs)
    types = [jax.typeof(x).manual_axis_type for x in jax.tree.leaves((params, carry, xs))]
    axes = frozenset().union(*(t.varying for t in types))
    return jax.tree.map(lambda x: to_varying(x, axes), (params, carry))


def to_varying(x: Any, axes: frozenset[str]) -> Any:
    """`x` as an array that varies over these axes of the devices of a `shard_map`."""
    more = tuple(axes - jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, more, to="varying") if more else x


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Each leaf in the dtype of the leaf that is in its place."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Floating arrays of another dtype, complex ones of the same precision, all else as it is."""

    def one(x: Any) -> Any:
        if not is_inexact(x):
            return x
        real = jnp.issubdtype(jnp.result_type(x), jnp.floating)
        return jnp.asarray(x, dtype if real else np.result_type(dtype, np.complex64))

    return jax.tree.map(one, tree)
