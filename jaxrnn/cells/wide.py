"""The dtypes of a cell: it computes in float32 at least, and keeps narrow what is kept over time.

If parameters are narrower than float32, a step computes in float32: products have narrow factors
and wide sums. Values that are kept from step to step or for the backward pass are narrow again,
except where the cell's zero state is wide.

For example, the dtypes of an LSTM with bfloat16 parameters: z_t, h and the kept gates are bfloat16,
c and its cotangent are float32, and within a step everything but the kernels is float32.
"""

import abc
import dataclasses

from jaxrnn import check, tree
from jaxrnn.cells import kernels
from jaxrnn.types import Array, Carry, Cell, Params, PyTree, Residuals, Weights


@dataclasses.dataclass(frozen=True, repr=False)
class SizedCell(Cell):
    """A cell with a hidden size and a dict of parameters; a subclass defines `parameter_shapes`.

    One of the parameters is `w_x (I, ...)`, which says how many features an input has.
    """

    hidden_size: int

    def __post_init__(self) -> None:
        check.require_int("hidden_size", self.hidden_size, least=1)

    @property
    @abc.abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each parameter; None stands for any size."""

    def _check_inputs(self, params: Params, xs: Array) -> None:
        name = self.expression_name
        check.require_params(name, params, self.parameter_shapes)
        check.require_features("xs", name, xs, size=params["w_x"].shape[0])


@dataclasses.dataclass(frozen=True, repr=False)
class WideCell(SizedCell):
    """A cell that computes in float32 at least.

    A subclass defines the methods `_advance`, `_adjoint` and `_gradients`. These have the contracts
    of `advance`, `adjoint` and `gradients`, but get arrays of float32 at least.
    """

    @abc.abstractmethod
    def _advance(self, w: Weights, carry: Carry, z: PyTree) -> tuple[Carry, PyTree]:
        """Computes `advance` in float32 at least."""

    @abc.abstractmethod
    def _adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Computes `adjoint` in float32 at least."""

    @abc.abstractmethod
    def _gradients(
        self, w: Weights, residuals: Residuals, deltas: PyTree
    ) -> tuple[Weights, PyTree]:
        """Computes `gradients` in float32 at least."""

    # Below, z tells the dtype of the parameters, since `project` computes in it; a carry may be
    # wider. The weights w stay narrow: `kernels.dot` casts its other factor to their dtype.

    def advance(self, w: Weights, carry: Carry, z: PyTree) -> tuple[Carry, PyTree]:
        """Calls `_advance` in float32 at least; carry and residuals keep their dtype."""
        dtype = check.float_dtype(z)
        wide_carry, wide_z = tree.cast((carry, z), kernels.at_least_float32(dtype))
        new_carry, saved = self._advance(w, wide_carry, wide_z)
        return tree.cast_like(new_carry, carry), tree.cast(saved, dtype)

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Calls `_adjoint` in float32 at least."""
        dtype = check.float_dtype(residuals.z)
        wide = tree.cast((residuals, d_carry), kernels.at_least_float32(dtype))
        d_previous, delta = self._adjoint(w, *wide)
        return tree.cast_like(d_previous, residuals.previous_carry), tree.cast(delta, dtype)

    def gradients(self, w: Weights, residuals: Residuals, deltas: PyTree) -> tuple[Weights, PyTree]:
        """Calls `_gradients` in float32 at least."""
        dtype = check.float_dtype(residuals.z)
        wide = tree.cast((residuals, deltas), kernels.at_least_float32(dtype))
        return tree.cast(self._gradients(w, *wide), dtype)
