"""A batch is independent rows: run any function of one on all devices at once."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check
from jaxrnn.types import PyTree

AXIS = "batch"


def data_parallel(
    function: Callable[..., PyTree],
    *,
    in_axes: tuple[Any, ...],
    out_axes: Any = None,
    weight: Callable[..., jax.Array] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., PyTree]:
    """Split the rows of a batch over devices; a loss is the mean over all of them, as on one.

    With part d of the arguments x_d, its weight w_d (1 unless given) and D devices,

        value = Σ_d w_d f(x_d) / Σ_d w_d                                                     (1)

    for every output whose axis is None; the others are put together again along theirs. The loss
    has to be a mean over rows; one over the valid steps of rows is weighted by their number, say
    `weight=lambda params, xs, mask: mask.sum()`. Differentiate what is returned, by `jax.grad` or
    any other transformation:

        jax.value_and_grad(data_parallel(loss, in_axes=(None, 1, 1)))(params, xs, targets)

    Args:
        function: of positional arguments. A `jax.random.key` that is not split is folded with the
            number of the part, so that each draws noise of its own.
        in_axes: one for each argument, a tree prefix as in `jax.vmap`: the axis of rows, or None
            for what all parts share. Of time-major data it is 1, of a carry 0.
        out_axes: likewise of the outputs; None for a mean over all rows.
        weight: of the arguments of one part, a scalar; above zero in one of them at least.
        devices: `jax.devices()` unless given; one runs the function as it is. A CPU is as many as
            `jax.config.update("jax_num_cpu_devices", n)` says before JAX is first used.

    Returns:
        A function of the same arguments.

    Raises:
        ValueError: if there is not one axis for each argument, or if rows cannot be split evenly:
            pad them with rows that a mask leaves out.

    Gradient: exact, that on one device but for the order of sums. Time: one part's, and one sum of
    the shared arguments' gradients over all devices. Memory: one part's, on each.
    """
    check.require_callable("function", function)
    if weight is not None:
        check.require_callable("weight", weight)
    several = isinstance(in_axes, (tuple, list))
    check.require_option_type(
        "in_axes", in_axes, several, "a tuple, one axis or None for each argument"
    )
    for name, axes in (("in_axes", in_axes), ("out_axes", out_axes)):
        for axis in jax.tree.leaves(axes):
            check.require_int(name, axis, least=0)
    several = devices is None or isinstance(devices, Sequence)
    check.require_option_type("devices", devices, several, "a sequence of jax.Device")
    devices = jax.devices() if devices is None else list(devices)
    known = devices and all(isinstance(device, jax.Device) for device in devices)
    check.require(known, "devices", devices, "at least one jax.Device and nothing else")
    check.require(len({*devices}) == len(devices), "devices", devices, "each once")
    mesh = jax.sharding.Mesh(devices, (AXIS,))

    def part(*args: PyTree) -> PyTree:
        args = _over(lambda axis, x: jax.tree.map(_folded, x) if axis is None else x, in_axes, args)
        ys = function(*args)
        share = jnp.ones(()) if weight is None else weight(*args)
        share = share / jax.lax.psum(share, AXIS)

        def mean(y: jax.Array) -> jax.Array:
            return jax.lax.psum(y * share.astype(y.dtype), AXIS)

        return _over(lambda axis, y: jax.tree.map(mean, y) if axis is None else y, out_axes, ys)

    def split(*args: PyTree) -> PyTree:
        if len(args) != len(in_axes):
            got, expected = f"{len(in_axes)} axes for {len(args)} arguments", "one for each"
            check.require(False, "in_axes", got, expected)
        if len(devices) == 1:
            return function(*args)
        _over(even, tuple(in_axes), args)
        specs = {"in_specs": _over(_spec, in_axes), "out_specs": _over(_spec, out_axes)}
        return jax.shard_map(part, mesh=mesh, **specs, check_vma=False)(*args)

    def even(axis: Any, x: PyTree) -> None:
        for shape in () if axis is None else map(jnp.shape, jax.tree.leaves(x)):
            got = f"axis {axis} of an argument of shape {shape}"
            check.require(axis < len(shape), "in_axes", got, "one that it has")
            got = f"{shape[axis]} rows on axis {axis} of an argument of shape {shape}"
            expected = f"a multiple of {len(devices)}, the number of devices"
            check.require(shape[axis] % len(devices) == 0, "in_axes", got, expected)

    return split


def _over(function: Callable[..., Any], axes: PyTree, *trees: PyTree) -> PyTree:
    """`function(axis, …)`, for each axis, and None is one, with what stands there in the trees."""
    return jax.tree.map(function, axes, *trees, is_leaf=lambda axis: axis is None)


def _spec(axis: int | None) -> jax.P:
    return jax.P() if axis is None else jax.P(*(None,) * axis, AXIS)


def _folded(x: Any) -> Any:
    """A key made another one in each part; all else as it is."""
    is_key = jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) and jnp.ndim(x) == 0
    return jax.random.fold_in(x, jax.lax.axis_index(AXIS)) if is_key else x
