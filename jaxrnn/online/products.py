"""Products with weight matrices, of whose Jacobian only a few numbers are needed.

In r = x W every unit reads every other one, so J_t is dense, and costs a pullback for each unit.
SnAp needs its diagonal, say. So the product gets another derivative for x,

        r = sg(x) W + (x - sg(x)) (W ⊙ mask)                                                   (P1)

where sg has no gradient. The value is the same. The mask drops the numbers of ∂r/∂v that act on
numbers of J_t that are not needed. What is left is sparse, and costs a few pullbacks.

For example, SnAp of order 1 needs the diagonal of J_t of `h = tanh(x + h_{t-1} W)`. The mask is the
identity, the masked J_t is diagonal, and one pullback of ones returns all of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Atom, Equation, Var
from jaxrnn.online.sparsity import Pattern, along, bool_product, propagate, rows_of

Patterns = dict[Var, Pattern]  # of all variables that depend on a source


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
        wanted = bool_product(self.reads, needed.T)  # (K, N): the units that need an element of x
        return bool_product(wanted, self.reaches)

    def jacobian(self, mask: np.ndarray) -> np.ndarray:
        """Returns which numbers of J_t the masked product contributes to, `(N, N)`."""
        return bool_product(bool_product(self.reaches, mask.T), self.reads)


def products(eqns: list[Equation], carries: list[Var], new_carries: list[Atom]) -> list[Product]:
    """Returns all products of x and W whose results reach the next carry."""
    along_axes = [_patterns(eqns, carry) for carry in carries]
    dependent = {v for of_carry in along_axes for patterns in of_carry for v in patterns}
    found: list[Product] = []
    for position, eqn in enumerate(eqns):
        if not jaxprs.is_weight_product(eqn):
            continue
        x, w = eqn.invars
        if isinstance(x, Literal) or x not in dependent or w in dependent:
            continue
        (result,) = eqn.outvars
        *other_axes, size = jaxprs.shape_of(result)
        patterns = propagate(eqns[position + 1 :], {result: along(result, len(other_axes))})
        reads: list[np.ndarray] = []
        for carry, of_carry in zip(carries, along_axes, strict=True):
            units = _read_units(of_carry, carry, x)
            reads.append(_repeat_for_imaginary_part(units, carry).T)
        reaches: list[np.ndarray] = []
        new_patterns = jaxprs.facts_of(patterns, new_carries)
        for new_carry, pattern in zip(new_carries, new_patterns, strict=True):
            units = rows_of(pattern, jaxprs.shape_of(new_carry), size)
            reaches.append(_repeat_for_imaginary_part(units, new_carry))
        found.append(Product(position, np.concatenate(reads, axis=1), np.concatenate(reaches)))
    return found


def _patterns(eqns: list[Equation], carry: Var) -> list[Patterns]:
    """Returns what depends on an array of the carry, along each of its axes."""
    starts = [along(carry, axis) for axis, _ in enumerate(jaxprs.shape_of(carry))]
    # A scalar has no axis, but there are values that depend on it.
    return [propagate(eqns, {carry: start}) for start in starts or [{}]]


def _read_units(along_axes: list[Patterns], carry: Var, x: Var) -> np.ndarray:
    """Returns which elements of the carry an element of the last axis of x depends on, `(n, K)`."""
    shape = jaxprs.shape_of(carry)
    *other_axes, num_elements = jaxprs.shape_of(x)
    last = len(other_axes)
    units = np.ones((*shape, num_elements), bool)
    for axis, patterns in enumerate(along_axes):
        pattern = patterns.get(x)
        if pattern is None:
            units[...] = False
        elif last in pattern:  # (K, size of the axis)
            others = [p for p in range(len(shape)) if p != axis]
            units &= np.expand_dims(pattern[last].T, others)
    return units.reshape(-1, num_elements)


def _repeat_for_imaginary_part(units: np.ndarray, v: Atom) -> np.ndarray:
    """Returns the rows of real and of imaginary parts, if v is complex."""
    is_complex = jnp.issubdtype(jaxprs.dtype_of(v), jnp.complexfloating)
    return np.concatenate([units, units]) if is_complex else units


def masked_product(eqn: Equation, x: jax.Array, w: jax.Array, mask: np.ndarray) -> jax.Array:
    """Returns (P1)."""
    held = jax.lax.stop_gradient(x)
    result = eqn.primitive.bind(held, w, **eqn.params)
    change = x - held  # zero, with a derivative
    if (mask.sum(axis=0) > 1).any():
        return result + eqn.primitive.bind(change, w * jnp.asarray(mask, w.dtype), **eqn.params)
    # Each element of the result keeps one number of W at most, so no matrix product is needed.
    rows = mask.argmax(axis=0)
    columns = np.arange(mask.shape[1])
    numbers = jnp.where(mask.any(axis=0), w[rows, columns], 0)
    (contracted, _), _ = eqn.params["dimension_numbers"]
    change = jnp.moveaxis(change, contracted[0], -1)[..., rows]
    kept = change * jnp.broadcast_to(numbers, change.shape).astype(change.dtype)
    return result + kept.astype(result.dtype)
