"""Randomly truncated backpropagation through time, whose expectation is the exact gradient."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.expression import Expression
from jaxrnn.loops.bptt import bptt
from jaxrnn.transforms.carry_gradient import ScaledInputs, scale_carry_gradient
from jaxrnn.types import Carry, Key, Loop, Params, PyTree, Step, StepResult, exact_loop


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class randomized(Expression):
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

    # A key is an array, which has no hash and may be traced: each object equals itself alone.
    key: Key = dataclasses.field(repr=False)
    keep: float
    _: dataclasses.KW_ONLY
    loop: Loop = bptt

    gradient = "stochastic"

    def __post_init__(self) -> None:
        check.require_key("key", self.key)
        keep = check.require_number("keep", self.keep)
        check.require(0 < keep <= 1, "keep", keep, "a probability in (0, 1]")
        exact_loop("loop", self.loop)
        self.replace_fields(keep=keep)

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the step over time; see `jaxrnn.Loop`."""
        params, carry = tree.checked_arguments(step, params, carry, xs)
        is_kept = jax.random.bernoulli(self.key, self.keep, (check.num_steps(xs),))
        factor = jnp.where(is_kept, 1 / self.keep, 0.0).at[:1].set(1.0)  # (1)
        return check.require_pair(
            "loop", self.loop(scale_carry_gradient(step), params, carry, ScaledInputs(xs, factor))
        )

    def of_part(self, index: int) -> "randomized":
        """The loop for part number `index` of a network, which draws numbers of its own."""
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, index))
