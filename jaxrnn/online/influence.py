"""The influence matrix S_t = ∂v_t/∂w, as far as a plan keeps it, from step to step.

S_t = J_t S_{t-1} + D_t,    J_t = ∂v_t/∂v_{t-1},    D_t = ∂v_t/∂w with v_{t-1} held    (I1)
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
                total = jnp.einsum("bmr,brkm->km", d, s)
            weight = self.weights[block.weight]
            gradients[block.weight] += _in_shape_of(weight, total, block.axis)
        return gradients

    def advance(self, influence: Influence, arguments: tuple[Any, ...], key: Any) -> Influence:
        """Returns S_t (I1).

        Args:
            influence: S_{t-1}.
            arguments: w and given; v `(B, N)`, others and x of all rows.
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
        w, given, *of_rows = arguments
        # Seeds that several blocks share are pulled back once. v is the argument after all weights.
        of_v = len(w)
        wanted: dict[bytes, tuple[np.ndarray, set[int]]] = {}
        for seeds, argument in [
            *((block.seeds, block.weight) for block in self.plan.blocks),
            (self.plan.seeds, of_v),
        ]:
            wanted.setdefault(seeds.tobytes(), (seeds, set()))[1].add(argument)

        def of_row(v: jax.Array, others: Leaves, x: Leaves) -> dict[bytes, dict[int, jax.Array]]:
            pull = pullback(self.row, w, given, v, others, x)
            results = {}
            for name, (seeds, arguments) in wanted.items():
                d_w, d_v = jax.vmap(pull)(jnp.asarray(seeds, self.row.dtype))
                pulled = [*d_w, d_v]
                results[name] = {i: pulled[i] for i in arguments}
            return results

        results = jax.vmap(of_row)(*of_rows)
        direct = []
        for block in self.plan.blocks:
            d = results[block.seeds.tobytes()][block.weight]  # (B, r, *shape)
            d = jnp.moveaxis(d, block.axis + 2, -1)
            direct.append(d.reshape(*d.shape[:2], -1, d.shape[-1]))
        return direct, results[self.plan.seeds.tobytes()][of_v]


def _in_shape_of(weight: Any, x: jax.Array, axis: int) -> jax.Array:
    """Returns `(K, M)` in the shape of the weight array."""
    shape = [n for p, n in enumerate(weight.shape) if p != axis] + [weight.shape[axis]]
    return jnp.moveaxis(x.reshape(shape), -1, axis)


def _carried(pair: Pair, jacobian: jax.Array, s: jax.Array) -> jax.Array:
    """Returns J_t S_{t-1} from one block to another, `(B, r, K, M)`."""
    jacobian = jacobian.astype(s.dtype)
    _, targets, sources = pair.is_there.shape
    off_diagonal = ~np.eye(targets, sources, dtype=bool)
    if targets == sources and not pair.is_there[:, off_diagonal].any():
        colors, columns, is_there = (np.einsum("mrr->mr", a) for a in pair[2:])
        j = jnp.where(is_there, jacobian[:, colors, columns], 0)  # (B, M or 1, r)
        return jnp.swapaxes(j, 1, 2)[:, :, None, :] * s
    j = jnp.where(pair.is_there, jacobian[:, pair.colors, pair.columns], 0)
    if pair.is_there.shape[0] == 1:
        return jnp.einsum("bij,bjkm->bikm", j[:, 0], s)
    return jnp.einsum("bmij,bjkm->bikm", j, s)
