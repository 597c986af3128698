"""The minimal gated unit of Zhou et al. (2016)."""

from collections import namedtuple

from jax.nn import sigmoid, tanh

from jaxrnn.cells import parts
from jaxrnn.cells.gru import BeforeWeights
from jaxrnn.cells.parts import Drive, Form
from jaxrnn.types import Cell, Params, Seen, State, once


class MGUGates(namedtuple("MGUGates", "f n")):
    """One array `(*batch, H)` a gate f, n: pre-activations, values or cotangents."""


@once
def mgu(hidden_size: int) -> Cell:
    """The minimal gated unit: a GRU whose one gate both forgets and resets.

        x_f, x_n = x_t W_x + b, each its own columns                                         (M1)
        f = σ(x_f + h_{t-1} W_f),    n = tanh(x_n + (f ⊙ h_{t-1}) W_n)                       (M2)
        h_t = (1 - f) ⊙ h_{t-1} + f ⊙ n,    y_t = h_t                                        (M3)

    where W_h = [W_f W_n]. Backward, with λ_t = ∂L/∂h_t,

        δ_n = λ_t ⊙ f ⊙ (1-n²),    u = δ_n W_nᵀ = ∂L/∂(f ⊙ h_{t-1})                          (M4)
        δ_f = (λ_t ⊙ (n - h_{t-1}) + u ⊙ h_{t-1}) ⊙ f(1-f)                                   (M5)
        λ_{t-1} = λ_t ⊙ (1-f) + u ⊙ f + δ_f W_fᵀ                                             (M6)
        ∂L/∂W_f = Σ_t h_{t-1}ᵀ δ_f,    ∂L/∂W_n = Σ_t (f ⊙ h_{t-1})ᵀ δ_n                      (M7)

    and ∂L/∂x_f, x_n = δ_f, δ_n.

    Args:
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.

    Returns:
        A Cell with params `w_x (I, 2H)`, `w_h (H, 2H)`, `b (2H)`, gates in the order f, n, all of
        one floating dtype, and the carry h `(*batch, H)`. Inputs x `(*batch, I)`, outputs h
        `(*batch, H)`, dimensionless.

    Gradient: exact, by hand. Time: two recurrent products a step forward and two backward, one
    after the other; the kernels' gradients are two more for all steps at once. Memory: h, f and n,
    3·T·B·H.

    Source: G.-B. Zhou, J. Wu, C.-L. Zhang, Z.-H. Zhou, "Minimal gated unit for recurrent neural
    networks", International Journal of Automation and Computing 13 (2016); arXiv:1603.09420.
    """
    form = Form("mgu", hidden_size, MGUGates._make((0.0,) * 2))
    return form.cell(form.driven, _advance, _adjoint, _gather, _prepare)  # (M1)


def _prepare(params: Params) -> BeforeWeights:
    return BeforeWeights(*map(parts.kernel, parts.split_gates(params["w_h"], 2)))


def _advance(w: BeforeWeights, h_tm1: State, x: Drive) -> tuple[State, MGUGates]:
    f = sigmoid(x.gates.f + parts.product(h_tm1, w.gates))  # (M2)
    n = tanh(x.gates.n + parts.product(f * h_tm1, w.n))
    return h_tm1 + f * (parts.scaled(n, x.keep) - h_tm1), MGUGates(f, n)  # (M3)


def _adjoint(w: BeforeWeights, seen: Seen, d_h: State) -> tuple[State, MGUGates]:
    h_tm1, x, _, (f, n) = seen
    delta_n = parts.scaled(d_h * f, x.keep) * (1 - n * n)
    u = parts.product_adjoint(delta_n, w.n)  # (M4)
    delta_f = (d_h * (parts.scaled(n, x.keep) - h_tm1) + u * h_tm1) * f * (1 - f)  # (M5)
    d_h_tm1 = d_h * (1 - f) + u * f + parts.product_adjoint(delta_f, w.gates)  # (M6)
    return d_h_tm1, MGUGates(delta_f, delta_n)


def _gather(w: BeforeWeights, seen: Seen, deltas: MGUGates) -> tuple[BeforeWeights, Drive]:
    h_tm1, f = seen.carry_tm1, seen.saved.f
    d_f = parts.product_gathered(h_tm1, deltas.f, w.gates)
    d_n = parts.product_gathered(f * h_tm1, deltas.n, w.n)
    return BeforeWeights(d_f, d_n), Drive(deltas)  # (M7)
