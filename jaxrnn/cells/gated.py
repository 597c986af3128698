"""The shared parts of cells with gates: parameters, dtypes, projection of the inputs.

Dropout acts in two places of a cell, and `jaxrnn.transforms` sets the mask of each:
`RecurrentKernel.dropout_mask` scales the state before a product, `GateInputs.dropout_mask` scales
the candidate. Both default to None.

The gates of a cell are a namedtuple, such as `GRUGates(r, z, n)`. It has no types, since it serves
for the initial biases (numbers), for pre-activations, values and cotangents (arrays).
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn import check, tree
from jaxrnn.cells import kernels
from jaxrnn.cells.orthogonal import orthogonal
from jaxrnn.cells.wide import SizedCell, WideCell
from jaxrnn.types import Array, Carry, Key, Params, PyTree, State, Weights


class GateInputs(NamedTuple):
    """The contribution of the input to the gates at a step.

    Fields:
        gates: the pre-activations from the input, one array `(*lead, H)` for each gate.
        dropout_mask: `(*lead, H)`, a factor of the candidate; None without dropout.
    """

    gates: PyTree
    dropout_mask: Array | None = None


class GateCotangents(NamedTuple):
    """The cotangents of the pre-activations of the gates.

    Fields:
        gates: one array for each gate.
        extra: the cotangent of a further value that a variant of a cell computes.
    """

    gates: PyTree
    extra: State


class Parameter(NamedTuple):
    """The shape and the initializer of a parameter of a cell.

    Fields:
        shape: the shape of the array.
        initializer: `(key, shape, dtype) -> array`, like the functions of `jax.nn.initializers`.
    """

    shape: tuple[int, ...]
    initializer: Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True, repr=False)
class GateParameters(SizedCell):
    """The parameters of a cell with gates, and the projection of its inputs.

    The parameters are `w_x (I, G·H)`, Lecun-normal, `w_h (S, G·H)`, orthogonal for each gate,
    `b (G·H)`, and the `extra_parameters` of the cell. A subclass defines its gates in
    `gate_biases`.
    """

    @property
    @abc.abstractmethod
    def gate_biases(self) -> PyTree:
        """The initial value of each gate's part of `b`, a tuple with one number for each gate.

        It is a NamedTuple of the gates if `project` returns such a NamedTuple.
        """

    @property
    def extra_parameters(self) -> Mapping[str, Parameter]:
        """The parameters other than `w_x`, `w_h` and `b`, by name."""
        return {}

    @property
    def state_size(self) -> int:
        """S, the number of features of h in the recurrent product; 0 without `w_h`."""
        return self.hidden_size

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the initial parameters."""
        check.require_int("input_size", input_size, least=1)
        wide = kernels.at_least_float32(dtype)
        num_gates = len(self.gate_biases)
        extra = self.extra_parameters
        check.require_key("key", key)
        keys = jax.random.split(key, 1 + num_gates + len(extra))
        key_x = keys[0]
        keys_h = keys[1 : 1 + num_gates]
        keys_extra = keys[1 + num_gates :]
        lecun_normal = jax.nn.initializers.lecun_normal()
        w_x = lecun_normal(key_x, (input_size, num_gates * self.hidden_size), wide)
        biases = [jnp.full(self.hidden_size, bias, wide) for bias in self.gate_biases]
        params = {"w_x": w_x, "b": kernels.join_gates(*biases)}
        if self.state_size:
            gate_shape = (self.state_size, self.hidden_size)
            # As one batch, so that the program has one iteration, and not one for each gate.
            gate_kernels = jax.vmap(lambda key_h: orthogonal(key_h, gate_shape, wide))(keys_h)
            params["w_h"] = kernels.join_gates(*gate_kernels)
        for key_extra, (name, parameter) in zip(keys_extra, extra.items(), strict=True):
            params[name] = parameter.initializer(key_extra, parameter.shape, wide)
        return kernels.cast_parameters(params, dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """Returns the zero state h."""
        return kernels.zeros(self.hidden_size, batch_shape, dtype)

    def output(self, params: Params, carries: Carry) -> State:
        """Returns the state itself, y = h."""
        return carries

    def project(self, params: Params, xs: Array) -> PyTree:
        """Returns the contribution of the input to the gates, `GateInputs` of the gates'
        namedtuple.
        """
        gates = self.gate_biases._make(self.project_gates(params, xs))  # such as GRUGates
        return GateInputs(gates)

    def project_gates(self, params: Params, xs: Array) -> list[jax.Array]:
        """Checks params and xs, and returns x W_x + b, one array for each gate."""
        self._check_inputs(params, xs)
        xs = jnp.asarray(xs, params["w_x"].dtype)
        num_gates = len(self.gate_biases)
        if tree.is_surely_less(xs.size, len(params["w_x"]) ** 2):
            # With fewer rows than inputs, as in streaming, splitting the product is less work
            # than splitting the kernel.
            products = kernels.add_bias(xs @ params["w_x"], params["b"])
            return list(kernels.split_gates(products, num_gates))
        # Otherwise a product for each gate: its result is the array that the loop reads, and no
        # array of all gates over time is split.
        gate_kernels = kernels.split_gates(params["w_x"], num_gates)
        biases = kernels.split_gates(params["b"], num_gates)
        return [kernels.add_bias(xs @ w, b) for w, b in zip(gate_kernels, biases, strict=True)]

    @property
    def parameter_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each parameter; None stands for any size."""
        width = len(self.gate_biases) * self.hidden_size
        shapes: dict[str, tuple[int | None, ...]] = {"w_x": (None, width)}
        if self.state_size:
            shapes["w_h"] = (self.state_size, width)
        shapes["b"] = (width,)
        extra = {name: parameter.shape for name, parameter in self.extra_parameters.items()}
        return shapes | extra


@dataclasses.dataclass(frozen=True, repr=False)
class GatedCell(GateParameters, WideCell):
    """A cell with the parameters `w_x`, `w_h` and `b`, which computes in float32 at least.

    A subclass defines `gate_biases`, and the methods `_advance`, `_adjoint` and `_gradients` of
    `WideCell`.
    """

    def prepare(self, params: Params) -> Weights:
        """Returns the recurrent kernel with its transpose."""
        return kernels.recurrent_kernel(params["w_h"])
