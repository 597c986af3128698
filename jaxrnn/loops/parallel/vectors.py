"""The arrays of a component as one vector a row, and the Jacobian of a function of vectors."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.check import is_inexact
from jaxrnn.loops.parallel.structure import Component, Leaves
from jaxrnn.types import PyTree

Function = Callable[[jax.Array, PyTree], jax.Array]  # (v_{t-1}, inputs of step t) -> v_t
Pullback = Callable[[jax.Array], tuple[jax.Array]]


class VectorSpace(NamedTuple):
    """The vectors of one component.

    An elementwise component is one array, which is its own vector. Others are joined behind the
    axes of their rows. Vectors are float32 at least, so that solving does not round to bfloat16.

    Fields:
        component: the component.
        like: the shapes and dtypes of its arrays at one step.
    """

    component: Component
    like: tuple[jax.core.ShapedArray, ...]

    @property
    def dtype(self) -> Any:
        """The dtype of the vectors: float32, int32 or complex64 at least."""
        narrowest = jnp.float32 if any(map(is_inexact, self.like)) else jnp.int32
        with jax.numpy_dtype_promotion("standard"):
            return jnp.result_type(narrowest, *(x.dtype for x in self.like))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The axes of the rows."""
        return self.like[0].shape[: self.component.num_row_axes]

    @property
    def sizes(self) -> list[int]:
        """The number of elements of each array in a row."""
        return [math.prod(x.shape[self.component.num_row_axes :]) for x in self.like]

    def rounding_errors(self) -> float | np.ndarray:
        """Returns the rounding error of each element, by the dtype of its array."""
        errors = [_rounding_error(x) for x in self.like]
        if self.component.is_elementwise:
            return errors[0]
        return np.repeat(np.asarray(errors, np.float32), self.sizes)

    def join(self, leaves: Leaves) -> jax.Array:
        """Returns the vector of these arrays."""
        if self.component.is_elementwise:
            return leaves[0].astype(self.dtype)
        pairs = zip(leaves, self.sizes, strict=True)
        flat = [jnp.reshape(x, (*self.row_shape, size)).astype(self.dtype) for x, size in pairs]
        return jnp.concatenate(flat, axis=-1)

    def split(self, vector: jax.Array) -> Leaves:
        """Returns the arrays of a vector."""
        if self.component.is_elementwise:
            return [vector.astype(self.like[0].dtype)]
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        parts = jnp.split(vector, ends[:-1], axis=-1)
        pairs = zip(parts, self.like, strict=True)
        return [jnp.reshape(part, x.shape).astype(x.dtype) for part, x in pairs]


def _rounding_error(x: jax.core.ShapedArray) -> float:
    if not is_inexact(x):
        return 0.0
    eps = float(jnp.finfo(x.dtype).eps)
    # A step in float32 or float64 rounds many times, one in bfloat16 once, at its end.
    return 32 * eps if eps < 1e-5 else eps


def diagonal(function: Function, v: jax.Array, inputs: PyTree) -> jax.Array:
    """Returns the Jacobian of an elementwise function, as its diagonal.

    Each element of the result depends on one element of v. So the pullback of ones, which sums the
    rows of the Jacobian, has one term in each sum: the diagonal.
    """
    if not is_inexact(v):  # an affine function of integers, which has a slope and no derivative
        return function(jnp.ones_like(v), inputs) - function(jnp.zeros_like(v), inputs)
    new, pullback = jax.vjp(lambda v: function(v, inputs), v)
    (slope,) = pullback(jnp.ones_like(new))
    return slope


def matrix(function: Function, v: jax.Array, inputs: PyTree) -> jax.Array:
    """Returns the Jacobian of each row, `(*rows, n, n)`."""
    new, pullback = jax.vjp(lambda v: function(v, inputs), v)
    row = functools.partial(_row, pullback, new)
    return jax.vmap(row, out_axes=-2)(jnp.arange(v.shape[-1]))


def diagonal_of_matrix(function: Function, v: jax.Array, inputs: PyTree) -> jax.Array:
    """Returns the diagonals of the Jacobians, `(*rows, n)`, without storing the matrices."""
    new, pullback = jax.vjp(lambda v: function(v, inputs), v)

    def entry(i: jax.Array) -> jax.Array:
        return _row(pullback, new, i)[..., i]

    # One row after another, so that no more than one row of each Jacobian is in memory.
    entries = jax.lax.map(entry, jnp.arange(v.shape[-1]))
    return jnp.moveaxis(entries, 0, -1)


def _row(pullback: Pullback, new: jax.Array, i: jax.Array) -> jax.Array:
    """Returns row i of the Jacobian of each row of the new vectors."""
    is_i = jnp.broadcast_to(jnp.arange(new.shape[-1]) == i, new.shape)
    unit = jnp.where(is_i, jnp.ones_like(new), jnp.zeros_like(new))
    (row,) = pullback(unit)
    return row
