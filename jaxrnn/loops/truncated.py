"""Truncated backpropagation through time: segments with the gradient cut between them."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn import check
from jaxrnn.loops.bptt import bptt
from jaxrnn.types import Carry, Loop, Params, PyTree, Step


def truncated(k1: int, k2: int | None = None, *, loop: Loop = bptt) -> Loop:
    """A Loop whose gradient does not cross from one segment of k1 steps into the one before.

    With c̄ = stop_gradient(c) and steps counted from 0,

        c_t = step(params, c̄_{t-1}, x_t)    if t > 0 and t ≡ 0 mod k1                        (1)
        c_t = step(params, c_{t-1}, x_t)    otherwise                                        (2)

    so that of the products of Jacobians in ∂h_t/∂W = Σ_i (Π_{j=i+1..t} ∂f_j/∂h_{j-1}) ∂f_i/∂W only
    those within one segment remain. Cuts lie at positions of the array. The carry that starts the
    sequence is not cut, so k1 ≥ T is exact.

    Args:
        k1: steps in a segment, at least 1; T need not be divisible by it.
        k2: None. How far back each gradient reaches, if farther than its segment, comes with a
            later release; anything else is a ValueError.
        loop: the Loop that runs each segment.

    Returns:
        A Loop with the values of every other; equal arguments give the same function.

    Gradient: biased unless k1 ≥ T. Time: that of `loop`. Memory O(T) where all outputs are kept.
    Compile time does not depend on T.

    Source: R. Williams, J. Peng, "An efficient gradient-based algorithm for on-line training of
    recurrent network trajectories", Neural Computation 2 (1990).
    """
    check.integer("k1", k1, least=1)
    if k2 is not None:
        raise ValueError(f"k2: got {k2!r}, expected None (a longer reach comes in a later release)")
    return _truncated(k1, check.function("loop", loop))


@functools.cache
def _truncated(k1: int, loop: Loop) -> Loop:
    def segmented(step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[Carry, PyTree]:
        check.step_fits(step, params, carry, xs)
        segments, rest = divmod(check.length(xs), k1)
        if segments == 0:
            return loop(step, params, carry, xs)
        whole = segments * k1

        def segment(carry, at_s):
            s, xs_s = at_s
            return loop(step, params, _cut(carry, s > 0), xs_s)  # (1)

        in_segments = jax.tree.map(
            lambda x: jnp.reshape(x[:whole], (segments, k1, *jnp.shape(x)[1:])), xs
        )
        carry, ys = lax.scan(segment, carry, (jnp.arange(segments), in_segments))
        ys = jax.tree.map(lambda y: jnp.reshape(y, (whole, *y.shape[2:])), ys)
        if rest == 0:
            return carry, ys
        last_xs = jax.tree.map(lambda x: x[whole:], xs)
        carry, last_ys = loop(step, params, _cut(carry, True), last_xs)
        return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, last_ys)

    segmented.__name__ = f"truncated({k1})"
    # See types.cuts_of.
    setattr(segmented, "cut_before", lambda t: (t > 0) & (t % k1 == 0))
    return segmented


def _cut(carry: Carry, where: jax.Array | bool) -> Carry:
    """The carry, its gradient stopped where the condition holds."""
    return jax.tree.map(lambda c: jnp.where(where, lax.stop_gradient(c), c), carry)
