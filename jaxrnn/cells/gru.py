"""The gated recurrent unit of Cho et al. (2014), in both its variants."""

from collections import namedtuple

from jax.nn import initializers, sigmoid, tanh

from jaxrnn import check
from jaxrnn.cells import parts
from jaxrnn.cells.parts import Drive, Form, Joined, Vector
from jaxrnn.types import Cell, Params, Seen, State, once


class GRUGates(namedtuple("GRUGates", "r z n")):
    """One array `(*batch, H)` a gate r, z, n: pre-activations, values or cotangents."""


class GRUAfterSaved(namedtuple("GRUAfterSaved", "r z n q")):
    """The gates' values; and q, what the reset gate multiplies after the product."""


class AfterWeights(namedtuple("AfterWeights", "w_h b_n")):
    """What the loop uses where reset comes after: the Kernel, and the bias of q, `(H)`."""


class BeforeWeights(namedtuple("BeforeWeights", "gates n")):
    """What the loop uses where reset comes before: a Kernel of h, one of r ⊙ h."""


@once
def gru(hidden_size: int, *, reset_after: bool = True) -> Cell:
    """The GRU, reset after the recurrent product (PyTorch, cuDNN) or before it (as published).

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

    Gradient: exact, by hand. Time: one recurrent product a step forward and one backward, in order;
    the kernel's gradient is one more for all steps at once. Memory: h, three gates and q, 5·T·B·H;
    4·T·B·H with reset before.

    Source: K. Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014;
    arXiv:1406.1078v1 for reset after the product.
    """
    check.boolean("reset_after", reset_after)
    more = {"b_n": ((hidden_size,), initializers.zeros)} if reset_after else {}
    form = Form("gru", hidden_size, GRUGates._make((0.0,) * 3), more)
    return form.cell(form.driven, *(_AFTER if reset_after else _BEFORE))  # (G1)


def _advance_after(w: AfterWeights, h_tm1: State, x: Drive) -> tuple[State, GRUAfterSaved]:
    return after(h_tm1, parts.product(h_tm1, w.w_h), w.b_n, x)


def _adjoint_after(w: AfterWeights, seen: Seen, d_h: State) -> tuple[State, GRUGates]:
    delta = after_adjoint(seen, seen.saved, d_h)
    d_p = product_deltas(delta, seen.saved.r)
    return d_h * seen.saved.z + parts.product_adjoint(d_p, w.w_h), delta  # (G7)


def _gather_after(w: AfterWeights, seen: Seen, deltas: GRUGates) -> tuple[AfterWeights, Drive]:
    d_ps = product_deltas(deltas, seen.saved.r)
    d_w_h = parts.product_gathered(seen.carry_tm1, d_ps, w.w_h)
    return AfterWeights(d_w_h, parts.summed(deltas.n * seen.saved.r)), Drive(deltas)  # (G8)


def _prepare_before(params: Params) -> BeforeWeights:
    w_r, w_z, w_n = parts.split_gates(params["w_h"], 3)
    return BeforeWeights(parts.kernel(parts.join_gates(w_r, w_z)), parts.kernel(w_n))


def _advance_before(w: BeforeWeights, h_tm1: State, x: Drive) -> tuple[State, GRUGates]:
    a_r, a_z = parts.split_gates(parts.product(h_tm1, w.gates), 2)
    r, z = sigmoid(x.gates.r + a_r), sigmoid(x.gates.z + a_z)  # (G2)
    n = tanh(x.gates.n + parts.product(r * h_tm1, w.n))  # (G3')
    return mixed(h_tm1, z, n, x), GRUGates(r, z, n)


def _adjoint_before(w: BeforeWeights, seen: Seen, d_h: State) -> tuple[State, GRUGates]:
    h_tm1, x, _, (r, z, n) = seen
    delta_z, delta_n = mixed_adjoint(h_tm1, z, n, x, d_h)
    u = parts.product_adjoint(delta_n, w.n)
    delta_r = u * h_tm1 * r * (1 - r)  # (G6')
    d_rz = parts.product_adjoint(parts.join_gates(delta_r, delta_z), w.gates)
    return d_h * z + u * r + d_rz, GRUGates(delta_r, delta_z, delta_n)  # (G7')


def _gather_before(w: BeforeWeights, seen: Seen, deltas: GRUGates) -> tuple[BeforeWeights, Drive]:
    h_tm1, r = seen.carry_tm1, seen.saved.r
    d_rz = parts.product_gathered(h_tm1, parts.join_gates(deltas.r, deltas.z), w.gates)
    d_n = parts.product_gathered(r * h_tm1, deltas.n, w.n)
    return BeforeWeights(d_rz, d_n), Drive(deltas)  # (G8')


def after(h_tm1: State, p: Joined, b_n: Vector, x: Drive) -> tuple[State, GRUAfterSaved]:
    """One step with reset after the product, p = h_{t-1} W_h."""
    a_r, a_z, q = parts.split_gates(p, 3)
    r, z, q = sigmoid(x.gates.r + a_r), sigmoid(x.gates.z + a_z), parts.plus_bias(q, b_n)  # (G2)
    n = tanh(x.gates.n + r * q)  # (G3)
    return mixed(h_tm1, z, n, x), GRUAfterSaved(r, z, n, q)


def after_adjoint(seen: Seen, gates: GRUAfterSaved, d_h: State) -> GRUGates:
    """δ of (G5) and (G6)."""
    r, z, n, q = gates
    delta_z, delta_n = mixed_adjoint(seen.carry_tm1, z, n, seen.z, d_h)
    return GRUGates(delta_n * q * r * (1 - r), delta_z, delta_n)  # (G6)


def product_deltas(delta: GRUGates, r: State) -> Joined:
    """[δ_r δ_z δ_n⊙r], what is sent back to the product that reset comes after."""
    return parts.join_gates(delta.r, delta.z, delta.n * r)


def mixed(h_tm1: State, z: State, n: State, x: Drive) -> State:
    """h_t of (G4)."""
    n = parts.scaled(n, x.keep)
    return n + z * (h_tm1 - n)  # (G4)


def mixed_adjoint(h_tm1: State, z: State, n: State, x: Drive, d_h: State) -> tuple[State, State]:
    """δ_z and δ_n of (G5)."""
    delta_z = d_h * (h_tm1 - parts.scaled(n, x.keep)) * z * (1 - z)  # (G5)
    return delta_z, parts.scaled(d_h * (1 - z), x.keep) * (1 - n * n)


_AFTER = (_advance_after, _adjoint_after, _gather_after, parts.prepared(AfterWeights))
_BEFORE = (_advance_before, _adjoint_before, _gather_before, _prepare_before)
