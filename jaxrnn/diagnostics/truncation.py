"""What does truncation cost, and how far back must a gradient reach to cost less?"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn import check
from jaxrnn.diagnostics.flow import Loss, of_each_call
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.truncated import truncated
from jaxrnn.types import Loop, Params


class TruncationBias(NamedTuple):
    """How far a truncated gradient ĝ is from the exact one, g.

    Fields:
        k: of `truncated(k)`.
        error: ‖ĝ - g‖ / ‖g‖ over all parameters; NaN if g is zero.
        angle: between ĝ and g, in degrees; NaN if either is zero.
    """

    k: int
    error: float
    angle: float


class AdaptiveTruncation(NamedTuple):
    """How far back a gradient has to reach.

    Fields:
        k: steps that every output reaches back, at least.
        bias: ‖ĝ - g‖ / ‖g‖, at most, by estimate; 0 where nothing is truncated.
        loop: `truncated(k, 2k)`, or the exact loop where nothing shorter is good enough.
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
    """Compare truncated gradients of a loss with the exact one, length by length.

    Args:
        loss: as for `flow`, like the other arguments.
        params: ″.
        *args: ″.
        ks: lengths, at least 1; all powers of two below T unless given.
        make: from k to the truncating Loop, such as `lambda k: truncated(k, 2 * k)`.
        loop: an exact Loop.

    Returns:
        A `TruncationBias` for each length. Not for use under jit.

    Time: that of a gradient, and of compiling it, for each length, and for the exact one.
    """
    check.require_callable("make", make, takes=1)
    several = ks is None or (isinstance(ks, Sequence) and not isinstance(ks, str))
    check.require_option_type("ks", ks, several, "a sequence of ints")
    _, doubling = _lengths(loss, params, args)
    ks = doubling if ks is None else [check.require_int("ks", k, least=1) for k in ks]
    exact = _gradient(loss, params, args, loop)

    def row(k: int) -> TruncationBias:
        found = _gradient(loss, params, args, make(k))
        with np.errstate(invalid="ignore"):
            error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
            a, b = (g / np.linalg.norm(g) for g in (found, exact))
        # Not by the cosine, which has no digits left where the angle is small.
        angle = 2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))
        return TruncationBias(k, float(error), float(np.degrees(angle)))

    return tuple(map(row, ks))


def adaptive_truncation(
    loss: Loss, params: Params, *args: Any, tolerance: float = 0.1, loop: Loop = bptt
) -> AdaptiveTruncation:
    """The least reach, a power of two, whose truncation biases a gradient within a tolerance.

    Let ĝ_k be the gradient of `truncated(k, 2k)`: all terms that reach k steps back, none that
    reaches 2k. What doubling k adds is measured, and if it falls from here on by the same factor or
    a smaller one, as it does where gradients decay geometrically, what is left out is bounded:

        d_k = ‖ĝ_{2k} - ĝ_k‖,    ρ = d_k / d_{k/2}                                           (1)
        ‖ĝ_k - g‖ ≤ d_k + d_{2k} + d_{4k} + … ≤ d_k / (1 - ρ)                                (2)
        ‖g‖       ≥ ‖ĝ_{2k}‖ - ρ d_k / (1 - ρ)                                               (3)

    k is doubled until (2) / (3) is within the tolerance, so nothing is ever differentiated that
    reaches farther than 4k. It is an estimate: a dependence longer than all that was looked at is
    not in it; `truncation_bias` compares with the exact gradient.

    Args:
        loss: as for `flow`, like the other arguments.
        params: ″.
        *args: ″.
        tolerance: of the relative bias, above 0.
        loop: the exact Loop that runs each window.

    Returns:
        An `AdaptiveTruncation`. Not for use under jit.

    Time: that of a gradient, and of compiling it, for each doubling.

    Source: C. Aicher, N. Foti, E. Fox, "Adaptively truncating backpropagation through time to
    control gradient bias", UAI 2019; there the decay is that of the norms of adjoints, and the
    bound has a constant that must be known.
    """
    check.require_positive("tolerance", tolerance)
    steps, ks = _lengths(loss, params, args)
    loops = {k: truncated(k, 2 * k, loop=loop) for k in ks}
    found: list[np.ndarray] = []
    for k in loops:
        found.append(_gradient(loss, params, args, loops[k]))
        if len(found) > 2 and (bias := _bound(*found[-3:])) <= tolerance:
            return AdaptiveTruncation(k // 2, bias, loops[k // 2])
    return AdaptiveTruncation(steps, 0.0, loop)


def _bound(by_half: np.ndarray, by_k: np.ndarray, by_double: np.ndarray) -> float:
    """(2) / (3) by the gradients at k/2, k and 2k; infinite where nothing decays."""
    before, change = (float(np.linalg.norm(g)) for g in (by_k - by_half, by_double - by_k))
    if change >= before:
        return np.inf if change else 0.0
    error = change / (1 - change / before)  # (2)
    size = float(np.linalg.norm(by_double)) - error * change / before  # (3)
    return error / size if size > 0 else np.inf


def _lengths(loss: Loss, params: Params, args: tuple[Any, ...]) -> tuple[int, list[int]]:
    """T, the longest sequence that the loss runs its loop over, and all powers of two below it."""
    check.require_concrete(params=params, args=args)
    lengths = of_each_call(lambda *call: check.num_steps(call[-1]), loss, params, args, bptt)
    check.require(lengths, "loss", "one that runs nothing by its loop", "at least one recurrence")
    steps = max(lengths)
    return steps, [2**i for i in range(steps.bit_length()) if 2**i < steps]


def _gradient(loss: Loss, params: Params, args: tuple[Any, ...], loop: Loop) -> np.ndarray:
    """All of it in one array, of float64; a complex number is two."""
    grads = jax.jit(jax.grad(lambda params: loss(params, *args, loop=loop)))(params)
    parts = [np.asarray(g, complex).ravel() for g in jax.tree.leaves(grads)]
    return np.concatenate(parts).view(float)
