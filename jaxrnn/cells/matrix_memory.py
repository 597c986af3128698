"""Cells whose heads each have a matrix as their memory, in which they store values by keys."""

import abc
import dataclasses

from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.cells import heads, kernels
from jaxrnn.cells.wide import WideCell
from jaxrnn.types import Params, PyTree, Residuals


@dataclasses.dataclass(frozen=True, repr=False)
class MatrixMemoryCell(WideCell):
    """The sizes of such a cell, and the parameters `w_x` and `b` of the projections of its inputs.

    With orthonormal keys, M = Σ kᵀ v holds one value for each key, and k M reads the value of k. A
    step writes a value, and reads one for a query. What it writes and reads follows from the input
    alone, so no parameter is used in the loop: the gradients of the parameters are one product over
    time, by JAX's derivative of `project`.
    """

    num_heads: int = dataclasses.field(default=1, kw_only=True)
    key_size: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        heads.require_num_heads(self.num_heads, self.hidden_size)
        if self.key_size is None:
            self.replace_fields(key_size=self._value_size)
        check.require_int("key_size", self.key_size, least=1)

    @property
    def _value_size(self) -> int:
        """V, the size of a value."""
        return self.hidden_size // self.num_heads

    @property
    def _key_shape(self) -> tuple[int, int]:
        """`(N, K)`, the shape of a key for each head."""
        assert self.key_size is not None  # set in __post_init__
        return self.num_heads, self.key_size

    @property
    @abc.abstractmethod
    def _widths(self) -> tuple[int, ...]:
        """The number of columns of each projection of the input."""

    @property
    def parameter_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each parameter; None stands for any size."""
        width = sum(self._widths)
        return {"w_x": (None, width), "b": (width,)}

    def _zero_memory(self, batch_shape: tuple[int, ...], dtype: DTypeLike) -> heads.Matrices:
        """Returns M = 0 of float32 at least, since a memory is a sum over time."""
        shape = (*self._key_shape, self._value_size)
        return kernels.zeros(shape, batch_shape, kernels.at_least_float32(dtype))

    def prepare(self, params: Params) -> None:
        """Returns None, since the loop reads no parameters."""
        return

    def _gradients(self, w: None, residuals: Residuals, deltas: PyTree) -> tuple[None, PyTree]:
        return None, deltas  # ∂L/∂z_t = δ_t
