"""Dropout inside a recurrence: one mask for all time, or on the candidate, anew at every step."""

from typing import Any

import jax

from jaxrnn import check
from jaxrnn.cells.parts import Drive, Kernel, scaled
from jaxrnn.transforms.noise import factors, found, with_keep, with_noise
from jaxrnn.types import Array, Carry, Cell, Key, Noised, Params, PyTree, once


@once
def variational(cell: Cell, *, inputs: float = 0.0, state: float = 0.0) -> Cell:
    """Dropout with one mask for all time, on the inputs and on the state that the products see.

        x̃_t = k_x ⊙ x_t,    P = (k_h ⊙ h_{t-1}) W_h                                          (V1)

    with k_x `(*batch, I)` and k_h `(*batch, H)` 1/(1-rate) with probability 1 - rate and else 0.
    What a cell takes of h_{t-1} without a product (the GRU's z ⊙ h_{t-1}) is left alone.

    Args:
        cell: a Cell; for `state` above 0 one whose recurrence is a matrix product.
        inputs: the rate on x, in [0, 1).
        state: the rate on h, in [0, 1).

    Returns:
        A Cell: with `unroll(key=...)` it draws both masks, without a key it is `cell`.

    Raises:
        ValueError: a rate outside [0, 1); `inputs` above 0 for a cell that takes tokens; while
            tracing, if there is no product of the state.

    Gradient: exact for the masks drawn. Memory: no array over time is added.

    Source: Y. Gal, Z. Ghahramani, "A theoretically grounded application of dropout in recurrent
    neural networks", NeurIPS 2016.
    """
    check.instance("cell", cell, Cell)
    inputs, state = check.rate("inputs", inputs), check.rate("state", state)
    fits = not inputs or cell.num_feature_axes
    check.that(fits, "inputs", inputs, "0 for a cell that takes tokens")

    def draw(key: Key, params: Params, carry: Carry, xs: Array) -> tuple[PyTree, None]:
        key_x, key_h = jax.random.split(key)
        if inputs:
            expected = "an array (of a masked cell and the like, transform the variational cell)"
            check.kind(hasattr(xs, "shape"), "xs", xs, expected)
        keep_x = jax.random.bernoulli(key_x, 1 - inputs, xs.shape[1:]) if inputs else None
        if not state:
            return (keep_x, None), None
        kernels = found(Kernel, jax.eval_shape(cell.prepare, params))
        check.that(kernels, "state", state, "0 for a cell without a matrix product of its state")
        batch = check.batch_shape(check.at_one_step(xs), cell.num_feature_axes)
        of_state = (*batch, kernels[0].w.shape[0])
        return (keep_x, jax.random.bernoulli(key_h, 1 - state, of_state)), None

    def project(params: Params, xs: PyTree, shared: Any, _: None) -> PyTree:
        keep_x = None if shared is None else shared[0]
        if keep_x is not None:
            value, inner = xs if isinstance(xs, Noised) else (xs, None)
            value = scaled(value, factors(keep_x, inputs, value.dtype))  # (V1)
            xs = value if inner is None else Noised(value, inner)
        return cell.project(params, xs)

    def prepare(params: Params, shared: Any) -> PyTree:
        keep_h = None if shared is None else shared[1]
        keep_h = factors(keep_h, state, check.float_dtype(params))
        return with_keep(Kernel, cell.prepare(params), keep_h)  # (V1)

    return with_noise(cell, draw, project=project, prepare=prepare)


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
