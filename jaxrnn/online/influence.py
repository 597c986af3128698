"""The influence matrix S_t = ∂v_t/∂w, as far as a plan keeps it, from step to step.

        S_t = J_t S_{t-1} + D_t,    J_t = ∂v_t/∂v_{t-1},    D_t = ∂v_t/∂w with v_{t-1} held    (I1)

J_t and D_t come from pullbacks of one step, with sums of units as cotangents (the seeds of a plan).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.online.plan import Pair, Plan, pullback
from jaxrnn.online.rows import Leaves, RowStep, widest

Influence = tuple[jax.Array, ...]  # for each block (B, r, K, M)


class SparseInfluence:
    """The numbers of S that a plan keeps."""

    def __init__(self, row: RowStep, weights: list[Any], plan: Plan) -> None:
        """Takes the step of one row, its weight arrays or their shapes, and the plan."""
        self.row = row
        self.weights = weights
        self.plan = plan

    def zeros(self, rows: int) -> Influence:
        """Returns S_0 = 0, for all rows of the batch."""
        result = []
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
            d = jnp.where(block.rows >= 0, d_v[:, block.rows], 0).astype(s.dtype)
            if block.rows.shape[0] == 1:
                total = jnp.einsum("br,brkm->km", d[:, 0], s)
            else:
                total = jnp.sum(_over_columns(d) * s, axis=(0, 1))
            weight = self.weights[block.weight]
            gradients[block.weight] += _in_shape_of(weight, total, block.axis)
        return gradients

    def advance(self, influence: Influence, arguments: tuple[Any, ...], key: Any) -> Influence:
        """Returns S_t (I1).

        Args:
            influence: S_{t-1}.
            arguments: w and constants; v `(B, N)`, others and x of all rows.
            key: is not used.
        """
        direct, jacobian = self._derivatives(arguments)
        pairs = self.plan.pairs
        for pair in pairs:
            carried = _carried(pair, jacobian, influence[pair.source])
            direct[pair.target] = direct[pair.target].astype(carried.dtype) + carried  # (I1)
        return tuple(a.astype(b.dtype) for a, b in zip(direct, influence, strict=True))

    def _derivatives(self, arguments: tuple[Any, ...]) -> tuple[list[jax.Array], jax.Array]:
        """Returns D_t of each block, `(B, r, K, M)`, and J_t compressed, `(B, C, N)`."""
        w, constants, *of_rows = arguments
        # Blocks with the same seeds share one pullback.
        wanted: dict[bytes, tuple[np.ndarray, set[int]]] = {}
        for block in self.plan.blocks:
            wanted.setdefault(block.seeds.tobytes(), (block.seeds, set()))[1].add(block.weight)

        def of_row(v: jax.Array, others: Leaves, x: Leaves) -> tuple[Any, jax.Array]:
            pull = pullback(self.row, w, constants, v, others, x)
            direct = {}
            for name, (seeds, weights) in wanted.items():
                d_w, _ = jax.vmap(pull)(jnp.asarray(seeds, self.row.dtype))
                direct[name] = {i: d_w[i] for i in weights}
            pull = pullback(self.plan.row, w, constants, v, others, x)
            _, d_v = jax.vmap(pull)(jnp.asarray(self.plan.seeds, self.row.dtype))
            return direct, d_v

        results, jacobian = jax.vmap(of_row)(*of_rows)
        direct = []
        for block in self.plan.blocks:
            d = results[block.seeds.tobytes()][block.weight]  # (B, r, *shape)
            d = jnp.moveaxis(d, block.axis + 2, -1)
            others = int(np.prod(d.shape[2:-1], dtype=int))
            direct.append(d.reshape(*d.shape[:2], others, d.shape[-1]))
        return direct, jacobian


def _in_shape_of(weight: Any, x: jax.Array, axis: int) -> jax.Array:
    """Returns `(K, M)` in the shape of the weight array."""
    shape = [n for p, n in enumerate(weight.shape) if p != axis] + [weight.shape[axis]]
    return jnp.moveaxis(x.reshape(shape), -1, axis)


def _carried(pair: Pair, jacobian: jax.Array, s: jax.Array) -> jax.Array:
    """Returns J_t S_{t-1} from one block to another, `(B, r, K, M)`."""
    jacobian = jacobian.astype(s.dtype)
    _, targets, sources = pair.is_there.shape
    if pair.is_there.shape[0] == 1:  # all columns have the same rows
        j = jnp.where(pair.is_there[0], jacobian[:, pair.colors[0], pair.columns[0]], 0)
        return jnp.einsum("bij,bjkm->bikm", j, s)
    carried = []
    for i in range(targets):
        # Products and sums of elements are one loop, where a product of matrices would be many.
        terms = [
            _over_columns(jnp.where(there, jacobian[:, colors, columns], 0)[..., None])
            * s[:, j : j + 1]
            for j in range(sources)
            for colors, columns, there in [(a[:, i, j] for a in pair[2:])]
            if there.any()
        ]
        carried.append(sum(terms, jnp.zeros_like(s[:, :1])))
    return jnp.concatenate(carried, axis=1)


def _over_columns(x: jax.Array) -> jax.Array:
    """Returns `(B, M, r)` as `(B, r, 1, M)`."""
    return jnp.swapaxes(x, 1, 2)[:, :, None, :]
