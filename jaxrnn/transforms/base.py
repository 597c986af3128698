"""A cell around another cell, which keeps everything that it does not change.

A loop sees one Cell with the eight methods, whatever is inside. A transformation with inputs or
parameters of its own wraps those of the inner cell on the way in (`project`, `prepare`), and takes
them apart again in each method that the loop calls. For `masked(gru(4))`,

    xs                      MaskedInputs(x, mask)
    z = project(params, xs) MaskedInputs(gru's z, mask)
    advance(w, carry, z)    calls gru.advance(w, carry, gru's z), and selects by the mask
    residuals               gru's, but with z = MaskedInputs(gru's z, mask)
"""

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.cells.kernels import NO_GRADIENT
from jaxrnn.types import Carry, Cell, Key, Network, Params, PyTree, Residuals, Step, Weights


def require_cell_or_plain_step(step: Cell | Step) -> None:
    """Raises an error unless a transformation can change the carry of `step`.

    A Network would run as one plain step, without the hand-written backward passes of its cells.
    """
    check.require_callable("step", step)
    expected = "a Cell or a plain Step; in a Network, transform each of its cells"
    check.require(not isinstance(step, Network), "step", step, expected, TypeError)


@dataclasses.dataclass(frozen=True, repr=False)
class TransformedCell(Cell):
    """A Cell that passes everything on to `cell`; a transformation overrides what it changes.

    Its backward pass is hand-written if that of the inner cell is hand-written. A transformation
    that overrides `advance` overrides `adjoint` and `gradients` too, since a hand-written backward
    pass does not follow a change of the forward pass.
    """

    cell: Cell

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Calls the inner cell."""
        return self.cell.init(key, input_size, dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """Returns the zero state of the inner cell."""
        return self.cell.initial_carry(batch_shape, dtype)

    def project(self, params: Params, xs: PyTree) -> PyTree:
        """Calls the inner cell."""
        return self.cell.project(params, xs)

    def prepare(self, params: Params) -> Weights:
        """Calls the inner cell."""
        return self.cell.prepare(params)

    def advance(self, w: Weights, carry: Carry, z: PyTree) -> tuple[Carry, PyTree]:
        """Calls the inner cell."""
        return self.cell.advance(w, carry, z)

    def output(self, params: Params, carries: Carry) -> PyTree:
        """Calls the inner cell."""
        return self.cell.output(params, carries)

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Calls the inner cell."""
        return self.cell.adjoint(w, residuals, d_carry)

    def gradients(self, w: Weights, residuals: Residuals, deltas: PyTree) -> tuple[Weights, PyTree]:
        """Calls the inner cell."""
        return self.cell.gradients(w, residuals, deltas)

    @property
    def has_handwritten_backward(self) -> bool:
        """Whether the inner cell has a hand-written backward pass."""
        return self.cell.has_handwritten_backward

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of the inner cell's inputs."""
        return self.cell.num_feature_axes

    def feature_shape(self, input_size: int) -> tuple[int, ...]:
        """Returns the feature axes of the inner cell's inputs."""
        return self.cell.feature_shape(input_size)

    @property
    def is_noisy(self) -> bool:
        """Whether the inner cell draws noise."""
        return self.cell.is_noisy

    def draw_noise(
        self, key: Key, params: Params, carry: Carry, xs: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Calls the inner cell."""
        return self.cell.draw_noise(key, params, carry, xs)


@dataclasses.dataclass(frozen=True, repr=False)
class ExtraInputCell(TransformedCell):
    """A TransformedCell whose inputs are a pair: those of the inner cell, and an extra input.

    The pair is a NamedTuple of two fields, such as `MaskedInputs(xs, mask)`, and `project` returns
    the same NamedTuple with the projected inputs as its first field. The extra input has no
    gradient, unless a subclass overrides `gradients`.
    """

    def _inner_residuals(self, residuals: Residuals) -> Residuals:
        """Returns the residuals of the inner cell, which does not know of the extra input."""
        inner_z, _ = residuals.z
        return residuals._replace(z=inner_z)

    def gradients(self, w: Weights, residuals: Residuals, deltas: PyTree) -> tuple[Weights, PyTree]:
        """Calls the inner cell."""
        d_w, d_zs = self.cell.gradients(w, self._inner_residuals(residuals), deltas)
        inputs_type = type(residuals.z)  # such as MaskedInputs
        return d_w, inputs_type(d_zs, NO_GRADIENT)
