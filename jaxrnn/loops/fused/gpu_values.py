"""The values of a step as the threads of a GPU hold them.

A block of threads runs some rows of the batch, and each of its 128 threads has its columns of all
of them. The features of a step are divided into groups of one size u, the greatest common divisor
of all widths in the step; for the GRU, whose product has the width 3H, u is H. A group is padded to
a multiple U of 128, so that gates are whole arrays, and no column changes its thread:

    value        in the step               in the kernel
    Grid         (*batch, F)               F / u arrays (rows, U)
    Row          (*batch) or (*batch, 1)   one array (rows), which all threads have
    Vector       (F), such as a bias       F / u arrays (U)
    Scalar       ()                        a number
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxrnn import check

THREADS = 128  # the threads of a warpgroup, for which Mosaic GPU compiles one program


class Grid(NamedTuple):
    """A number for each row and each feature, as arrays `(rows, U)`."""

    blocks: tuple[Any, ...]


class Row(NamedTuple):
    """A number for each row, `(rows)`."""

    value: Any


class Vector(NamedTuple):
    """A number for each feature, as arrays `(U)`."""

    blocks: tuple[Any, ...]


class Scalar(NamedTuple):
    """A number."""

    value: Any


class Constant(NamedTuple):
    """An array that is the same at all steps; how it is stored depends on the equation that reads
    it.
    """

    var: Any


Value = Grid | Row | Vector | Scalar | Constant


@dataclasses.dataclass(frozen=True)
class Partition:
    """The sizes of a step, and how its values are divided.

    Fields:
        batch: the batch axes of the step.
        unit: u, the size of a group of features.
        rows: the rows that one block of threads runs.
        has_columns_of_one: whether `(*batch, 1)` is a Grid, since the carry has one feature.
        interpret: whether JAX interprets the kernel, which then has no layouts.
    """

    batch: tuple[int, ...]
    unit: int
    rows: int
    has_columns_of_one: bool
    interpret: bool

    @property
    def columns(self) -> int:
        """U, the columns of a group of features."""
        return math.ceil(self.unit / THREADS) * THREADS

    @property
    def blocks_of_threads(self) -> int:
        """The number of blocks of threads."""
        return math.ceil(math.prod(self.batch) / self.rows)

    @property
    def padded_batch(self) -> int:
        """The rows of the batch, with the padding of the last block of threads."""
        return self.blocks_of_threads * self.rows

    def groups(self, features: int) -> int:
        """Returns the number of groups of features."""
        return features // self.unit

    def role(self, shape: tuple[int, ...]) -> Any:
        """Returns Grid or Row for the shape of a value of all rows; None for another shape."""
        *lead, features = shape or (None,)
        if shape == self.batch:
            return Row
        if tuple(lead) != self.batch:
            return None
        return Row if features == 1 and not self.has_columns_of_one else Grid

    # Arrays of the kernel. Mosaic wants to know which thread holds what.

    def load(self, ref: Any, index: tuple[Any, ...], layout: Any) -> Any:
        """Returns a part of an array in memory."""
        if self.interpret:
            return ref[index]
        load: Any = plgpu.load  # takes no index since JAX 0.11.2
        return load(ref.at[index], layout=layout, optimized=False)

    def store(self, ref: Any, index: tuple[Any, ...], x: Any) -> None:
        """Writes a part of an array in memory."""
        if self.interpret or not hasattr(plgpu, "store"):  # since JAX 0.12
            ref[index] = x
        else:
            plgpu.store(ref.at[index], x, optimized=False)

    def cast(self, x: Any, layout: Any) -> Any:
        """Returns an array in this layout."""
        return x if self.interpret else plgpu.layout_cast(x, layout)

    def grid(self, x: Any, axes: tuple[int, ...]) -> Any:
        """Returns an array `(rows, U)`, broadcast from a number, `(rows)` or `(U)`."""
        shape = self.rows, self.columns
        return self.cast(jax.lax.broadcast_in_dim(x, shape, axes), grid_layout())

    def fill(self, value: Any, dtype: Any) -> Any:
        """Returns an array `(rows, U)` of one number."""
        return self.grid(jnp.asarray(value, dtype), ())

    def fill_row(self, value: Any, dtype: Any) -> Any:
        """Returns an array `(rows)` of one number."""
        x = jax.lax.broadcast_in_dim(jnp.asarray(value, dtype), (self.rows,), ())
        return self.cast(x, row_layout())

    # Arrays outside of the kernel.

    def pack(self, x: jax.Array, role: Any, *, lead: int = 0) -> jax.Array:
        """Returns an array as the kernel reads it; `lead` axes come before those of the step.

        Grids become `(padded batch, groups · U)`, and Rows `(padded batch)`.
        """
        outer = x.shape[:lead]
        x = stored(x)
        padding = self.padded_batch - math.prod(self.batch)
        if role is Row:
            x = jnp.reshape(x, (*outer, math.prod(self.batch)))
            return jnp.pad(x, [(0, 0)] * lead + [(0, padding)])
        x = jnp.reshape(x, (*outer, math.prod(self.batch), x.shape[-1]))
        x = jnp.pad(x, [(0, 0)] * lead + [(0, padding), (0, 0)])
        return self.pad_groups(x)

    def unpack(self, x: jax.Array, aval: Any, *, lead: int = 0) -> jax.Array:
        """Returns an array of the step; the inverse of `pack`."""
        outer = x.shape[:lead]
        rows = math.prod(self.batch)
        x = jax.lax.slice_in_dim(x, 0, rows, axis=lead)
        if self.role(aval.shape) is Grid:
            x = jnp.reshape(x, (*outer, rows, -1, self.columns))[..., : self.unit]
        x = jnp.reshape(x, (*outer, *aval.shape))
        return x != 0 if aval.dtype == jnp.bool_ else x

    def pad_groups(self, x: jax.Array) -> jax.Array:
        """Returns an array whose last axis has U columns for each group of u features."""
        if self.columns == self.unit:
            return x
        x = jnp.reshape(x, (*x.shape[:-1], self.groups(x.shape[-1]), self.unit))
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.columns - self.unit)])
        return jnp.reshape(x, (*x.shape[:-2], -1))

    def packed(self, aval: Any, *, lead: tuple[int, ...] = ()) -> jax.ShapeDtypeStruct:
        """Returns shape and dtype of a value as the kernel writes it."""
        shape: tuple[int, ...] = (*lead, self.padded_batch)
        if self.role(aval.shape) is Grid:
            shape = (*shape, self.groups(aval.shape[-1]) * self.columns)
        return jax.ShapeDtypeStruct(shape, stored_dtype(aval.dtype))


def stored_dtype(dtype: Any) -> Any:
    """Returns the dtype in memory, which has no booleans."""
    return jnp.int32 if dtype == jnp.bool_ else dtype


def stored(x: jax.Array) -> jax.Array:
    """Returns an array with its dtype in memory."""
    return x.astype(stored_dtype(x.dtype))


@functools.cache
def grid_layout() -> Any:
    """Which thread holds what of `(rows, U)`: thread i the columns i, i + 128, ... of all rows."""
    tiling = plgpu.Tiling(((1, THREADS), (32,), (1,)))
    return plgpu.Layout.TILED(tiling, warp_dims=(-3,), lane_dims=(-2,), vector_dim=-1)


@functools.cache
def row_layout() -> Any:
    """All threads hold all of `(rows)`."""
    return grid_layout().reduce(1)


@functools.cache
def vector_layout() -> Any:
    """Which thread holds what of `(U)`: the columns of a Grid."""
    return grid_layout().reduce(0)


def refuse(got: str, expected: str = "operations on rows and their features") -> NoReturn:
    """Raises the error for a step that has no kernel."""
    got = f"{got} in fused() on a GPU"
    raise TypeError(f"step: got {got}, expected {expected}, or loop=jaxrnn.bptt")


def role_of(partition: Partition, aval: Any) -> Any:
    """Returns Grid or Row; raises an error for another shape."""
    role = partition.role(aval.shape)
    if role is None:
        refuse(f"{check.describe(aval)} beside the batch {partition.batch}")
    return role


def zeros(partition: Partition, aval: Any) -> Any:
    """Returns a Grid or a Row of zeros, without layouts."""
    if role_of(partition, aval) is Row:
        return Row(jnp.zeros(partition.rows, aval.dtype))
    block = jnp.zeros((partition.rows, partition.columns), aval.dtype)
    return Grid((block,) * partition.groups(aval.shape[-1]))
