"""A plain step as a Cell, whose backward pass is the step's own pullback."""

import dataclasses
from typing import Any

import jax
from jax.typing import DTypeLike

from jaxrnn import tree
from jaxrnn.types import Carry, Cell, Key, Params, PyTree, Residuals, Step, Weights


@dataclasses.dataclass(frozen=True, repr=False)
class PlainStep(Cell):
    """The carry of a plain step, as a Cell whose inputs are not projected.

    The step must not close over traced values.
    """

    step: Step

    def init(self, key: Key, input_size: int, dtype: DTypeLike = float) -> Params:
        """A plain step has no initial parameters."""
        raise NotImplementedError

    def initial_carry(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = float) -> Carry:
        """A plain step has no zero state."""
        raise NotImplementedError

    def project(self, params: Params, xs: PyTree) -> PyTree:
        """Returns the inputs."""
        return xs

    def output(self, params: Params, carries: Carry) -> Carry:
        """Returns the carries; outputs of the step are computed from them."""
        return carries

    def advance(self, w: Weights, carry: Carry, z: PyTree) -> tuple[Carry, PyTree]:
        """Runs the step."""
        return self.step(w, carry, z)[0], ()

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, Carry]:
        """Returns λ_{t-1}, and λ_t as δ_t."""

        def new_carry(carry: Carry) -> Carry:
            return self.step(w, carry, residuals.z)[0]

        ((d_previous,),) = tree.vjp_inexact(new_carry, residuals.previous_carry)(d_carry)
        return d_previous, d_carry

    def gradients(self, w: Weights, residuals: Residuals, deltas: Carry) -> tuple[Weights, Any]:
        """Returns the gradients of parameters and inputs, of all steps at once."""

        def new_carries(w: Weights, zs: PyTree) -> Carry:
            step = jax.vmap(self.advance, in_axes=(None, 0, 0))
            return step(w, residuals.previous_carry, zs)[0]

        ((d_w, d_zs),) = tree.vjp_inexact(new_carries, w, residuals.z)(deltas)
        return d_w, d_zs
