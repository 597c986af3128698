"""Measures the bias of truncated gradients, and finds a truncation with a small bias."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn import check
from jaxrnn.diagnostics.distance import as_vector, error_and_angle
from jaxrnn.diagnostics.flow import Loss, map_loop_calls
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.truncated import truncated
from jaxrnn.types import Loop, Params


class TruncationBias(NamedTuple):
    """The distance of a truncated gradient ĝ from the exact gradient g.

    Fields:
        k: the argument of `truncated(k)`.
        error: ‖ĝ - g‖ / ‖g‖ over all parameters; NaN if g is zero.
        angle: the angle between ĝ and g, in degrees; NaN if either is zero.
    """

    k: int
    error: float
    angle: float


class AdaptiveTruncation(NamedTuple):
    """The truncation that `adaptive_truncation` selects.

    Fields:
        k: the number of steps that the gradient of every output reaches back, at least.
        bias: an estimated upper bound of ‖ĝ - g‖ / ‖g‖; 0 if nothing is truncated.
        loop: `truncated(k, 2k)`, or the exact loop if no shorter truncation is within the
            tolerance.
    """

    k: int
    bias: float
    loop: Loop


def truncation_bias(
    loss: Loss,
    params: Params,
    *args: Any,
    ks: Sequence[int] | None = None,
    make: Callable[[int], Loop] = truncated,
    loop: Loop = bptt,
) -> tuple[TruncationBias, ...]:
    """Compares truncated gradients of a loss with the exact gradient, for several lengths.

    Args:
        loss: `loss(params, *args, loop=loop) -> scalar`, with the requirements that `gradient_flow`
            lists.
        params: the parameters of the loss.
        *args: passed on to the loss.
        ks: lengths, at least 1. Defaults to all powers of two below T.
        make: a function from k to the truncating Loop, such as `lambda k: truncated(k, 2 * k)`.
        loop: an exact Loop.

    Returns:
        A `TruncationBias` for each length. `truncation_bias` does not work under jit.

    Time: one gradient and its compilation for each length, and for the exact gradient.
    """
    check.require_callable("make", make, takes=1)
    is_sequence = ks is None or (isinstance(ks, Sequence) and not isinstance(ks, str))
    check.require_option_type("ks", ks, is_sequence, "a sequence of ints")
    _, powers_of_two = _lengths(loss, params, args)
    ks = powers_of_two if ks is None else [check.require_int("ks", k, least=1) for k in ks]
    exact = _gradient(loss, params, args, loop)

    def bias_of(k: int) -> TruncationBias:
        gradient = _gradient(loss, params, args, make(k))
        return TruncationBias(k, *error_and_angle(gradient, exact))

    return tuple(map(bias_of, ks))


def adaptive_truncation(
    loss: Loss, params: Params, *args: Any, tolerance: float = 0.1, loop: Loop = bptt
) -> AdaptiveTruncation:
    """Finds the shortest truncation, a power of two, whose bias is within a tolerance.

    Let ĝ_k be the gradient of `truncated(k, 2k)`. It has all terms that reach k steps back and none
    that reaches 2k. Its change when k doubles is measured. Where gradients decay geometrically,
    every further doubling shrinks the change by the same factor ρ or more. Then the rest is
    bounded:

        d_k = ‖ĝ_{2k} - ĝ_k‖,    ρ = d_k / d_{k/2}                                           (1)
        ‖ĝ_k - g‖ ≤ d_k + d_{2k} + d_{4k} + … ≤ d_k / (1 - ρ)                                (2)
        ‖g‖       ≥ ‖ĝ_{2k}‖ - ρ d_k / (1 - ρ)                                               (3)

    k is doubled until (2) / (3) is within the tolerance, so no gradient is computed that reaches
    farther than 4k. The bound is an estimate: it does not see a dependence that is longer than all
    windows it tried. `truncation_bias` compares with the exact gradient.

    Args:
        loss: `loss(params, *args, loop=loop) -> scalar`, with the requirements that `gradient_flow`
            lists.
        params: the parameters of the loss.
        *args: passed on to the loss.
        tolerance: the largest relative bias to accept, above 0.
        loop: the exact Loop that runs each window.

    Returns:
        An `AdaptiveTruncation`. `adaptive_truncation` does not work under jit.

    Time: one gradient and its compilation for each doubling.

    Source: C. Aicher, N. Foti, E. Fox, "Adaptively truncating backpropagation through time to
    control gradient bias", UAI 2019. There the decay is that of the norms of adjoints, and the
    bound has a constant that the user has to supply.
    """
    check.require_positive("tolerance", tolerance)
    steps, ks = _lengths(loss, params, args)
    loops = {k: truncated(k, 2 * k, loop=loop) for k in ks}
    gradients: list[np.ndarray] = []
    for k in loops:
        gradients.append(_gradient(loss, params, args, loops[k]))
        if len(gradients) > 2:
            bias = _bound(*gradients[-3:])
            if bias <= tolerance:
                return AdaptiveTruncation(k // 2, bias, loops[k // 2])
    return AdaptiveTruncation(steps, 0.0, loop)


def _bound(half: np.ndarray, current: np.ndarray, double: np.ndarray) -> float:
    """Returns (2) / (3) from the gradients at k/2, k and 2k; infinity where nothing decays."""
    previous_change = float(np.linalg.norm(current - half))
    change = float(np.linalg.norm(double - current))
    if change >= previous_change:
        return np.inf if change else 0.0
    ratio = change / previous_change
    error = change / (1 - ratio)  # (2)
    size = float(np.linalg.norm(double)) - error * ratio  # (3)
    return error / size if size > 0 else np.inf


def _lengths(loss: Loss, params: Params, args: tuple[Any, ...]) -> tuple[int, list[int]]:
    """Returns T, the length of the longest sequence of the loss, and all powers of two below T."""
    check.require_concrete(params=params, args=args)
    lengths = map_loop_calls(lambda *call: check.num_steps(call[-1]), loss, params, args, bptt)
    steps = max(lengths)
    return steps, [2**i for i in range(steps.bit_length()) if 2**i < steps]


def _gradient(loss: Loss, params: Params, args: tuple[Any, ...], loop: Loop) -> np.ndarray:
    """Returns the whole gradient as one array."""
    grads = jax.jit(jax.grad(lambda params: loss(params, *args, loop=loop)))(params)
    return as_vector(grads)
