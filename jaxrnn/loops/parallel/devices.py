"""Neighbouring steps of a sequence, which may be divided over the devices of a mesh axis.

Within a `jax.shard_map` whose mesh axis divides the time axis, device k holds the steps after those
of device k - 1. Without a `TimeAxis`, one device holds all steps.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn.types import Array, PyTree


class TimeAxis(NamedTuple):
    """The mesh axis that divides the time axis.

    Fields:
        name: its name.
        is_reversed: whether device k holds the steps before those of device k - 1.
    """

    name: str
    is_reversed: bool = False

    def size(self) -> int:
        """Returns the number of devices."""
        return jax.lax.axis_size(self.name)

    def position(self, reverse: bool) -> jax.Array:
        """Returns the place of this device in the order of time, or in the reverse order."""
        index = jax.lax.axis_index(self.name)
        # Reversing a sequence that the devices hold in reverse gives the order of the devices.
        return self.size() - 1 - index if reverse != self.is_reversed else index

    def devices(self, reverse: bool) -> list[int]:
        """Returns the devices in the order of time, or in the reverse order."""
        devices = list(range(self.size()))
        return devices[::-1] if reverse != self.is_reversed else devices


def previous_states(
    start: Array, states: Array, reverse: bool, axis: TimeAxis | None = None
) -> jax.Array:
    """Returns c_{t-1} for all t, from c_0 and c_t for all t.

    Args:
        start: c_0, the same on all devices.
        states: c_t `(T, ...)`, or the steps of this device.
        reverse: whether t counts from the last step.
        axis: the mesh axis that divides the time axis.
    """
    first = start if start.dtype == states.dtype else start.astype(states.dtype)
    if axis is not None:  # each device sends its last state to the next one
        end = states[0] if reverse else states[-1]
        devices = axis.devices(reverse)
        received = jax.lax.ppermute(end, axis.name, list(itertools.pairwise(devices)))
        first = jnp.where(axis.position(reverse) == 0, first, received)
    parts = [states[1:], first[None]] if reverse else [first[None], states[:-1]]
    return jnp.concatenate(parts)[: len(states)]  # T may be 0


def last_state(states: Array, reverse: bool, axis: TimeAxis | None = None) -> Array:
    """Returns c_T, on the device that holds it; on others it is zero."""
    end = states[0] if reverse else states[-1]
    if axis is None:
        return end
    is_last = axis.position(reverse) == axis.size() - 1
    return jnp.where(is_last, end, jnp.zeros_like(end))


def sum_over_devices(x: Array, axis: TimeAxis | None) -> Array:
    """Returns the sum over all devices of the axis."""
    return x if axis is None else jax.lax.psum(x, axis.name)


def gather_ends(ends: PyTree, reverse: bool, axis: TimeAxis) -> list[tuple[Array, PyTree]]:
    """Returns the arrays of all devices in the order of time.

    Each has a mark that tells whether its device stands before this one.
    """
    of_all_devices = jax.lax.all_gather(ends, axis.name)
    position = axis.position(reverse)
    marked: list[tuple[Array, PyTree]] = []
    for place, device in enumerate(axis.devices(reverse)):
        of_device = jax.tree.map(lambda x, device=device: x[device], of_all_devices)
        marked.append((position > place, of_device))
    return marked
