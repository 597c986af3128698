"""The gated recurrent unit of Cho et al. (2014), in both its variants."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import sigmoid

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.types import Array, Cell


class GRUGates(NamedTuple):
    """One array `(*batch, H)` a gate (reset, update, candidate): pre-activations or cotangents."""

    r: Array
    z: Array
    n: Array


class GRUSaved(NamedTuple):
    """The gates' values; and q, what the reset gate multiplies after the product (else None)."""

    r: Array
    z: Array
    n: Array
    q: Array | None


class GRUAfterWeights(NamedTuple):
    """What the loop uses where reset comes after: the kernel, its transpose, the bias of q."""

    w_h: Array
    w_h_t: Array
    b_n: Array


class GRUBeforeWeights(NamedTuple):
    """What the loop uses where reset comes before: the two kernels and their transposes."""

    w_rz: Array
    w_n: Array
    w_rz_t: Array
    w_n_t: Array


def gru(hidden_size: int, *, reset_after: bool = True) -> Cell:
    """The GRU; reset after the recurrent product as in PyTorch and cuDNN, or before it as published.

        x_r, x_z, x_n = x_t W_x + b, each its own columns                                    (G1)
        r = σ(x_r + h_{t-1} W_r),    z = σ(x_z + h_{t-1} W_z)                                (G2)
        n = tanh(x_n + r ⊙ q),       q = h_{t-1} W_n + b_n         reset_after=True          (G3)
        n = tanh(x_n + (r ⊙ h_{t-1}) W_n)                          reset_after=False         (G3')
        h_t = (1 - z) ⊙ n + z ⊙ h_{t-1},    y_t = h_t                                        (G4)

    where W_h = [W_r W_z W_n]. Backward, with λ_t = ∂L/∂h_t,

        δ_z = λ_t ⊙ (h_{t-1} - n) ⊙ z(1-z),    δ_n = λ_t ⊙ (1-z) ⊙ (1-n²)                    (G5)
        δ_r = δ_n ⊙ q ⊙ r(1-r)                                                               (G6)
        λ_{t-1} = λ_t ⊙ z + [δ_r δ_z δ_n⊙r] W_hᵀ                                             (G7)
        ∂L/∂W_h = Σ_t h_{t-1}ᵀ [δ_r δ_z δ_n⊙r],    ∂L/∂b_n = Σ_t δ_n⊙r                       (G8)

    and, for reset_after=False, with u = δ_n W_nᵀ = ∂L/∂(r ⊙ h_{t-1}),

        δ_r = u ⊙ h_{t-1} ⊙ r(1-r)                                                           (G6')
        λ_{t-1} = λ_t ⊙ z + u ⊙ r + [δ_r δ_z] [W_r W_z]ᵀ                                     (G7')
        ∂L/∂[W_r W_z] = Σ_t h_{t-1}ᵀ [δ_r δ_z],    ∂L/∂W_n = Σ_t (r ⊙ h_{t-1})ᵀ δ_n          (G8')

    In both, ∂L/∂x_r, x_z, x_n = δ_r, δ_z, δ_n.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        reset_after: (G3) if True, (G3') if False; TypeError if not a bool.

    Returns:
        A Cell with params `w_x (I, 3H)`, `w_h (H, 3H)`, `b (3H)`, gates in the order r, z, n, and
        `b_n (H)` where reset comes after, all of one floating dtype, and the carry h `(*batch, H)`.
        Inputs x `(*batch, I)`, outputs h `(*batch, H)`, dimensionless.

    Gradient: exact, by hand. Time: three products of the size of the forward one per step, two of
    them outside the loop. Memory: h, three gates and q, 5·T·B·H; 4·T·B·H with reset before.

    Source: K. Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014;
    arXiv:1406.1078v1 for reset after the product.
    """
    check.integer("hidden_size", hidden_size, least=1)
    return _gru(hidden_size, check.boolean("reset_after", reset_after))


@functools.cache
def _gru(hidden_size: int, reset_after: bool) -> Cell:
    more = {"b_n": (hidden_size,)} if reset_after else {}

    def init(key, input_size, dtype=jnp.float32):
        params = parts.initial(key, input_size, hidden_size, 3, dtype)
        return {**params, **{name: jnp.zeros(shape, dtype) for name, shape in more.items()}}

    def carry(batch_shape=(), dtype=jnp.float32):
        return parts.zero_carry(hidden_size, batch_shape, dtype)

    def project(params, xs):
        return GRUGates(*parts.project_gates("gru", params, xs, 3, hidden_size, **more))  # (G1)

    def output(params, hs):
        return hs

    advance, adjoint, gather, prepare = _AFTER if reset_after else _BEFORE
    return Cell(init, carry, project, advance, output, adjoint, gather, prepare)


def _prepare_after(params):
    return GRUAfterWeights(params["w_h"], params["w_h"].T, params["b_n"])


def _advance_after(w, h_tm1, x):
    a_r, a_z, q = parts.split_gates(h_tm1 @ w.w_h, 3)
    r, z, q = sigmoid(x.r + a_r), sigmoid(x.z + a_z), q + w.b_n  # (G2)
    n = jnp.tanh(x.n + r * q)  # (G3)
    return n + z * (h_tm1 - n), GRUSaved(r, z, n, q)  # (G4)


def _adjoint_after(w, h_tm1, x, h_t, saved, d_h):
    r, z, n, q = saved
    delta_z, delta_n = _deltas_zn(h_tm1, saved, d_h)
    delta_r = delta_n * q * r * (1 - r)  # (G6)
    d_h_tm1 = d_h * z + parts.join_gates(delta_r, delta_z, delta_n * r) @ w.w_h_t  # (G7)
    return d_h_tm1, GRUGates(delta_r, delta_z, delta_n)


def _gather_after(w, hs_tm1, xs, hs, saved, deltas):
    d_q = deltas.n * saved.r
    d_w_h = parts.summed_product(hs_tm1, parts.join_gates(deltas.r, deltas.z, d_q))
    return GRUAfterWeights(d_w_h, None, parts.summed(d_q)), deltas  # (G8)


def _prepare_before(params):
    w_r, w_z, w_n = parts.split_gates(params["w_h"], 3)
    w_rz = parts.join_gates(w_r, w_z)
    return GRUBeforeWeights(w_rz, w_n, w_rz.T, w_n.T)


def _advance_before(w, h_tm1, x):
    a_r, a_z = parts.split_gates(h_tm1 @ w.w_rz, 2)
    r, z = sigmoid(x.r + a_r), sigmoid(x.z + a_z)  # (G2)
    n = jnp.tanh(x.n + (r * h_tm1) @ w.w_n)  # (G3')
    return n + z * (h_tm1 - n), GRUSaved(r, z, n, None)  # (G4)


def _adjoint_before(w, h_tm1, x, h_t, saved, d_h):
    r, z, n, _ = saved
    delta_z, delta_n = _deltas_zn(h_tm1, saved, d_h)
    u = delta_n @ w.w_n_t
    delta_r = u * h_tm1 * r * (1 - r)  # (G6')
    d_h_tm1 = d_h * z + u * r + parts.join_gates(delta_r, delta_z) @ w.w_rz_t  # (G7')
    return d_h_tm1, GRUGates(delta_r, delta_z, delta_n)


def _gather_before(w, hs_tm1, xs, hs, saved, deltas):
    d_w_rz = parts.summed_product(hs_tm1, parts.join_gates(deltas.r, deltas.z))
    d_w_n = parts.summed_product(saved.r * hs_tm1, deltas.n)
    return GRUBeforeWeights(d_w_rz, d_w_n, None, None), deltas  # (G8')


def _deltas_zn(h_tm1, saved, d_h):
    z, n = saved.z, saved.n
    return d_h * (h_tm1 - n) * z * (1 - z), d_h * (1 - z) * (1 - n * n)  # (G5)


_AFTER = (_advance_after, _adjoint_after, _gather_after, _prepare_after)
_BEFORE = (_advance_before, _adjoint_before, _gather_before, _prepare_before)
