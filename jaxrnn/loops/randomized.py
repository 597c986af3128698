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
    """A Loop that truncates the gradient before randomly drawn steps, and stays unbiased.

        ξ_t     = 1/p with probability p, else 0,    t = 1, …, T-1                           (1)
        λ_{t-1} = ξ_t (∂c_t/∂c_{t-1})ᵀ λ_t + ∂ℓ_{t-1}/∂c_{t-1}                               (2)

    All ξ_t are independent and have mean 1, and (2) is linear in each, so the expectation of the
    gradient is the exact gradient. A term g that reaches n steps back is multiplied by n of the
    ξ_t. Their product has the second moment p^-n, so the variance of the term is

        (p^-n - 1) |g|²                                                                      (3)

    The variance stays finite as T grows only if gradients shrink faster than p^{n/2}. All rows of a
    batch share the ξ_t. The mean distance between truncations is 1 / (1 - p) steps. The gradient of
    the initial carry is not truncated. Each part of a network draws its own ξ_t: a path through
    both directions of time may cross step t twice, and E[ξ_t²] = 1/p.

    Args:
        key: a key of `jax.random.key`, which draws ξ. Use another key for every update. It may be
            traced.
        keep_probability: p, in (0, 1]; with 1 the gradient is exact.
        loop: the exact Loop that runs the sequence.

    Raises:
        TypeError, ValueError: for a p outside (0, 1], a wrong key, or a loop that is not exact.

    Gradient: unbiased, with the variance of (3). Time and memory: those of `loop`.

    Source: C. Tallec, Y. Ollivier, "Unbiasing truncated backpropagation through time" (2017),
    arXiv:1705.08209; A. Zhang, Z. Lipton, M. Li, A. Smola, "Dive into deep learning", 9.7.

    Examples:
        >>> loop = jaxrnn.randomized(jax.random.key(0), 0.98)
        >>> loop.gradient
        'stochastic'
    """

    # A key is an array, which has no hash and may be traced, so an object equals only itself.
    key: Key = dataclasses.field(repr=False)
    keep_probability: float
    _: dataclasses.KW_ONLY
    loop: Loop = bptt

    gradient = "stochastic"

    def __post_init__(self) -> None:
        check.require_key("key", self.key)
        p = check.require_number("keep_probability", self.keep_probability)
        check.require(0 < p <= 1, "keep_probability", p, "a probability in (0, 1]")
        exact_loop("loop", self.loop)
        self.replace_fields(keep_probability=p)

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the step over time; see `jaxrnn.Loop`."""
        params, carry = tree.checked_arguments(step, params, carry, xs)
        p = self.keep_probability
        is_kept = jax.random.bernoulli(self.key, p, (check.num_steps(xs),))
        factor = jnp.where(is_kept, 1 / p, 0.0).at[:1].set(1.0)  # (1)
        scaled_step = scale_carry_gradient(step)
        result = self.loop(scaled_step, params, carry, ScaledInputs(xs, factor))
        return check.require_pair("loop", result)

    def of_part(self, index: int) -> "randomized":
        """Returns the loop for part number `index` of a network, which draws other numbers."""
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, index))
