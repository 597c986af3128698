"""The whole surface at once: cell, loop, mask, reset, direction, dtype and batch axes, drawn.

What `unroll` gives under a loop, values and gradient, is what it gives under `scan`, whose windows
are those of the loop where that truncates; what masks and resets mean is the same for both sides,
and judged in test_sequence_laws. A case that fails is printed, and pasted into
`holds(...)` runs alone. A few cases are drawn each time; a thousand, and those that fail shrunk, by
`pytest -m thorough tests/test_surface.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from reference import distance, inner, noise
from test_laws import judge_of

import jaxrnn

CELLS, LOOPS = dict(jaxrnn.CELLS), dict(jaxrnn.LOOPS)
I, H = 2, 8  # a layer norm over few units can be as steep as one likes, and then loops round apart
# Of values and of gradients.
LIMITS = {"float64": (1e-13, 1e-12), "float32": (1e-4, 1e-3)}


class Case(NamedTuple):
    """One way to ask `unroll`; `padding` is "none", "mask" or "lengths"."""

    cell: str
    loop: str
    steps: int
    batch: tuple[int, ...]
    dtype: str
    padding: str
    reset: bool
    learned: bool
    reverse: bool
    seed: int


cases = st.builds(
    Case,
    cell=st.sampled_from([*CELLS]),
    loop=st.sampled_from([*LOOPS]),
    steps=st.integers(0, 9),
    batch=st.lists(st.integers(1, 3), max_size=3).map(tuple),
    dtype=st.sampled_from([*LIMITS]),
    padding=st.sampled_from(["none", "mask", "lengths"]),
    reset=st.booleans(),
    learned=st.booleans(),
    reverse=st.booleans(),
    seed=st.integers(0, 2**16),
)


def options(case: Case, draws: np.random.Generator) -> dict[str, Any]:
    """Masks and resets at random; whole rows may be padding."""
    shape, found = (case.steps, *case.batch), {"reverse": case.reverse}
    if case.padding == "mask":
        found["mask"] = draws.random(shape) < draws.random()
    if case.padding == "lengths":
        found["lengths"] = draws.integers(0, case.steps + 1, case.batch)
    if case.reset:
        found["reset"] = draws.random(shape) < 0.3
    return found


def holds(case: Case) -> None:
    """The law, for one case."""
    draws, dtype = np.random.default_rng(case.seed), jnp.dtype(case.dtype)
    cell = CELLS[case.cell](H)
    params = cell.init(jax.random.key(case.seed), I, dtype)
    params = jax.tree.map(lambda p, n: p + n.astype(p.dtype) / 8, params, noise(draws, params))

    def like(tree):
        return jax.tree.map(lambda x, n: n.astype(x.dtype), tree, noise(draws, tree))

    carry, start = (like(cell.initial_carry(case.batch, dtype)) for _ in range(2))
    xs = like(jnp.zeros((case.steps, *case.batch, *cell.feature_shape(I)), dtype))
    said = options(case, draws)
    mask = said.get("mask")
    if case.padding == "lengths":
        mask = jaxrnn.lengths_to_mask(jnp.asarray(said["lengths"]), case.steps)
    if mask is not None:
        xs = jnp.where(jaxrnn.tree.expand_mask(mask, xs), xs, jnp.asarray(np.nan, dtype))

    def run(loop, args):
        params, carry, xs, start = args
        learned = {"reset_carry": start} if case.reset and case.learned else {}
        return jaxrnn.unroll(cell, params, xs, carry=carry, loop=loop, **said, **learned)

    args = params, carry, xs, start
    v = like(jax.eval_shape(lambda args: run(jaxrnn.scan, args), args))
    loop = LOOPS[case.loop]
    judge = judge_of(loop) if case.steps else jaxrnn.scan

    @jax.jit
    def both(args):
        def gradient(loop):
            return jax.grad(lambda args: inner(v, run(loop, args)))(args)

        return (run(loop, args), run(judge, args)), (gradient(loop), gradient(judge))

    values, gradients = both(args)
    for (got, wanted), limit in zip((values, gradients), LIMITS[case.dtype], strict=True):
        assert distance(got, wanted) < limit


# To shrink a case, each step of it is compiled: not in the ordinary suite.
few = settings(
    max_examples=6, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
)
many = settings(max_examples=1000, deadline=None, suppress_health_check=[*HealthCheck])


@few
@given(case=cases)
def test_every_loop_is_scan_wherever_it_is_asked(case):
    holds(case)


@pytest.mark.thorough
@many
@given(case=cases)
def test_every_loop_is_scan_in_a_thousand_cases(case):
    holds(case)
