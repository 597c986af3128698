"""`lax.scan` as a Loop; its gradient, derived by JAX, is the reference for all other loops."""

import functools

from jax import lax

from jaxrnn import tree
from jaxrnn.types import Carry, Params, PyTree, Step


def scan(step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[Carry, PyTree]:
    """Runs a step over time by `lax.scan`; JAX differentiates it, in any mode."""
    params, carry = tree.checked_arguments(step, params, carry, xs)
    return lax.scan(functools.partial(step, params), carry, xs)
