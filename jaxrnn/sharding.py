"""A batch is independent rows: run any function of one on all devices at once."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxrnn import check
from jaxrnn.types import PyTree

AXIS = "batch"


def data_parallel(
    function: Callable[..., PyTree],
    *,
    in_axes: Any,
    out_axes: Any = None,
    weight: Callable[..., jax.Array] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., PyTree]:
    """Split the rows of a batch over devices; a loss is the mean over all of them, as on one.

    With part d of the arguments x_d, its weight w_d (1 unless given) and D devices,

        value = Σ_d w_d f(x_d) / Σ_d w_d                                                     (1)

    for every output whose axis is None; the others are put together again along theirs. The loss is
    to be a mean over rows. A mean over the valid steps of rows has to be weighted by their number,
    `weight=lambda params, xs, mask: mask.sum()`. Differentiate what is returned, by any transformation:

        update = jax.value_and_grad(data_parallel(loss, in_axes=(None, 1, 1)))   # params, xs, targets

    Args:
        function: of positional arguments, `jax.random.key`s among them; a key that is not split
            is folded with the number of the part, so that rows of different parts draw different noise.
        in_axes: one for each argument, a tree prefix as in `jax.vmap`: the axis of rows, or None for
            what all parts share. Of time-major data it is 1, of a carry 0.
        out_axes: likewise of the outputs; None for a mean over all rows.
        weight: of the arguments of one part, a scalar above zero in at least one of them.
        devices: `jax.devices()` unless given. On a CPU there is one for each of
            `jax.config.update("jax_num_cpu_devices", n)`, said before JAX is first used.

    Returns:
        A function of the same arguments.

    Raises:
        ValueError: if the rows cannot be split evenly; pad them with rows that a mask leaves out.

    Gradient: exact, equal to that on one device but for the order of sums. Time: that of one part and one
    sum of the shared arguments' gradients over all devices. Memory: of one part, on each device.
    """
    check.function("function", function)
    devices = jax.devices() if devices is None else list(devices)
    mesh = jax.sharding.Mesh(devices, (AXIS,))
    name = getattr(function, "__name__", "function")  # a functools.partial has none

    def part(*args: PyTree) -> PyTree:
        own = jax.tree.map(own_noise, tuple(in_axes), args, is_leaf=_is_none)
        outputs = function(*own)
        share = jnp.ones(()) if weight is None else weight(*own)
        share = share / lax.psum(share, AXIS)

        def joined(axis: int | None, output: PyTree) -> PyTree:
            if axis is not None:
                return output
            return jax.tree.map(lambda y: lax.psum(y * share.astype(y.dtype), AXIS), output)

        return jax.tree.map(joined, out_axes, outputs, is_leaf=_is_none)

    def split(*args: PyTree) -> PyTree:
        if len(devices) == 1:
            return function(*args)
        jax.tree.map(evenly, tuple(in_axes), args, is_leaf=_is_none)
        run = jax.shard_map(
            part,
            mesh=mesh,
            in_specs=_specs(tuple(in_axes)),
            out_specs=_specs(out_axes),
            check_vma=False,
        )
        return run(*args)

    def own_noise(axis: int | None, arg: PyTree) -> PyTree:
        return arg if axis is not None else jax.tree.map(_folded, arg)

    def evenly(axis: Any, arg: PyTree) -> None:
        for x in jax.tree.leaves(arg) if axis is not None else ():
            if jnp.shape(x)[axis] % len(devices):
                raise ValueError(
                    f"{name}: got {jnp.shape(x)[axis]} rows on axis {axis} of an array "
                    f"{jnp.shape(x)}, expected a multiple of {len(devices)}, the number of devices"
                )

    return split


def _is_none(axis: Any) -> bool:
    return axis is None


def _folded(x: Any) -> Any:
    """A key made another one in each part; all else as it is."""
    key = jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) and jnp.ndim(x) == 0
    return jax.random.fold_in(x, lax.axis_index(AXIS)) if key else x


def _specs(axes: PyTree) -> PyTree:
    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, AXIS)

    return jax.tree.map(spec, axes, is_leaf=_is_none)
