"""What may be wrong with an argument, said before anything compiles.

Every message has one form: the argument's name, what came, what was expected.
"""

import contextlib
import functools
import inspect
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def describe(leaf: Any) -> str:
    """`float32[3,4]` for an array or its struct; for anything else its type."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, type):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    return f"a tuple of {len(leaf)}" if isinstance(leaf, tuple) else type(leaf).__name__


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is real or complex floating point, that is, has a gradient."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def require(fits: Any, name: str, got: Any, expected: str, error: Any = ValueError) -> Any:
    """What came, if it fits; otherwise our error, in the one form; of arrays, what they are."""
    if not fits:
        came = describe(got) if hasattr(got, "dtype") else got
        raise error(f"{name}: got {came}, expected {expected}")
    return got


def require_type(fits: Any, name: str, got: Any, expected: str) -> None:
    """Raise a TypeError unless something fits, that says of `got` what it is."""
    require(fits, name, describe(got), expected, TypeError)


def require_option_type(name: str, value: Any, fits: bool, expected: str) -> Any:
    """`value` if it fits; otherwise our error."""
    require(fits, name, f"{value!r} of type {type(value).__name__}", expected, TypeError)
    return value


def require_int(name: str, value: Any, least: int | None = None) -> int:
    """`value` if it is an int, of at least `least` if said; otherwise our error."""
    fits = isinstance(value, int) and not isinstance(value, bool)
    require_option_type(name, value, fits, "a Python int")
    return require(least is None or value >= least, name, value, f"an int of at least {least}")


def require_same_tree(name: str, got: PyTree, expected: PyTree, why: str = "") -> None:
    """Raise unless two trees agree in structure, and leaf by leaf in shape and dtype.

    `why` ends the message: what there is to say about what was expected.
    """
    require_same_structure(name, got, expected, why)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves_with_path(expected), strict=True)
    for leaf, (path, wanted) in pairs:
        place, expected = name + jax.tree_util.keystr(path), describe(wanted) + why
        leaf = jax.typeof(leaf) if not hasattr(leaf, "dtype") else leaf
        require(leaf.shape == wanted.shape, place, leaf, expected)
        require(leaf.dtype == wanted.dtype, place, leaf, expected, TypeError)


def num_steps(xs: PyTree, name: str = "xs") -> int:
    """T, the size of the leading axis that all leaves of `xs` share."""
    leaves = jax.tree.leaves_with_path(xs)
    if not leaves:
        expected = "at least one with a time axis (jnp.arange(T) if the step needs no input)"
        require(leaves, name, f"{xs!r}, which has no arrays", expected)
    sizes = {}
    for path, leaf in leaves:
        place = name + jax.tree_util.keystr(path)
        require(jnp.ndim(leaf), place, describe(leaf), "a leading time axis")
        sizes[place] = jnp.shape(leaf)[0]
    require(
        len({*sizes.values()}) == 1, name, f"leading (time) axes of sizes {sizes}", "one size T"
    )
    return next(iter(sizes.values()))


def one_step(xs: PyTree) -> PyTree:
    """The shapes and dtypes of `xs` without its time axis, and over which devices they lie."""

    def one(x: Any) -> jax.ShapeDtypeStruct:
        form, over = jax.typeof(x), jax.typeof(x).sharding
        lies = {"sharding": over.update(spec=over.spec[1:])}
        lies["manual_axis_type"] = form.manual_axis_type
        return jax.ShapeDtypeStruct(form.shape[1:], form.dtype, **lies)

    return jax.tree.map(one, xs)


def require_step(step: Any, params: PyTree, carry: PyTree, xs: PyTree) -> None:
    """Raise unless `step` maps the carry to one of the same form.

    A Cell checks its own params, xs and carry as it is traced here.
    """
    require_callable("step", step, takes=3)
    require_arrays(params=params, carry=carry)
    num_steps(xs)
    require_arrays(xs=xs)
    require_same_devices(params=params, carry=carry, xs=xs)
    result = require_pair("step", jax.eval_shape(step, params, carry, one_step(xs)))
    require_same_tree("carry", carry, result[0], ", as the step returned it")


def require_leading_axes(name: str, marks: Any, x: PyTree, num_feature_axes: int) -> None:
    """Raise unless bools have the first axes of what they mark."""
    require_bool_array(name, marks)
    shape = batch_shape(x, num_feature_axes)
    require(shape[: marks.ndim] == marks.shape, name, marks, f"the axes {list(shape)}, those of xs")


def batch_shape(x: PyTree, num_feature_axes: int = 1) -> tuple[int, ...]:
    """The batch axes of one step's input: those of its first leaf, without its features.

    Features are the last axes, one of `(*batch, I)`; a token `(*batch)` has none.
    """
    leaves = jax.tree.leaves(x)
    got = f"{describe(leaves[0]) if leaves else repr(x)} for one step"
    axes = ", ".join(["*batch", *["features"] * num_feature_axes])
    expected = f"({axes}), and with time in front (T, {axes}) for a sequence"
    require(leaves and jnp.ndim(leaves[0]) >= num_feature_axes, "xs", got, expected)
    if num_feature_axes == 0:
        is_token = jnp.issubdtype(jnp.result_type(leaves[0]), jnp.integer)
        require(is_token, "xs", got, f"tokens, which are integers {expected}", TypeError)
    return jnp.shape(leaves[0])[: jnp.ndim(leaves[0]) - num_feature_axes]


def float_dtype(params: PyTree) -> Any:
    """The dtype that the real floating leaves of `params` share, or the narrowest of theirs."""
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    floats = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    return min(floats, key=lambda dtype: dtype.itemsize, default=jnp.dtype("float32"))


def abstract_zero_carry(make: Any, batch: tuple[int, ...], dtype: Any) -> PyTree:
    """The shapes and dtypes of a cell's zero state."""
    # A counter beside the state is of another dtype where x64 is enabled.
    return _zero_carry(make, batch, dtype, jnp.result_type(int))


@functools.lru_cache(maxsize=1024)
def _zero_carry(make: Any, batch: tuple[int, ...], dtype: Any, integers: Any) -> PyTree:
    return jax.eval_shape(lambda: make(batch, dtype))


def require_carry(cell: Any, params: PyTree, carry: PyTree, batch: tuple[int, ...]) -> None:
    """Raise unless `carry` has exactly the form of `cell.initial_carry(batch, dtype of params)`.

    Exactly: a batch of another size must never broadcast.
    """
    require_same_tree(
        "carry", carry, abstract_zero_carry(cell.initial_carry, batch, float_dtype(params))
    )


def require_params(cell: str, params: PyTree, shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Raise unless `params` is a dict of arrays of one floating dtype with these names and shapes.

    None in a shape stands for any size.
    """
    got = sorted(params) if isinstance(params, Mapping) else type(params).__name__
    require(
        got == sorted(shapes), "params", got, f"the arrays {sorted(shapes)} of {cell}", TypeError
    )
    for name, shape in shapes.items():
        place, array = f"params[{name!r}]", params[name]
        require_type(hasattr(array, "dtype"), place, array, f"an array for {cell}")
        # None against None, so that any size is equal.
        sizes = [None if e is None else g for g, e in zip(array.shape, shape, strict=False)]
        wanted = ",".join("any" if size is None else str(size) for size in shape)
        fits = array.ndim == len(shape) and sizes == list(shape)
        require(fits, place, array, f"[{wanted}] for {cell}")
        require_floating(place, jnp.result_type(array))
    dtypes = sorted({str(jnp.result_type(array)) for array in params.values()})
    require(len(dtypes) <= 1, "params", f"the dtypes {dtypes}", f"one for {cell}", TypeError)


def require_floating(name: str, dtype: Any) -> Any:
    """`dtype` as a NumPy dtype if it is real floating point; otherwise our error."""
    fits = False
    with contextlib.suppress(TypeError):
        fits = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    require(fits, name, f"{dtype}", "a floating-point dtype", TypeError)
    return jnp.dtype(dtype)


def require_features(name: str, cell: str, x: Any, size: int) -> None:
    """Raise unless `x` is a real floating array `(..., size)`."""
    require_type(hasattr(x, "shape") and hasattr(x, "dtype"), name, x, f"an array for {cell}")
    floats = f"floating point for {cell} (embed tokens first, jaxrnn.embedding)"
    require_type(jnp.issubdtype(x.dtype, jnp.floating), name, x, floats)
    require(x.shape[-1:] == (size,), name, x, f"a last axis of size {size} for {cell}")


def require_number(name: str, value: Any) -> float:
    """`value` as a float if it is a Python number; otherwise our error."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(require_option_type(name, value, fits, "a number"))


def require_positive(name: str, value: Any) -> float:
    """`value` as a float if it is a number above 0; otherwise our error."""
    return float(require(require_number(name, value) > 0, name, value, "a number above 0"))


def parse_bytes(name: str, value: Any) -> int | None:
    """Bytes, from an int or from a text with a unit, such as "64MiB" or "1.5 GB"; None if None."""
    if isinstance(value, str):
        found: Any = re.fullmatch(r"(\d+(?:\.\d+)?) *([kKMG]?B|[KMG]iB)", value)
        require(found, name, repr(value), "bytes, such as 64000 or '64MiB'")
        unit, base = found[2].upper(), 1024 if "i" in found[2] else 1000
        value = int(float(found[1]) * base ** "BKMG".index(unit[0]))
    return None if value is None else require_int(name, value, least=1)


def require_bool(name: str, value: Any) -> bool:
    """`value` if it is a bool; otherwise our error."""
    return require_option_type(name, value, isinstance(value, bool), "a bool")


def require_path(name: str, value: Any) -> None:
    """Raise unless `value` names a file."""
    require_option_type(name, value, isinstance(value, (str, os.PathLike)), "a path")


def require_callable(name: str, value: Any, takes: int | None = None, **named: Any) -> Any:
    """`value` if it can be called, with so many arguments and these named ones if said; or error.

    A factory that was not called, `loop=truncated`, is such a function too.
    """
    require_option_type(name, value, callable(value), "a function")
    if takes is not None:
        expected = ", and by name ".join([f"a function of {takes} arguments", *named])
        with contextlib.suppress(ValueError):  # a function that does not tell
            signature = inspect.signature(value)
            try:
                signature.bind(*[None] * takes, **named)
            except TypeError as error:
                got = f"{getattr(value, '__name__', value)} ({error})"
                raise TypeError(f"{name}: got {got}, expected {expected}") from None
    return value


def require_hashable(name: str, value: Any) -> None:
    """Raise unless `value` has a hash, as a static argument of `jax.jit` needs one."""
    try:
        hash(value)
    except TypeError as error:
        got = f"{value!r} ({error})"
        expected = "one with a hash, such as a frozen dataclass of numbers and functions"
        raise TypeError(f"{name}: got {got}, expected {expected}") from None


def require_elementwise(name: str, value: Any) -> Any:
    """`value` if it is a function that keeps the form of its argument; otherwise our error."""
    x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    require_same_tree(
        name, jax.eval_shape(require_callable(name, value, takes=1), x), x, ", as its argument"
    )
    return value


def require_pair(name: str, result: Any) -> Any:
    """What a loop or a step returned, if it is a pair; otherwise our error."""
    pair = "(carry, ys)" if name == "loop" else "(carry, y)"
    require_type(isinstance(result, tuple) and len(result) == 2, name, result, pair)
    return result


def require_arrays(**trees: PyTree) -> None:
    """Raise unless all leaves are arrays, traced ones too, or numbers."""
    for place, leaf in _leaves(trees):
        with contextlib.suppress(TypeError):
            jax.typeof(leaf)
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                continue
        got = f"{type(leaf).__name__} {getattr(leaf, 'dtype', '')}".rstrip()
        require(False, place, got, "an array", TypeError)


def require_concrete(**trees: PyTree) -> None:
    """Raise if any leaf is traced: what is not for use under jit has to see numbers."""
    expected = "numbers that are known (this is not for use under jit)"
    for place, leaf in _leaves(trees):
        traced = isinstance(leaf, jax.core.Tracer)
        require(not traced, place, f"a traced {describe(leaf)}", expected, TypeError)


def require_same_devices(**trees: PyTree) -> None:
    """Raise if arrays that were put on devices lie on different ones; JAX moves all others."""
    first: Any = None
    for place, leaf in _leaves(trees):
        if not isinstance(leaf, jax.core.Tracer) and getattr(leaf, "committed", False):
            first = first or (place, leaf.devices())
            got, expected = (sorted(map(str, d)) for d in (leaf.devices(), first[1]))
            require(got == expected, place, f"one on {got}", f"{expected}, those of {first[0]}")


def _leaves(trees: dict[str, PyTree]) -> Iterator[tuple[str, Any]]:
    """Each leaf of each tree, and before it where it stands."""
    for name, tree in trees.items():
        try:
            leaves = jax.tree.leaves_with_path(tree)
        except ValueError as error:  # keys that have no order
            raise TypeError(f"{name}: got {describe(tree)} ({error}), expected an order") from None
        for path, leaf in leaves:
            yield name + jax.tree_util.keystr(path), leaf


def require_one_per_part(parts: Sequence[Any], **trees: PyTree) -> None:
    """Raise unless the trees of a network are tuples, of one for each of its parts."""
    for name, tree in trees.items():
        fits = isinstance(tree, (tuple, list)) and len(tree) == len(parts)
        require_type(fits, name, tree, f"a tuple of {len(parts)}, one a part")


def require_finite(name: str, value: Any) -> float:
    """`value` as a float if it is a finite number; otherwise our error."""
    return float(
        require(math.isfinite(require_number(name, value)), name, value, "a finite number")
    )


def require_scalar_loss(name: str, form: Any) -> None:
    """Raise unless the form of a loss's value is that of one real floating number."""
    require(getattr(form, "shape", None) == (), name, describe(form), "a scalar")
    require_floating(name, form.dtype)


def require_integer_array(name: str, x: Any) -> None:
    """Raise unless `x` is an array of integers."""
    fits = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer)
    require_type(fits, name, x, "an array of integers")


def require_instance(name: str, value: Any, wanted: type) -> Any:
    """`value` if it is of that kind; otherwise our error."""
    require_type(isinstance(value, wanted), name, value, f"a {wanted.__name__}")
    return value


def require_rate(name: str, value: Any) -> float:
    """`value` as a float if it is a number in [0, 1); otherwise our error."""
    return require(0 <= require_number(name, value) < 1, name, float(value), "a rate in [0, 1)")


def require_same_structure(name: str, got: PyTree, expected: PyTree, why: str = "") -> None:
    """Raise unless two trees agree in structure."""
    forms: list[Any] = [jax.tree.structure(tree) for tree in (got, expected)]
    require(forms[0] == forms[1], name, f"the tree {forms[0]}", f"{forms[1]}{why}", TypeError)


def require_key(name: str, value: Any) -> None:
    """Raise unless `value` is one key of `jax.random.key`, or of the older `PRNGKey`."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    old = dtype == jnp.uint32 and shape is not None and len(shape) == 1
    require_type(new or old, name, value, "a key, such as jax.random.key(0)")


def require_bool_array(name: str, x: Any) -> None:
    """Raise unless `x` is an array of bool."""
    require_type(hasattr(x, "dtype") and x.dtype == bool, name, x, "an array of bool")


def require_bool_sequence(name: str, value: Any, steps: int) -> None:
    """Raise unless `value` is an array of bool with a leading time axis of that size."""
    require_bool_array(name, value)
    require(value.shape[:1] == (steps,), name, value, f"a leading axis of T = {steps}")


def require_batch_axes(
    name: str, shape: tuple[int, ...], batch: tuple[int, ...] | None, carry: PyTree
) -> None:
    """Raise unless an argument's batch axes are those of the sequence.

    A plain Step, for which `batch` is None, has those that all arrays of its carry begin with.
    """
    got = f"the batch axes {shape}"
    require(batch in (None, shape), name, got, f"{batch}, those of xs")
    for path, leaf in jax.tree.leaves_with_path(carry if batch is None else ()):
        place = f"carry{jax.tree_util.keystr(path)} is {describe(leaf)}"
        expected = f"some that every array of the carry begins with; {place}"
        require(jnp.shape(leaf)[: len(shape)] == shape, name, got, expected)
