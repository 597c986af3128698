"""Dropout on the candidate of a gated cell."""

from typing import Any

import jax

from jaxrnn import check
from jaxrnn.cells.parts import Drive
from jaxrnn.transforms.noise import factors, found, with_keep, with_noise
from jaxrnn.types import Carry, Cell, Key, Params, PyTree, once


@once
def candidate_dropout(cell: Cell, rate: float) -> Cell:
    """Dropout on the candidate alone, drawn anew at every step: memory is never erased.

        LSTM: c_t = f ⊙ c_{t-1} + i ⊙ (k_t ⊙ g)                                              (D1)
        GRU:  h_t = (1 - z) ⊙ (k_t ⊙ n) + z ⊙ h_{t-1}                                        (D2)

    with k_t `(*batch, H)` 1/(1-rate) with probability 1 - rate and else 0.

    Args:
        cell: a Cell with a candidate.
        rate: in [0, 1).

    Returns:
        A Cell: with `unroll(key=...)` it draws k, without a key it is `cell`.

    Raises:
        ValueError: a rate outside [0, 1); while tracing, if the cell has no candidate.

    Gradient: exact for the noise drawn. Memory: k, T·B·H more.

    Source: S. Semeniuta, A. Severyn, E. Barth, "Recurrent dropout without memory loss", COLING
    2016.
    """
    check.instance("cell", cell, Cell)
    rate = check.rate("rate", rate)

    def draw(key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[None, jax.Array]:
        drives = found(Drive, jax.eval_shape(cell.project, params, xs))
        check.that(drives, "cell", "one without a candidate", "one such as lstm or gru")
        gate = jax.tree.leaves(drives[0].gates)[0]
        return None, jax.random.bernoulli(key, 1 - rate, gate.shape)

    def project(params: Params, xs: PyTree, _: None, keep: Any) -> PyTree:
        keep = factors(keep, rate, check.float_dtype(params))
        return with_keep(Drive, cell.project(params, xs), keep)  # (D1), (D2)

    return with_noise(cell, draw, project=project)
