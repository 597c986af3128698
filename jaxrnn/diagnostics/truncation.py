"""What does truncation cost, and how far back must a gradient reach to cost less?"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn import check, tree
from jaxrnn.diagnostics.flow import Loss
from jaxrnn.loops.bptt import bptt
from jaxrnn.loops.truncated import truncated
from jaxrnn.types import Loop, Params, PyTree, Stepped


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


class Adapted(NamedTuple):
    """How far back a gradient has to reach.

    Fields:
        k: steps that every output reaches back, at least.
        bias: ‖ĝ - g‖ / ‖g‖, as it is estimated; 0 where nothing is truncated.
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
    steps = _steps(loss, params, args)
    ks = [2**i for i in range((steps - 1).bit_length())] if ks is None else ks
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


def adaptive(
    loss: Loss, params: Params, *args: Any, tolerance: float = 0.1, loop: Loop = bptt
) -> Adapted:
    """The least reach k at which truncation is estimated to bias the gradient by no more than that.

    Let ĝ_k be the gradient of `truncated(k, 2k)`, every term of which reaches k steps back and none
    2k. If what is left out decays with the reach, ĝ_k - g = β^k v, then lengths that double give

        d_k = ‖ĝ_k - ĝ_{k/2}‖ = (q - q²) ‖v‖ of q = β^{k/2},    d_{k/2} = (p - p²) ‖v‖, p² = q   (1)
        r   = d_k / d_{k/2} = p (1 + p),    so    p = (√(1 + 4r) - 1) / 2                        (2)
        ε_k = ‖ĝ_k - g‖ = d_k q / (1 - q),    δ_k = ε_k / (‖ĝ_k‖ - ε_k)                          (3)

    and δ_k is no less than the relative bias. k is doubled until δ_k is within the tolerance, then
    brought back as far as (3) allows by β. So nothing is ever differentiated that reaches farther
    than 2k steps. It is an estimate: what decays slower than all that was seen so far is not in it;
    `truncation_bias` tells the bias itself.

    Args:
        loss: as for `flow`, like the other arguments.
        params: ″.
        *args: ″.
        tolerance: of the relative bias, above 0.
        loop: the exact Loop that runs each window.

    Returns:
        An `Adapted`. Not for use under jit.

    Time: that of a gradient, and of compiling it, for each doubling; each reaches 2k back.

    Source: C. Aicher, N. Foti, E. Fox, "Adaptively truncating backpropagation through time to
    control gradient bias", UAI 2019; there the decay is that of the norms of adjoints, and (3) a
    bound with a constant that has to be known.
    """
    check.positive("tolerance", tolerance)
    steps = _steps(loss, params, args)
    k, found, change = 1, np.zeros(0), 0.0
    while k < steps:
        by_k = truncated(k, 2 * k, loop=loop)
        last, found = found, _gradient(loss, params, args, by_k)
        before, change = change, float(np.linalg.norm(found - last)) if k > 1 else 0.0
        if k > 2:
            ratio = change / before if before else math.inf if change else 0.0
            p = (math.sqrt(1 + 4 * ratio) - 1) / 2  # (2)
            error = change * p**2 / (1 - p**2) if p < 1 else math.inf
            size = float(np.linalg.norm(found)) - error
            bias = error / size if size > 0 else math.inf  # (3)
            if bias <= tolerance:
                ...
        k *= 2
    return Adapted(steps, 0.0, loop)
