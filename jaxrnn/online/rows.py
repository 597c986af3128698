"""A step of one row as a function of real numbers: what online algorithms differentiate.

        v_t, ℓ_t = F(w, v_{t-1}, x_t)                                                          (R1)

A row is run as a batch of one, so that no row can read another. v is the vector of all
floating-point numbers of the carry; a complex number counts as two. Other arrays of the carry, such
as counters, have no gradient. What depends on the parameters alone is computed once, before the
steps, and its results are the weights w: the kernels of a GRU, or the decay of an LRU, as the step
multiplies by them.
"""

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import check
from jaxrnn.loops.derived import jaxprs
from jaxrnn.online.cuts import Cuts, layers, recurrent_mixing
from jaxrnn.online.products import Product, masked_product, products
from jaxrnn.types import Carry, Params, PyTree, Step

Weights = list[jax.Array]  # real arrays
Leaves = list[Any]


class RowStep:
    """F of (R1), made from a step and the shapes of its arguments.

    Fields:
        batch: the batch axes of the carry.
        num_units: N, the size of v.
        dtype: the dtype of v, the widest of carry and loss, and at least float32.
    """

    def __init__(
        self, step: Step, params: Params, carry: Carry, x: PyTree, *, is_cut: bool = False
    ) -> None:
        """Traces the step.

        Args:
            step: a Step whose output is its loss.
            params: its parameters.
            carry: the carry `(*batch, ...)`, or its shapes and dtypes.
            x: the inputs of one step `(*batch, ...)`, or their shapes and dtypes.
            is_cut: whether the recurrent connections between units have no gradient, see
                `jaxrnn.online.eprop`.
        """
        self.batch = _batch_shape(step, params, carry, x)
        one_row = functools.partial(jax.tree.map, self._abstract_row)
        self._carry = one_row(carry)
        traced = jaxprs.flat_jaxpr(step, params, self._carry, one_row(x))
        self._jaxpr, self._closed_over, _ = traced
        shapes = [v.aval.shape for v in self._jaxpr.outvars]
        wanted = [*(c.shape for c in jax.tree.leaves(self._carry)), (1,) * len(self.batch)]
        expected = f"{wanted}; a step must not depend on the size of the batch"
        check.require(shapes == wanted, "step", f"carry and loss of one row {shapes}", expected)
        sizes = [len(self._closed_over), *(len(jax.tree.leaves(a)) for a in (params, carry))]
        ends = np.cumsum(sizes)
        variables = [*self._jaxpr.constvars, *self._jaxpr.invars]
        self._params = variables[ends[0] : ends[1]]
        self._carries = variables[ends[1] : ends[2]]
        self._inputs = variables[ends[2] :]
        self._divide(variables[: ends[1]])
        floats = [v.aval for v in self._carries if jaxprs.has_gradient(v)]
        dtypes = [jnp.finfo(aval.dtype).dtype for aval in floats]
        self.dtype = widest(*dtypes, self._jaxpr.outvars[-1].aval.dtype)
        self.num_units = sum(self.sizes())
        new_carries = self._jaxpr.outvars[:-1]
        self._cuts: Cuts = {}
        self._masks: dict[int, np.ndarray] = {}
        if is_cut:
            self._cuts = recurrent_mixing(self._equations, self._carries, new_carries)

    def _abstract_row(self, x: Any) -> jax.ShapeDtypeStruct:
        ones = (1,) * len(self.batch)
        shape = (*ones, *jnp.shape(x)[len(self.batch) :])
        return jax.ShapeDtypeStruct(shape, jnp.result_type(x))

    @property
    def num_rows(self) -> int:
        """B, the number of rows of the batch."""
        return int(np.prod(self.batch, dtype=int))

    def products(self) -> list[Product]:
        """Returns the products with weight matrices through which a unit reads other units."""
        if self._cuts:
            return []
        floats = [i for i, v in enumerate(self._carries) if jaxprs.has_gradient(v)]
        carries = [self._carries[i] for i in floats]
        return products(self._equations, carries, [self._jaxpr.outvars[i] for i in floats])

    def without_products(self, found: list[Product]) -> "RowStep":
        """Returns the same step, with a gradient that does not flow through these products."""
        other = copy.copy(self)
        other._cuts = {product.position: {0} for product in found}
        return other

    def with_masks(self, masks: dict[int, np.ndarray]) -> "RowStep":
        """Returns the same step, with products whose gradient is masked, by position."""
        other = copy.copy(self)
        other._masks = masks
        return other

    def sizes(self) -> list[int]:
        """Returns how many numbers of v each floating-point array of the carry has."""
        return [_num_reals(v.aval) for v in self._carries if jaxprs.has_gradient(v)]

    def unit_layers(self) -> np.ndarray:
        """Returns the layer of each unit of v, `(N,)`; see `jaxrnn.online.cuts.layers`."""
        found = layers(self._equations, self._carries, self._jaxpr.outvars[:-1])
        layer_of = {j: number for number, group in enumerate(found) for j in group}
        numbers = [layer_of[j] for j, v in enumerate(self._carries) if jaxprs.has_gradient(v)]
        return np.repeat(numbers, self.sizes())

    def units_read_by_loss(self) -> np.ndarray:
        """Returns whether the loss has a gradient for each unit of v_{t-1}, `(N,)`.

        It is True for all units of an array of the carry if it may be for one.
        """
        found = set(jaxprs.variables_of(self._jaxpr.outvars[-1:]))
        for position, eqn in reversed(list(enumerate(self._equations))):
            if not found.isdisjoint(eqn.outvars):
                cut = self._cuts.get(position, ())
                operands = [a for i, a in enumerate(eqn.invars) if i not in cut]
                found.update(jaxprs.variables_of(operands))
        floats = [v for v in self._carries if jaxprs.has_gradient(v)]
        return np.repeat([v in found for v in floats], self.sizes()).astype(bool)

    def _divide(self, known: Leaves) -> None:
        """Divides the equations into those that depend on parameters alone, and the others."""
        alone, weighted = set(known), set(self._params)
        first, self._equations = [], []
        for eqn in jaxprs.needed_for(self._jaxpr.outvars, self._jaxpr.eqns):
            read = jaxprs.reads([eqn])
            if alone.issuperset(read) and read:
                first.append(eqn)
                alone.update(eqn.outvars)
                weighted.update(eqn.outvars if weighted.intersection(read) else ())
            else:
                self._equations.append(eqn)
        used = jaxprs.unique(
            [*jaxprs.reads(self._equations), *jaxprs.variables_of(self._jaxpr.outvars)]
        )
        self._preparing = first
        self._weights = [v for v in used if v in weighted and jaxprs.has_gradient(v)]
        self._constants = [v for v in used if v in alone and v not in self._weights]

    # From the arguments of a step to those of F, and back.

    def prepare(self, params: Params) -> tuple[Weights, Leaves]:
        """Returns w, and the values without a gradient that the steps need too."""
        leaves = [*self._closed_over, *jax.tree.leaves(params)]
        known = [*self._jaxpr.constvars, *self._jaxpr.invars][: len(leaves)]
        env = jaxprs.evaluate_equations(self._preparing, dict(zip(known, leaves, strict=True)))
        return [_to_real(env[v]) for v in self._weights], [env[v] for v in self._constants]

    def abstract_arguments(self, params: Params) -> tuple[Any, ...]:
        """Returns shapes and dtypes of w, constants, v, others and x of one row."""
        w, constants = jax.eval_shape(self.prepare, params)
        v = jax.ShapeDtypeStruct((self.num_units,), self.dtype)
        ndim = len(self.batch)
        others, x = (
            [jax.ShapeDtypeStruct(a.aval.shape[ndim:], a.aval.dtype) for a in variables]
            for variables in (
                [c for c in self._carries if not jaxprs.has_gradient(c)],
                self._inputs,
            )
        )
        return w, constants, v, others, x

    def flatten(self, carry: Carry) -> tuple[jax.Array, Leaves]:
        """Returns v `(B, N)`, and the arrays of the carry without a gradient, `(B, ...)`."""
        return jax.vmap(self._flatten_row, axis_size=self.num_rows)(
            self.merge_batch(jax.tree.leaves(carry))
        )

    def unflatten(self, v: jax.Array, others: Leaves) -> Carry:
        """Returns the carry of v and of the arrays without a gradient."""
        leaves = self.split_batch(jax.vmap(self._unflatten_row, axis_size=self.num_rows)(v, others))
        shapes = jax.tree.leaves(self._carry)
        ndim = len(self.batch)
        leaves = [
            x.reshape(*self.batch, *like.shape[ndim:])
            for x, like in zip(leaves, shapes, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(self._carry), leaves)

    def merge_batch(self, arrays: PyTree, *, after: int = 0) -> PyTree:
        """Returns arrays `(*batch, ...)` as `(B, ...)`; `after` axes come before the batch."""
        rows = self.num_rows
        end = after + len(self.batch)
        return jax.tree.map(
            lambda x: jnp.reshape(x, (*x.shape[:after], rows, *x.shape[end:])), arrays
        )

    def split_batch(self, arrays: PyTree, *, after: int = 0) -> PyTree:
        """Returns arrays `(B, ...)` as `(*batch, ...)`, the inverse of `merge_batch`."""
        return jax.tree.map(
            lambda x: jnp.reshape(x, (*x.shape[:after], *self.batch, *x.shape[after + 1 :])), arrays
        )

    def _flatten_row(self, leaves: Leaves) -> tuple[jax.Array, Leaves]:
        floats = [_to_real(x).astype(self.dtype).ravel() for x in leaves if check.is_inexact(x)]
        v = jnp.concatenate(floats) if floats else jnp.zeros(0, self.dtype)
        return v, [x for x in leaves if not check.is_inexact(x)]

    def _unflatten_row(self, v: jax.Array, others: Leaves) -> Leaves:
        leaves, rest, begin = [], iter(others), 0
        for variable in self._carries:
            aval = variable.aval
            if not jaxprs.has_gradient(variable):
                leaves.append(jnp.reshape(next(rest), aval.shape))
                continue
            size = _num_reals(aval)
            leaves.append(_from_real(jax.lax.slice(v, (begin,), (begin + size,)), aval))
            begin += size
        return leaves

    # F itself.

    def __call__(
        self, w: Weights, constants: Leaves, v: jax.Array, others: Leaves, x: Leaves
    ) -> tuple[jax.Array, jax.Array, Leaves]:
        """Returns v_t, ℓ_t, and the next arrays of the carry without a gradient, of one row."""
        ones = (1,) * len(self.batch)
        inputs = [jnp.reshape(a, (*ones, *a.shape)) for a in x]
        real = [_from_real(a, var.aval) for a, var in zip(w, self._weights, strict=True)]
        variables = [*self._weights, *self._constants, *self._carries, *self._inputs]

        def environment(v: jax.Array) -> jaxprs.Environment:
            values = [*real, *constants, *self._unflatten_row(v, others), *inputs]
            return dict(zip(variables, values, strict=True))

        env, held = environment(v), {}
        if self._cuts:  # a cut operand has no gradient for v, and keeps that for w
            held = environment(jax.lax.stop_gradient(v))
            held = jaxprs.evaluate_equations(self._equations, held)
        for position, eqn in enumerate(self._equations):
            operands = [jaxprs.value_of(env, a) for a in eqn.invars]
            for i in self._cuts.get(position, ()):
                operands[i] = jaxprs.value_of(held, eqn.invars[i])
            if position in self._masks:
                factor, matrix = operands
                result = [masked_product(eqn, factor, matrix, self._masks[position])]
            else:
                result = jaxprs.evaluate(eqn, operands)
            env |= zip(eqn.outvars, result, strict=True)
        *carry, loss = (jaxprs.value_of(env, a) for a in self._jaxpr.outvars)
        ndim = len(self.batch)
        carry = [jnp.reshape(c, jnp.shape(c)[ndim:]) for c in carry]
        v, others = self._flatten_row(carry)
        return v, jnp.reshape(loss, ()), others


def _batch_shape(step: Step, params: Params, carry: Carry, x: PyTree) -> tuple[int, ...]:
    """Returns the axes of the loss, which are the first axes of all arrays of carry and inputs."""
    check.require_callable("step", step, takes=3)
    check.require_arrays(params=params)
    new_carry, loss = check.require_pair("step", jax.eval_shape(step, params, carry, x))
    check.require_same_tree("carry", carry, new_carry, ", as the step returned it")
    got = f"the output {jax.tree.map(check.describe, loss)}"
    expected = "its loss, one number (*batch), as in jaxrnn.transforms.step_loss"
    is_loss = hasattr(loss, "dtype") and jnp.issubdtype(loss.dtype, jnp.floating)
    check.require(is_loss, "step", got, expected, TypeError)
    for name, argument in (("carry", carry), ("xs", x)):
        for path, leaf in jax.tree.leaves_with_path(argument):
            place = f"{name}{jax.tree_util.keystr(path)} is {check.describe(leaf)} at one step"
            fits = jnp.shape(leaf)[: loss.ndim] == loss.shape
            check.require(fits, "step", f"{got}, and {place}", expected)
    return loss.shape


def widest(*dtypes: Any) -> Any:
    """Returns the widest of some real floating-point dtypes, and float32 at least."""
    return max([jnp.dtype("float32"), *dtypes], key=lambda dtype: dtype.itemsize)


def _num_reals(aval: Any) -> int:
    return int(np.prod(aval.shape, dtype=int)) * (2 if _is_complex(aval) else 1)


def _is_complex(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.complexfloating)


def _to_real(x: Any) -> jax.Array:
    """Returns a complex array `(...)` as a real one `(2, ...)`; a real number becomes `(1,)`."""
    x = jnp.asarray(x)
    return jnp.stack([jnp.real(x), jnp.imag(x)]) if _is_complex(x) else jnp.atleast_1d(x)


def _from_real(x: Any, aval: Any) -> jax.Array:
    """Returns the array with the shape and dtype of `aval` whose real numbers are x."""
    if not _is_complex(aval):
        return jnp.reshape(x, aval.shape).astype(aval.dtype)
    parts = jnp.reshape(x, (2, *aval.shape)).astype(jnp.finfo(aval.dtype).dtype)
    real, imag = (jax.lax.index_in_dim(parts, i, keepdims=False) for i in range(2))
    return jax.lax.complex(real, imag)
