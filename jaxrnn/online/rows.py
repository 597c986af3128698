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
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import check
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Environment, Equation, Var
from jaxrnn.online.cuts import Cuts, layers, recurrent_mixing
from jaxrnn.online.products import Product, masked_product, products
from jaxrnn.types import Carry, Params, PyTree, Step

Weights = list[jax.Array]  # real arrays
AbstractWeights = Sequence[jax.Array | jax.ShapeDtypeStruct]  # or their shapes and dtypes
Leaves = list[Any]  # arrays


class Arguments(NamedTuple):
    """The arguments of F, for one row or for all rows; or their shapes and dtypes.

    Fields:
        w: the weights, which all rows share.
        constants: values without a gradient that the steps need too, and all rows share.
        v: the numbers of the carry, `(N,)` or `(B, N)`.
        others: the arrays of the carry without a gradient.
        x: the arrays of the inputs of one step.
    """

    w: Weights
    constants: Leaves
    v: jax.Array
    others: Leaves
    x: Leaves


Pullback = Callable[[jax.Array], tuple[Weights, jax.Array]]
OVER_ROWS = Arguments(None, None, 0, 0, 0)  # type: ignore[arg-type]  # in_axes of jax.vmap


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
        traced = jaxprs.trace(step, params, self._carry, one_row(x))
        self._jaxpr = traced.jaxpr
        self._closed_over = traced.constants
        *self._new_carries, self._loss = traced.jaxpr.outvars
        shapes = list(map(jaxprs.shape_of, traced.jaxpr.outvars))
        wanted = [*(c.shape for c in jax.tree.leaves(self._carry)), (1,) * len(self.batch)]
        expected = f"{wanted}; a step must not depend on the size of the batch"
        check.require(shapes == wanted, "step", f"carry and loss of one row {shapes}", expected)

        arguments = iter(traced.arguments)
        self._params = list(itertools.islice(arguments, len(jax.tree.leaves(params))))
        self._carries = list(itertools.islice(arguments, len(jax.tree.leaves(carry))))
        self._inputs = list(arguments)
        closed_over = jaxprs.inputs_of(traced.jaxpr)[: len(self._closed_over)]
        self._divide([*closed_over, *self._params])
        self._floats = [v for v in self._carries if jaxprs.has_gradient(v)]
        dtypes = [jnp.finfo(jaxprs.dtype_of(v)).dtype for v in self._floats]
        self.dtype = widest(*dtypes, jaxprs.dtype_of(self._loss))
        self.num_units = sum(self.sizes())
        self._cuts: Cuts = {}
        self._masks: dict[int, np.ndarray] = {}
        if is_cut:
            self._cuts = recurrent_mixing(self._equations, self._carries, self._new_carries)

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
        if self._cuts:  # no gradient flows through these products
            return []
        pairs = zip(self._carries, self._new_carries, strict=True)
        new_floats = [new for v, new in pairs if jaxprs.has_gradient(v)]
        return products(self._equations, self._floats, new_floats)

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
        return list(map(_num_reals, self._floats))

    def unit_layers(self) -> np.ndarray:
        """Returns the layer of each unit of v, `(N,)`; see `jaxrnn.online.cuts.layers`."""
        found = layers(self._equations, self._carries, self._new_carries)
        layer_of = {j: number for number, group in enumerate(found) for j in group}
        numbers = [layer_of[j] for j, v in enumerate(self._carries) if jaxprs.has_gradient(v)]
        return np.repeat(numbers, self.sizes())

    def units_read_by_loss(self) -> np.ndarray:
        """Returns whether the loss has a gradient for each unit of v_{t-1}, `(N,)`.

        It is True for all units of an array of the carry if it may be for one.
        """
        found = set(jaxprs.variables_of([self._loss]))
        for position, eqn in reversed(list(enumerate(self._equations))):
            if not found.isdisjoint(eqn.outvars):
                cut = self._cuts.get(position, ())
                operands = [a for i, a in enumerate(eqn.invars) if i not in cut]
                found.update(jaxprs.variables_of(operands))
        return np.repeat([v in found for v in self._floats], self.sizes()).astype(bool)

    def _divide(self, fixed: list[Var]) -> None:
        """Divides the equations into those that run once, and those of each step.

        The first depend on `fixed` alone, the parameters and the values over which the step closes.
        Of their results, those that depend on a parameter are weights, the others are constants.
        """
        known_before = set(fixed)
        from_params = set(self._params)
        self._preparing: list[Equation] = []
        self._equations: list[Equation] = []
        for eqn in jaxprs.needed_for(self._jaxpr.outvars, self._jaxpr.eqns):
            read = jaxprs.reads([eqn])
            # An equation that reads nothing, such as an iota, stays in the step.
            if read and known_before.issuperset(read):
                self._preparing.append(eqn)
                known_before.update(eqn.outvars)
                if not from_params.isdisjoint(read):
                    from_params.update(eqn.outvars)
            else:
                self._equations.append(eqn)
        outputs = jaxprs.variables_of(self._jaxpr.outvars)
        used = jaxprs.unique([*jaxprs.reads(self._equations), *outputs])
        self._weights = [v for v in used if v in from_params and jaxprs.has_gradient(v)]
        self._constants = [v for v in used if v in known_before and v not in self._weights]

    # From the arguments of a step to those of F, and back.

    def prepare(self, params: Params) -> tuple[Weights, Leaves]:
        """Returns w, and the values without a gradient that the steps need too."""
        leaves = [*self._closed_over, *jax.tree.leaves(params)]
        fixed = jaxprs.inputs_of(self._jaxpr)[: len(leaves)]
        env = jaxprs.evaluate_equations(self._preparing, dict(zip(fixed, leaves, strict=True)))
        weights = [_to_real(x) for x in jaxprs.values_of(env, self._weights)]
        return weights, jaxprs.values_of(env, self._constants)

    def abstract_arguments(self, params: Params) -> Arguments:
        """Returns the shapes and dtypes of the arguments of one row."""

        def without_batch(v: Var) -> jax.ShapeDtypeStruct:
            shape = jaxprs.shape_of(v)[len(self.batch) :]
            return jax.ShapeDtypeStruct(shape, jaxprs.dtype_of(v))

        w, constants = jax.eval_shape(self.prepare, params)
        v: Any = jax.ShapeDtypeStruct((self.num_units,), self.dtype)
        others = [without_batch(v) for v in self._carries if not jaxprs.has_gradient(v)]
        return Arguments(w, constants, v, others, x=list(map(without_batch, self._inputs)))

    def flatten(self, carry: Carry) -> tuple[jax.Array, Leaves]:
        """Returns v `(B, N)`, and the arrays of the carry without a gradient, `(B, ...)`."""
        leaves = self.merge_batch(jax.tree.leaves(carry))
        return jax.vmap(self._flatten_row, axis_size=self.num_rows)(leaves)

    def unflatten(self, v: jax.Array, others: Leaves) -> Carry:
        """Returns the carry of v and of the arrays without a gradient."""
        rows = jax.vmap(self._unflatten_row, axis_size=self.num_rows)(v, others)
        shapes, structure = jax.tree.flatten(self._carry)
        # A row of these arrays has batch axes of size 1, which the batch axes replace.
        leaves = [
            x.reshape(*self.batch, *like.shape[len(self.batch) :])
            for x, like in zip(self.split_batch(rows), shapes, strict=True)
        ]
        return jax.tree.unflatten(structure, leaves)

    def merge_batch(self, arrays: PyTree, *, after: int = 0) -> PyTree:
        """Returns arrays `(*batch, ...)` as `(B, ...)`; `after` axes come before the batch."""
        end = after + len(self.batch)

        def merge(x: jax.Array) -> jax.Array:
            return jnp.reshape(x, (*x.shape[:after], self.num_rows, *x.shape[end:]))

        return jax.tree.map(merge, arrays)

    def split_batch(self, arrays: PyTree, *, after: int = 0) -> PyTree:
        """Returns arrays `(B, ...)` as `(*batch, ...)`, the inverse of `merge_batch`."""

        def split(x: jax.Array) -> jax.Array:
            return jnp.reshape(x, (*x.shape[:after], *self.batch, *x.shape[after + 1 :]))

        return jax.tree.map(split, arrays)

    def _flatten_row(self, leaves: Leaves) -> tuple[jax.Array, Leaves]:
        floats = [_to_real(x).astype(self.dtype).ravel() for x in leaves if check.is_inexact(x)]
        v = jnp.concatenate(floats) if floats else jnp.zeros(0, self.dtype)
        return v, [x for x in leaves if not check.is_inexact(x)]

    def _unflatten_row(self, v: jax.Array, others: Leaves) -> Leaves:
        leaves: Leaves = []
        remaining = iter(others)
        begin = 0
        for variable in self._carries:
            if not jaxprs.has_gradient(variable):
                leaves.append(jnp.reshape(next(remaining), jaxprs.shape_of(variable)))
                continue
            end = begin + _num_reals(variable)
            leaves.append(_from_real(jax.lax.slice(v, (begin,), (end,)), variable))
            begin = end
        return leaves

    # F itself.

    def __call__(self, arguments: Arguments) -> tuple[jax.Array, jax.Array, Leaves]:
        """Returns v_t, ℓ_t, and the next arrays of the carry without a gradient, of one row."""
        w, constants, v, others, x = arguments
        ones = (1,) * len(self.batch)
        inputs = [jnp.reshape(a, (*ones, *a.shape)) for a in x]
        weights = [_from_real(a, like) for a, like in zip(w, self._weights, strict=True)]
        variables = [*self._weights, *self._constants, *self._carries, *self._inputs]

        def environment(v: jax.Array) -> Environment:
            values = [*weights, *constants, *self._unflatten_row(v, others), *inputs]
            return dict(zip(variables, values, strict=True))

        env = environment(v)
        held: Environment = {}
        if self._cuts:
            # A cut operand has no gradient for v, and keeps that for w. So its value comes from a
            # second run of the step, in which v is a constant and w is not.
            held = environment(jax.lax.stop_gradient(v))
            held = jaxprs.evaluate_equations(self._equations, held)
        for position, eqn in enumerate(self._equations):
            operands = jaxprs.values_of(env, eqn.invars)
            for i in self._cuts.get(position, ()):
                operands[i] = jaxprs.value_of(held, eqn.invars[i])
            if position in self._masks:
                factor, matrix = operands
                result = [masked_product(eqn, factor, matrix, self._masks[position])]
            else:
                result = jaxprs.evaluate(eqn, operands)
            env |= zip(eqn.outvars, result, strict=True)
        new_carry = [
            jnp.reshape(c, jnp.shape(c)[len(self.batch) :])
            for c in jaxprs.values_of(env, self._new_carries)
        ]
        new_v, new_others = self._flatten_row(new_carry)
        loss = jnp.reshape(jaxprs.value_of(env, self._loss), ())
        return new_v, loss, new_others


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


def _num_reals(v: Var) -> int:
    count = int(np.prod(jaxprs.shape_of(v), dtype=int))
    return 2 * count if _is_complex(jaxprs.aval_of(v)) else count


def _is_complex(x: jax.Array | jax.core.ShapedArray) -> bool:
    return jnp.issubdtype(x.dtype, jnp.complexfloating)


def _to_real(x: jax.typing.ArrayLike) -> jax.Array:
    """Returns a complex array `(...)` as a real one `(2, ...)`; a real number becomes `(1,)`."""
    x = jnp.asarray(x)
    return jnp.stack([jnp.real(x), jnp.imag(x)]) if _is_complex(x) else jnp.atleast_1d(x)


def _from_real(x: jax.Array, like: Var) -> jax.Array:
    """Returns the array with the shape and dtype of a variable whose real numbers are x."""
    aval = jaxprs.aval_of(like)
    if not _is_complex(aval):
        return jnp.reshape(x, aval.shape).astype(aval.dtype)
    parts = jnp.reshape(x, (2, *aval.shape)).astype(jnp.finfo(aval.dtype).dtype)
    # Slices, which `sparsity` follows position by position.
    real, imag = (jax.lax.index_in_dim(parts, i, keepdims=False) for i in range(2))
    return jax.lax.complex(real, imag)
