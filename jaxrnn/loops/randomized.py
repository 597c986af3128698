"""Randomly truncated backpropagation through time, whose expectation is the exact gradient."""

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.loops.bptt import bptt
from jaxrnn.transforms.crossed import Crossed, crossed
from jaxrnn.types import Carry, Key, Loop, Params, PyTree, Step, exact_loop


def randomized(key: Key, keep: float, *, loop: Loop = bptt) -> Loop:
    """A Loop that cuts the gradient before steps drawn at random, and is unbiased all the same.

        ξ_t     = 1/p with probability p, else 0,    t = 1, …, T-1                           (1)
        λ_{t-1} = ξ_t (∂c_t/∂c_{t-1})ᵀ λ_t + ∂ℓ_{t-1}/∂c_{t-1}                               (2)

    All ξ_t are independent and of mean 1, and (2) is linear in each, so the expectation of the
    gradient is the exact one. What reaches n steps back is multiplied by the product of n of them,
    of second moment p^-n, so that a term g of lag n has the variance

        (p^-n - 1) |g|²                                                                      (3)

    which stays finite as T grows only where gradients shrink faster than p^{n/2}. A cut is one for
    all rows of a batch. Between cuts lie 1 / (1 - p) steps in the mean. The carry that starts the
    sequence is not cut off. Each part of a network draws ξ of its own, by its place there, since a
    path through both directions of time may cross step t twice, and E[ξ_t²] = 1/p.

    Args:
        key: of `jax.random.key`; draws ξ. Take another for every update; it may be traced.
        keep: p, in (0, 1]; 1 is exact.
        loop: the exact Loop that runs the sequence.

    Returns:
        A Loop with the values of every other.

    Raises:
        TypeError, ValueError: for a p outside (0, 1], what is no key, and a loop that is not exact.

    Gradient: unbiased, with the variance of (3). Time and memory: those of `loop`.

    Source: C. Tallec, Y. Ollivier, "Unbiasing truncated backpropagation through time" (2017),
    arXiv:1705.08209; A. Zhang, Z. Lipton, M. Li, A. Smola, "Dive into deep learning", 9.7.
    """
    check.key("key", key)
    keep = check.number("keep", keep)
    check.that(0 < keep <= 1, "keep", keep, "a probability in (0, 1]")
    exact_loop("loop", loop)

    def cut_at_random(step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[Carry, PyTree]:
        params, carry = tree.fitted(step, params, carry, xs)
        kept = jax.random.bernoulli(key, keep, (check.length(xs),))
        factor = jnp.where(kept, 1 / keep, 0.0).at[:1].set(1.0)  # (1)
        return check.looped("loop", loop(crossed(step), params, carry, Crossed(xs, factor)))

    def of_part(index: int) -> Loop:
        return randomized(jax.random.fold_in(key, index), keep, loop=loop)

    cut_at_random.__name__ = f"randomized({keep})"
    # See types.gradient_of and types.loop_of_part.
    setattr(cut_at_random, "gradient", "stochastic")
    setattr(cut_at_random, "of_part", of_part)
    return cut_at_random
