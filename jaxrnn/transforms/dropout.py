"""Dropout inside a recurrence: one mask at all steps, or a new mask for the candidate."""

import dataclasses
import math
from typing import TypeVar

import jax

from jaxrnn import check
from jaxrnn.cells.gated import GateInputs
from jaxrnn.cells.kernels import RecurrentKernel, scale
from jaxrnn.transforms.noise import NoisyCell, dropout_factors
from jaxrnn.types import Array, Carry, Cell, Key, Params, PyTree, Weights, WithNoise

# What a cell computes contains these, with a field `dropout_mask`, wherever dropout may act.
MaskedType = TypeVar("MaskedType", GateInputs, RecurrentKernel)


@dataclasses.dataclass(frozen=True, repr=False)
class variational_dropout(NoisyCell):
    """Dropout with one mask at all steps, on the inputs and on the state in products.

        x̃_t = k_x ⊙ x_t,    P = (k_h ⊙ h_{t-1}) W_h                                          (V1)

    where each number of k_x `(*batch, I)` and k_h `(*batch, H)` is 1/(1-rate) with probability 1 -
    rate, and 0 otherwise. A use of h_{t-1} without a product, such as the GRU's z ⊙ h_{t-1}, has no
    dropout. With `unroll(key=...)` the cell draws both masks. Without a key it is `cell`.

    Args:
        cell: a Cell; for a `state_rate` above 0, its recurrence must be a matrix product.
        input_rate: the rate for x, in [0, 1).
        state_rate: the rate for h, in [0, 1).

    Raises:
        ValueError: for a rate outside [0, 1); for an `input_rate` above 0 if the cell takes tokens;
            while tracing, for a `state_rate` above 0 if there is no product of the state.

    Gradient: exact for the drawn masks. Memory: no array over time is added.

    Source: Y. Gal, Z. Ghahramani, "A theoretically grounded application of dropout in recurrent
    neural networks", NeurIPS 2016.
    """

    _: dataclasses.KW_ONLY
    input_rate: float = 0.0
    state_rate: float = 0.0

    def __post_init__(self) -> None:
        check.require_instance("cell", self.cell, Cell)
        input_rate = check.require_rate("input_rate", self.input_rate)
        state_rate = check.require_rate("state_rate", self.state_rate)
        has_features = self.cell.num_feature_axes > 0
        check.require(
            input_rate == 0 or has_features,
            "input_rate",
            input_rate,
            "0 for a cell that takes tokens",
        )
        self.replace_fields(input_rate=input_rate, state_rate=state_rate)

    def _draw(self, key: Key, params: Params, carry: Carry, xs: Array) -> tuple[PyTree, None]:
        key_x, key_h = jax.random.split(key)
        keep_x = None
        keep_h = None
        if self.input_rate > 0:
            expected = "an array (apply variational_dropout before masked and resettable)"
            check.require_type(hasattr(xs, "shape"), "xs", xs, expected)
            keep_x = jax.random.bernoulli(key_x, 1 - self.input_rate, xs.shape[1:])
        if self.state_rate > 0:
            weights = jax.eval_shape(self.cell.prepare, params)
            recurrent_kernels = _find_all(RecurrentKernel, weights)
            expected = "0 for a cell without a matrix product of its state"
            check.require(recurrent_kernels, "state_rate", self.state_rate, expected)
            batch = check.batch_shape(check.one_step(xs), self.cell.num_feature_axes)
            # The features of the state are all axes of a kernel but the last: one axis, or the
            # blocks of a block-diagonal kernel and the features of a block.
            state_size = math.prod(recurrent_kernels[0].w.shape[:-1])
            shape = (*batch, state_size)
            keep_h = jax.random.bernoulli(key_h, 1 - self.state_rate, shape)
        return (keep_x, keep_h), None

    def _project(self, params: Params, xs: PyTree, shared: PyTree | None, per_step: None) -> PyTree:
        keep_x, _ = (None, None) if shared is None else shared
        if keep_x is None:
            return self.cell.project(params, xs)
        if isinstance(xs, WithNoise):  # for an inner cell that draws noise too
            return self.cell.project(params, xs._replace(value=self._drop_inputs(keep_x, xs.value)))
        return self.cell.project(params, self._drop_inputs(keep_x, xs))

    def _drop_inputs(self, keep_x: Array, xs: Array) -> Array:
        return scale(xs, dropout_factors(keep_x, self.input_rate, xs.dtype))  # (V1)

    def _prepare(self, params: Params, shared: PyTree | None) -> Weights:
        _, keep_h = (None, None) if shared is None else shared
        mask = dropout_factors(keep_h, self.state_rate, check.float_dtype(params))
        return _add_dropout_mask(RecurrentKernel, self.cell.prepare(params), mask)  # (V1)


@dataclasses.dataclass(frozen=True, repr=False)
class recurrent_dropout(NoisyCell):
    """Dropout on the candidate alone, with a new mask at every step, so memory is never erased.

        LSTM: c_t = f ⊙ c_{t-1} + i ⊙ (k_t ⊙ g)                                              (D1)
        GRU:  h_t = (1 - z) ⊙ (k_t ⊙ n) + z ⊙ h_{t-1}                                        (D2)

    where each number of k_t `(*batch, H)` is 1/(1-rate) with probability 1 - rate, and 0 otherwise.
    With `unroll(key=...)` the cell draws k. Without a key it is `cell`.

    Args:
        cell: a Cell with a candidate.
        rate: in [0, 1).

    Raises:
        ValueError: for a rate outside [0, 1); while tracing, if the cell has no candidate.

    Gradient: exact for the drawn noise. Memory: k, T·B·H more.

    Source: S. Semeniuta, A. Severyn, E. Barth, "Recurrent dropout without memory loss", COLING
    2016.
    """

    rate: float

    def __post_init__(self) -> None:
        check.require_instance("cell", self.cell, Cell)
        self.replace_fields(rate=check.require_rate("rate", self.rate))

    def _draw(self, key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[None, jax.Array]:
        inputs = _find_all(GateInputs, jax.eval_shape(self.cell.project, params, xs))
        check.require(inputs, "cell", "one without a candidate", "one such as lstm or gru")
        gate = jax.tree.leaves(inputs[0].gates)[0]
        return None, jax.random.bernoulli(key, 1 - self.rate, gate.shape)

    def _project(self, params: Params, xs: PyTree, shared: None, per_step: Array | None) -> PyTree:
        mask = dropout_factors(per_step, self.rate, check.float_dtype(params))
        return _add_dropout_mask(GateInputs, self.cell.project(params, xs), mask)  # (D1), (D2)


def _find_all(wanted: type[MaskedType], tree: PyTree) -> list[MaskedType]:
    """Returns all NamedTuples of one type in a tree."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, wanted))
    return [leaf for leaf in leaves if isinstance(leaf, wanted)]


def _add_dropout_mask(wanted: type[MaskedType], tree: PyTree, mask: Array | None) -> PyTree:
    """Returns the tree, with the mask multiplied into all NamedTuples of one type."""
    if mask is None:
        return tree

    def add(x: PyTree) -> PyTree:
        if not isinstance(x, wanted):
            return x
        # An inner transformation may have set a mask already; both act.
        product = mask if x.dropout_mask is None else x.dropout_mask * mask
        return x._replace(dropout_mask=product)

    return jax.tree.map(add, tree, is_leaf=lambda x: isinstance(x, wanted))
