"""Products with weight matrices, of whose Jacobian only a few numbers are needed.

In r = x W every unit reads every other one, so J_t is dense, and costs a pullback for each unit.
SnAp needs its diagonal, say. So the product gets another derivative for x,

        r = sg(x) W + (x - sg(x)) (W ⊙ mask)                                                   (P1)

where sg has no gradient. The value is the same. The mask drops the numbers of ∂r/∂v that act on
numbers of J_t that are not needed. What is left is sparse, and costs a few pullbacks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Equation, Var
from jaxrnn.online.sparsity import Pattern, along, propagate, rows_of


class Product(NamedTuple):
    """A product x W in the equations of a step, where x depends on the carry and W does not.

    Fields:
        position: which equation it is.
        reads: `(K, N)`, the units that each element of x may depend on.
        reaches: `(N, M)`, the units that each element of the result may reach.
    """

    position: int
    reads: np.ndarray
    reaches: np.ndarray

    def mask(self, needed: np.ndarray) -> np.ndarray:
        """Returns the mask `(K, M)` of (P1), for the numbers `(N, N)` of J_t that are needed."""
        wanted = _product(self.reads, needed.T)  # (K, N): the units that need an element of x
        return _product(wanted, self.reaches)

    def jacobian(self, mask: np.ndarray) -> np.ndarray:
        """Returns which numbers of J_t the masked product contributes to, `(N, N)`."""
        return _product(_product(self.reaches, mask.T), self.reads)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the product of two matrices of bool."""
    return a.astype(np.float32) @ b.astype(np.float32) > 0


def products(eqns: list[Equation], carries: list[Var], new_carries: list[Var]) -> list[Product]:
    """Returns all products of x and W whose results reach the next carry."""
    read = [_patterns(eqns, carry) for carry in carries]
    found = []
    for position, eqn in enumerate(eqns):
        if not jaxprs.is_weight_product(eqn):
            continue
        x, w = eqn.invars
        dependent = any(x in known for of_axes in read for known in of_axes)
        if not dependent or any(w in known for of_axes in read for known in of_axes):
            continue
        (result,) = eqn.outvars
        size = result.aval.shape[-1]
        known = propagate(eqns[position + 1 :], {result: along(result, result.aval.ndim - 1)})
        reaches = [_doubled(_rows(known, v, size), v) for v in new_carries]
        reads = [
            _doubled(_read_units(of_axes, carry, x), carry).T
            for of_axes, carry in zip(read, carries, strict=True)
        ]
        found.append(Product(position, np.concatenate(reads, axis=1), np.concatenate(reaches)))
    return found


def _patterns(eqns: list[Equation], carry: Var) -> list[dict[Var, Pattern]]:
    """Returns what depends on an array of the carry, along each of its axes."""
    axes = range(carry.aval.ndim)
    return [propagate(eqns, {carry: along(carry, axis)}) for axis in axes] or [
        propagate(eqns, {carry: {}})
    ]


def _rows(known: dict[Var, Pattern], v: Var, size: int) -> np.ndarray:
    pattern = None if jaxprs.is_literal(v) else known.get(v)
    return rows_of(pattern, v.aval.shape, size)


def _read_units(of_axes: list[dict[Var, Pattern]], carry: Var, x: Var) -> np.ndarray:
    """Returns which elements of the carry an element of the last axis of x depends on, `(n, K)`."""
    shape, last = carry.aval.shape, x.aval.ndim - 1
    units = np.ones((*shape, x.aval.shape[last]), bool)
    for axis, known in enumerate(of_axes):
        pattern = known.get(x)
        if pattern is None:
            return np.zeros((int(np.prod(shape, dtype=int)), x.aval.shape[last]), bool)
        if last in pattern:  # (K, size of the axis)
            others = [p for p in range(len(shape)) if p != axis]
            units &= np.expand_dims(pattern[last].T, others)
    return units.reshape(-1, x.aval.shape[last])


def _doubled(units: np.ndarray, v: Var) -> np.ndarray:
    """Returns the rows of real and of imaginary parts, if v is complex."""
    is_complex = jnp.issubdtype(v.aval.dtype, jnp.complexfloating)
    return np.concatenate([units, units]) if is_complex else units


def masked_product(eqn: Equation, x: jax.Array, w: jax.Array, mask: np.ndarray) -> jax.Array:
    """Returns (P1)."""
    held = jax.lax.stop_gradient(x)
    result = eqn.primitive.bind(held, w, **eqn.params)
    change = x - held  # zero, with a derivative
    if (mask.sum(axis=0) > 1).any():
        return result + eqn.primitive.bind(change, w * jnp.asarray(mask, w.dtype), **eqn.params)
    # Each element of the result keeps one number of W.
    rows, columns = mask.argmax(axis=0), np.arange(mask.shape[1])
    numbers = jnp.where(mask.any(axis=0), w[rows, columns], 0)
    (contracted, _), _ = eqn.params["dimension_numbers"]
    change = jnp.moveaxis(change, contracted[0], -1)[..., rows]
    kept = change * jnp.broadcast_to(numbers, change.shape).astype(change.dtype)
    return result + kept.astype(result.dtype)
