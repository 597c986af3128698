"""The influence matrix S_t = ∂v_t/∂w, as far as a plan keeps it, from step to step.

        S_t = J_t S_{t-1} + D_t,    J_t = ∂v_t/∂v_{t-1},    D_t = ∂v_t/∂w with v_{t-1} held    (I1)

J_t and D_t come from pullbacks of one step, with sums of units as cotangents (the seeds of a plan).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.online.plan import Pair, Plan, pullback
from jaxrnn.online.rows import OVER_ROWS, AbstractWeights, Arguments, RowStep, widest
from jaxrnn.types import Key

# For each block (B, r, K, M): M columns of r rows, and K weights in each column.
Influence = tuple[jax.Array, ...]


class SparseInfluence:
    """The numbers of S that a plan keeps."""

    def __init__(self, row: RowStep, weights: AbstractWeights, plan: Plan) -> None:
        """Takes the step of one row, its weight arrays or their shapes, and the plan."""
        self.row = row
        self.weights = weights
        self.plan = plan

    def zeros(self, rows: int) -> Influence:
        """Returns S_0 = 0, for all rows of the batch."""
        result: list[jax.Array] = []
        for block in self.plan.blocks:
            weight = self.weights[block.weight]
            num_columns = weight.shape[block.axis]
            others = int(np.prod(weight.shape, dtype=int)) // max(num_columns, 1)
            shape = (rows, block.rows.shape[1], others, num_columns)
            result.append(jnp.zeros(shape, widest(weight.dtype, self.row.dtype)))
        return tuple(result)

    def past_gradient(self, influence: Influence, d_v: jax.Array) -> list[Any]:
        """Returns Σ_rows (∂L/∂v_{t-1}) S_{t-1} for each weight array, given ∂L/∂v_{t-1} `(B, N)`.

        It is 0 for a weight array that influences no unit.
        """
        gradients: list[Any] = [0] * len(self.weights)
        for block, s in zip(self.plan.blocks, influence, strict=True):
            d_rows = jnp.where(block.rows >= 0, d_v[:, block.rows], 0).astype(s.dtype)
            if len(block.rows) == 1:  # all columns have the same rows
                total = jnp.einsum("br,brkm->km", d_rows[:, 0], s)
            else:
                total = jnp.sum(_over_columns(d_rows) * s, axis=(0, 1))
            weight = self.weights[block.weight]
            gradients[block.weight] += _in_shape_of(weight, total, block.axis)
        return gradients

    def advance(self, influence: Influence, arguments: Arguments, key: Key | None) -> Influence:
        """Returns S_t (I1).

        Args:
            influence: S_{t-1}.
            arguments: the arguments of the step, of all rows.
            key: is not used.
        """
        direct, jacobian = self._derivatives(arguments)
        for pair in self.plan.pairs:
            carried = _carried(pair, jacobian, influence[pair.source])
            direct[pair.target] = direct[pair.target].astype(carried.dtype) + carried  # (I1)
        return tuple(a.astype(b.dtype) for a, b in zip(direct, influence, strict=True))

    def _derivatives(self, arguments: Arguments) -> tuple[list[jax.Array], jax.Array]:
        """Returns D_t of each block, `(B, r, K, M)`, and J_t compressed, `(B, C, N)`."""
        # Blocks with the same seeds share one pullback. The keys of the dicts are the seeds' bytes.
        seeds_of: dict[bytes, np.ndarray] = {}
        weights_of: dict[bytes, set[int]] = {}
        for block in self.plan.blocks:
            name = block.seeds.tobytes()
            seeds_of[name] = block.seeds
            weights_of.setdefault(name, set()).add(block.weight)

        def of_row(arguments: Arguments) -> tuple[dict[bytes, dict[int, jax.Array]], jax.Array]:
            pull = pullback(self.row, arguments)
            direct: dict[bytes, dict[int, jax.Array]] = {}
            for name, seeds in seeds_of.items():
                d_w, _ = jax.vmap(pull)(jnp.asarray(seeds, self.row.dtype))
                direct[name] = {i: d_w[i] for i in weights_of[name]}
            pull = pullback(self.plan.row, arguments)
            _, d_v = jax.vmap(pull)(jnp.asarray(self.plan.seeds, self.row.dtype))
            return direct, d_v

        results, jacobian = jax.vmap(of_row, in_axes=(OVER_ROWS,))(arguments)
        direct: list[jax.Array] = []
        for block in self.plan.blocks:
            d_weight = results[block.seeds.tobytes()][block.weight]  # (B, r, *shape)
            columns_last = jnp.moveaxis(d_weight, block.axis + 2, -1)
            *leading, num_columns = columns_last.shape
            others = int(np.prod(leading[2:], dtype=int))
            direct.append(columns_last.reshape(*leading[:2], others, num_columns))
        return direct, jacobian


def _in_shape_of(weight: jax.Array | jax.ShapeDtypeStruct, x: jax.Array, axis: int) -> jax.Array:
    """Returns `(K, M)` in the shape of the weight array."""
    others = [size for p, size in enumerate(weight.shape) if p != axis]
    shape = [*others, weight.shape[axis]]
    return jnp.moveaxis(x.reshape(shape), -1, axis)


def _carried(pair: Pair, jacobian: jax.Array, s: jax.Array) -> jax.Array:
    """Returns J_t S_{t-1} from one block to another, `(B, r, K, M)`."""
    jacobian = jacobian.astype(s.dtype)

    def read(colors: np.ndarray, columns: np.ndarray, is_there: np.ndarray) -> jax.Array:
        """Returns numbers of J_t; 0 where the compressed J_t has those of another row."""
        return jnp.where(is_there, jacobian[:, colors, columns], 0)

    num_columns, num_targets, num_sources = pair.is_there.shape
    if num_columns == 1:  # all columns have the same rows
        numbers = read(pair.colors[0], pair.columns[0], pair.is_there[0])
        return jnp.einsum("bij,bjkm->bikm", numbers, s)
    carried: list[jax.Array] = []
    for i in range(num_targets):
        terms: list[jax.Array] = []
        for j in range(num_sources):
            # Products and sums of elements are one loop, where a product of matrices would be many.
            is_there = pair.is_there[:, i, j]
            if is_there.any():
                numbers = read(pair.colors[:, i, j], pair.columns[:, i, j], is_there)
                terms.append(_over_columns(numbers[..., None]) * s[:, j : j + 1])
        carried.append(sum(terms, jnp.zeros_like(s[:, :1])))
    return jnp.concatenate(carried, axis=1)


def _over_columns(x: jax.Array) -> jax.Array:
    """Returns `(B, M, r)` as `(B, r, 1, M)`."""
    return jnp.swapaxes(x, 1, 2)[:, :, None, :]
