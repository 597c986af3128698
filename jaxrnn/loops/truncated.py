"""Truncated backpropagation through time: no gradient reaches beyond a window."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import check, tree
from jaxrnn.expression import Expression
from jaxrnn.loops.bptt import bptt
from jaxrnn.types import Carry, Loop, Params, PyTree, Step, StepResult, exact_loop


@dataclasses.dataclass(frozen=True, repr=False)
class truncated(Expression):
    """A Loop with the gradient of BPTT(k2; k1): every k1 steps it reaches k2 steps back.

    Steps are counted from 0 and divided into segments of k1 steps. With c̄ = stop_gradient(c), the
    outputs of segment s, y_t with s k1 ≤ t < (s+1) k1, belong to a window that begins at the step

        p_s = max(0, (s+1) k1 - k2)                                                          (1)
        c_{p_s - 1} → c̄_{p_s - 1}    if p_s > 0                                              (2)

    and ends with the segment. The last carry belongs to the last window. So the sum ∂h_t/∂W = Σ_i
    (Π_{j=i+1..t} ∂f_j/∂h_{j-1}) ∂f_i/∂W keeps the terms with i ≥ p_s. The gradient of the initial
    carry comes from all windows that begin at step 0, and with k2 ≥ T the gradient is exact. With
    k2 = k1, windows are segments. A stack runs layer by layer and has such windows in each layer,
    so it reaches back by the sum of their lengths.

    Args:
        k1: the number of steps in a segment, at least 1; T need not be divisible by it.
        k2: the number of steps in a window, at least k1; defaults to k1.
        loop: the exact Loop that runs each window.

    Raises:
        TypeError, ValueError: if k1 or k2 is not an int, k1 < 1, or k2 < k1; for a loop that is not
            exact.

    Equal arguments construct equal loops.

    Gradient: biased unless k2 ≥ T. Time: k2 / k1 times that of `loop`, since windows overlap.
    Memory: O(T k2 / k1) in one call; O(k2) if each window has its own parameter update, as in
    `jaxrnn.training.truncated_trainer`. Compile time does not depend on T.

    Source: R. Williams, J. Peng, "An efficient gradient-based algorithm for on-line training of
    recurrent network trajectories", Neural Computation 2 (1990).

    Examples:
        >>> loop = jaxrnn.truncated(32, 64)
        >>> loop.gradient
        'truncated'
        >>> loop.window_start(100)  # the first step that the gradient of y_100 reaches
        64
    """

    k1: int
    k2: int | None = None
    _: dataclasses.KW_ONLY
    loop: Loop = bptt

    gradient = "truncated"

    def __post_init__(self) -> None:
        check.require_int("k1", self.k1, least=1)
        k2 = self.k1 if self.k2 is None else check.require_int("k2", self.k2, least=1)
        check.require(k2 >= self.k1, "k2", k2, f"an int of at least k1 = {self.k1}")
        exact_loop("loop", self.loop)
        self.replace_fields(k2=None if k2 == self.k1 else k2)

    @property
    def window_length(self) -> int:
        """k2, which defaults to k1."""
        return self.k1 if self.k2 is None else self.k2

    def window_start(self, t: int) -> int:
        """Returns p_s of (1), the first step that the gradient of y_t reaches."""
        return max(0, (t // self.k1 + 1) * self.k1 - self.window_length)

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the step over time; see `jaxrnn.Loop`."""
        params, carry = tree.checked_arguments(step, params, carry, xs)
        k1 = self.k1
        k2 = self.window_length
        overlap = k2 - k1  # the steps of a window before its segment
        head = k2 // k1 * k1 if overlap else 0  # the outputs before this step reach step 0
        segments, rest = divmod(check.num_steps(xs) - head, k1)
        if segments < 0 or (segments == 0 and not overlap):
            return check.require_pair("loop", self.loop(step, params, carry, xs))

        def run(carry: Carry, xs: PyTree) -> tuple[Carry, list[PyTree]]:
            """Runs the steps of xs; the list has their outputs, or nothing if there is no step."""
            if check.num_steps(xs) == 0:
                return carry, []
            carry, ys = check.require_pair("loop", self.loop(step, params, carry, xs))
            return carry, [ys]

        # The outputs before `head` have windows that begin at step 0, so no gradient is stopped.
        # `start` is the state at which the first window after them begins.
        start, start_ys = run(carry, tree.slice_time(xs, 0, head - overlap))
        last, head_ys = run(start, tree.slice_time(xs, head - overlap, head))

        def window(
            carries: tuple[Carry, Carry], inputs: tuple[jax.Array, PyTree]
        ) -> tuple[tuple[Carry, Carry], PyTree]:
            """Runs a window; carries from window to window its first state and its last one.

            The next window begins k1 steps later, so its first state is that after k1 steps.
            """
            s, xs_s = inputs
            start, _ = carries
            start = _stop_gradient(start, (s > 0) | (head > 0))  # (2)
            start, ys = run(start, tree.slice_time(xs_s, 0, k1))
            last, more_ys = run(start, tree.slice_time(xs_s, k1, k2))
            return (start, last), tree.slice_time(_concatenate(*ys, *more_ys), overlap, k2)

        parts = [*start_ys, *head_ys]
        if segments:  # a scan of no steps fails under jax.disable_jit
            inputs = jnp.arange(segments), _windows(xs, head - overlap, segments, k1, k2)
            (start, last), ys = jax.lax.scan(window, (start, last), inputs)
            parts.append(jax.tree.map(lambda y: jnp.reshape(y, (segments * k1, *y.shape[2:])), ys))
        if rest:
            xs_s = tree.slice_time(xs, head - overlap + segments * k1, None)
            last, (ys,) = run(_stop_gradient(start, True), xs_s)
            parts.append(tree.slice_time(ys, overlap, None))
        return last, _concatenate(*parts)


def _stop_gradient(carry: Carry, where: jax.Array | bool) -> Carry:
    """Returns the carry, without a gradient where the condition is True."""
    return jax.tree.map(lambda c: jnp.where(where, jax.lax.stop_gradient(c), c), carry)


def _concatenate(*parts: PyTree) -> PyTree:
    return jax.tree.map(lambda *ys: jnp.concatenate(ys), *parts)


def _windows(xs: PyTree, begin: int, count: int, k1: int, k2: int) -> PyTree:
    """Returns windows of k2 steps that begin k1 steps apart, each leaf `(count, k2, ...)`."""
    if k1 == k2:  # windows do not overlap, so no step is copied
        end = begin + count * k1
        return jax.tree.map(lambda x: jnp.reshape(x[begin:end], (count, k1, *x.shape[1:])), xs)
    steps = begin + k1 * np.arange(count)[:, None] + np.arange(k2)
    return jax.tree.map(lambda x: x[steps], xs)
