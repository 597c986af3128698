"""Runs a function of a batch on all devices at once; the rows of a batch are independent."""

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
    in_axes: tuple[PyTree, ...],
    out_axes: PyTree = None,
    weight: Callable[..., jax.Array] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., PyTree]:
    """Splits the rows of a batch over devices; a loss is the mean over all of them.

    With part d of the arguments x_d, its weight w_d and D devices,

        value = Σ_d w_d f(x_d) / Σ_d w_d                                                     (1)

    for every output whose axis is None. Such an output, for instance a scalar, has a shape that
    does not depend on the number of rows. The other outputs are concatenated along their axis. So
    all shapes are those on one device.

    The loss has to be a mean over rows. A loss that is a mean over valid steps is weighted by their
    number, for instance `weight=lambda params, xs, mask: mask.sum()`. Differentiate the returned
    function, by `jax.grad` or any other transformation:

        jax.value_and_grad(data_parallel(loss, in_axes=(None, 1, 1)))(params, xs, targets)

    Args:
        function: a function of positional arguments. A scalar `jax.random.key` that is not split is
            folded with the index of the part, so that each part draws different noise.
        in_axes: one entry for each argument, a tree prefix as in `jax.vmap`: the axis of rows, or
            None for an argument that all parts share. The axis is 1 for time-major data, 0 for a
            carry.
        out_axes: the axis of rows of each output, a tree prefix; None for a mean over all rows.
        weight: a function from the arguments of one part to its weight, a scalar, above zero in at
            least one part. Defaults to 1.
        devices: defaults to `jax.devices()`. One device runs the function unchanged. A CPU counts
            as many devices as `jax.config.update("jax_num_cpu_devices", n)` sets before JAX is
            first used.

    Returns:
        A function of the same arguments.

    Raises:
        ValueError: if the number of axes is not that of the arguments; if an output whose axis is
            None has an axis of rows; if the rows do not divide evenly. In that case pad them with
            rows that a mask leaves out.

    Gradient: exact: the gradient on one device, except for the order of sums. Time: one part, and
    one sum of the gradients of the shared arguments over all devices. Memory: one part on each
    device.
    """
    check.require_callable("function", function)
    if weight is not None:
        check.require_callable("weight", weight)
    check.require_option_type(
        "in_axes",
        in_axes,
        isinstance(in_axes, (tuple, list)),
        "a tuple, one axis or None for each argument",
    )
    in_axes = tuple(in_axes)
    for name, axes in (("in_axes", in_axes), ("out_axes", out_axes)):
        for axis in jax.tree.leaves(axes):
            check.require_int(name, axis, least=0)
    devices = _checked_devices(devices)
    mesh = jax.sharding.Mesh(devices, (AXIS,))

    def part(*args: PyTree) -> PyTree:
        def fold_keys(axis: int | None, x: PyTree) -> PyTree:
            if axis is None:
                return jax.tree.map(_fold_key, x)
            return x

        args = _map_axes(fold_keys, in_axes, args)
        ys = function(*args)
        w = jnp.ones(())
        if weight is not None:
            w = weight(*args)
        share = w / jax.lax.psum(w, AXIS)  # w_d / Σ w_d of (1)

        def mean(axis: int | None, ys: PyTree) -> PyTree:
            if axis is not None:
                return ys
            # The cast keeps the dtype of y, which may be narrower than that of the share.
            return jax.tree.map(lambda y: jax.lax.psum(y * share.astype(y.dtype), AXIS), ys)

        return _map_axes(mean, out_axes, ys)

    def split(*args: PyTree) -> PyTree:
        if len(args) != len(in_axes):
            got = f"{len(in_axes)} axes for {len(args)} arguments"
            check.require(False, "in_axes", got, "one for each")
        _map_axes(require_even, in_axes, args)
        if len(devices) == 1:  # no shard_map, so that the program is that of the function
            ys = function(*args)
            require_no_rows(args, ys)
            return ys
        in_specs = _map_axes(_spec, in_axes)
        out_specs = _map_axes(_spec, out_axes)
        sharded = jax.shard_map(
            part, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
        ys = sharded(*args)
        require_no_rows(args, ys)
        return ys

    def require_no_rows(args: tuple[PyTree, ...], ys: PyTree) -> None:
        """Raises an error if the shape of an output without an axis depends on the rows.

        The function is traced with twice the rows, unless all such outputs are scalars.
        """

        def has_array(axis: int | None, y: PyTree) -> bool:
            return axis is None and any(map(jnp.ndim, jax.tree.leaves(y)))

        if not any(jax.tree.leaves(_map_axes(has_array, out_axes, ys))):
            return
        with_twice_the_rows = jax.eval_shape(lambda: function(*_map_axes(_twice, in_axes, args)))

        def require_same_shape(y: Any, other: Any) -> None:
            got = f"None for an output of shape {jnp.shape(y)}"
            expected = "the axis of its rows, since its shape depends on their number"
            check.require(jnp.shape(y) == jnp.shape(other), "out_axes", got, expected)

        def require_same_shapes(axis: int | None, ys: PyTree, others: PyTree) -> None:
            if axis is None:
                jax.tree.map(require_same_shape, ys, others)

        _map_axes(require_same_shapes, out_axes, ys, with_twice_the_rows)

    def require_even(axis: int | None, x: PyTree) -> None:
        if axis is None:
            return
        for shape in map(jnp.shape, jax.tree.leaves(x)):
            got = f"axis {axis} of an argument of shape {shape}"
            check.require(axis < len(shape), "in_axes", got, "one that it has")
            got = f"{shape[axis]} rows on axis {axis} of an argument of shape {shape}"
            expected = f"a multiple of {len(devices)}, the number of devices"
            check.require(shape[axis] % len(devices) == 0, "in_axes", got, expected)

    return split


def _checked_devices(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    is_sequence = devices is None or isinstance(devices, Sequence)
    check.require_option_type("devices", devices, is_sequence, "a sequence of jax.Device")
    if devices is None:
        return jax.devices()
    devices = list(devices)
    are_devices = devices and all(isinstance(device, jax.Device) for device in devices)
    check.require(are_devices, "devices", devices, "at least one jax.Device and nothing else")
    check.require(len({*devices}) == len(devices), "devices", devices, "each once")
    return devices


def _map_axes(function: Callable[..., Any], axes: PyTree, *trees: PyTree) -> PyTree:
    """Maps `function(axis, subtree, …)` over a tree prefix of axes; None is an axis too."""
    return jax.tree.map(function, axes, *trees, is_leaf=lambda axis: axis is None)


def _spec(axis: int | None) -> jax.P:
    """Returns the axes of a mesh over which an argument is split: AXIS at `axis`, or nowhere."""
    if axis is None:
        return jax.P()
    axes_before = (None,) * axis
    return jax.P(*axes_before, AXIS)


def _twice(axis: int | None, x: PyTree) -> PyTree:
    """Returns the rows of an argument twice."""
    if axis is None:
        return x
    return jax.tree.map(lambda x: jnp.concatenate([x, x], axis), x)


def _fold_key(x: Any) -> Any:
    """Folds a scalar key with the index of the part; returns anything else unchanged."""
    is_key = jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) and jnp.ndim(x) == 0
    if is_key:
        return jax.random.fold_in(x, jax.lax.axis_index(AXIS))
    return x
