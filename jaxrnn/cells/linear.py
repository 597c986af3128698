"""Cells that are linear in their state, with the backward pass that all of them share.

With λ_t = ∂L/∂c_t,

    c_t      = a_t ⊙ c_{t-1} + b_t                                                           (A1)
    λ_{t-1}  = λ_t ⊙ a_t                                                                     (A2)
    ∂L/∂a_t  = λ_t ⊙ c_{t-1},    ∂L/∂b_t = λ_t                                               (A3)

(A3) is summed over the axes that a or b does not have, such as time for a constant a. `advance`
saves nothing, since a follows from z. The equations also hold for complex numbers. JAX's cotangent
of a complex c is λ = ∂L/∂Re c - i ∂L/∂Im c, so that dL = Re Σ λ dc. So the adjoint of a holomorphic
step multiplies by its derivative a, and not by the conjugate of a.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact

from jaxrnn import check, tree
from jaxrnn.cells import kernels
from jaxrnn.cells.gated import GateInputs, GateParameters, Parameter
from jaxrnn.types import Array, Carry, Cell, Key, Params, PyTree, Residuals, Weights

# In the place of an array of a: the step replaces that array of the carry.
REPLACED: PyTree = None


class Affine(NamedTuple):
    """The map c ↦ a ⊙ c + b of a step.

    Fields:
        a: a tree with the structure of the carry; each array broadcasts to that of the carry. None
            (`REPLACED`) in the place of an array is a = 0: c_t = b_t for any c_{t-1}, NaN too.
        b: a tree with the structure of the carry; each array broadcasts to that of the carry.
    """

    a: PyTree
    b: PyTree


class LinearCell(Cell):
    """A cell whose step is elementwise affine in its carry, c_t = a_t ⊙ c_{t-1} + b_t.

    A subclass defines `affine`. `advance`, `adjoint` and `gradients` follow from it by (A1) to
    (A3). They compute in float32 at least. `bptt` keeps the carries, and the part of z from which
    `affine` computes a.
    """

    @abc.abstractmethod
    def affine(self, w: Weights, zs: PyTree) -> Affine:
        """Returns a and b of (A1), for z with any leading axes."""

    def advance(self, w: Weights, carry: Carry, z: PyTree) -> tuple[Carry, tuple[()]]:
        """Runs one step of (A1)."""
        a, b = self.affine(w, kernels.widen(z))

        def advance_array(c: Array, a: Array | None, b: Array) -> Array:
            b = jnp.broadcast_to(b, c.shape)
            if a is None:
                return b  # and not 0 c + b, since 0 times NaN is NaN
            return jnp.broadcast_to(a, c.shape) * c + b  # (A1)

        new_carry = jax.tree.map(advance_array, kernels.widen(carry), a, b)
        return tree.cast_like(new_carry, carry), ()

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, Carry]:
        """Runs one step of (A2); δ_t is λ_t."""
        a, _ = self.affine(w, kernels.widen(residuals.z))

        def adjoint_of_array(d: Array, a: Array | None) -> Array:
            if a is None:
                return jnp.zeros_like(d)
            return jnp.broadcast_to(a, d.shape) * d  # (A2)

        d_previous = jax.tree.map(adjoint_of_array, kernels.widen(d_carry), a)
        return tree.cast_like(d_previous, d_carry), d_carry

    def gradients(self, w: Weights, residuals: Residuals, deltas: Carry) -> tuple[Weights, PyTree]:
        """Returns (A3) for all steps, pulled back to w and z."""
        carries, deltas = kernels.widen((residuals.previous_carry, deltas))

        def affine_of_all_steps(w: Weights, zs: PyTree) -> Affine:
            a, b = self.affine(w, kernels.widen(zs))
            # The transpose of a broadcast sums over the axes that a or b does not have.
            a_of_all_steps = jax.tree.map(_broadcast_like, carries, a)
            b_of_all_steps = jax.tree.map(_broadcast_like, carries, b)
            return Affine(a_of_all_steps, b_of_all_steps)

        def gradient_of_a(c: Array, a: jax.ShapeDtypeStruct | None, d: Array) -> Array | None:
            return None if a is None else d * c  # (A3)

        pullback = tree.vjp_inexact(affine_of_all_steps, w, residuals.z)
        # Only the places of None in a matter here, so its shapes are enough.
        a, _ = jax.eval_shape(affine_of_all_steps, w, residuals.z)
        d_a = jax.tree.map(gradient_of_a, carries, a, deltas)
        ((d_w, d_zs),) = pullback(Affine(d_a, deltas))
        return d_w, d_zs


def _broadcast_like(carry: Array, x: Array | None) -> Array | None:
    return None if x is None else jnp.broadcast_to(x, carry.shape)


def apply_dropout(x: Inexact[Array, "*lead H"], mask: Array | None) -> Inexact[Array, "*lead H"]:
    """Returns k ⊙ x for the dropout mask k, which has no gradient; x itself without a mask."""
    if mask is None:
        return x
    # Here JAX differentiates `affine`, and would compute a gradient of the mask.
    return kernels.scale(x, jax.lax.stop_gradient(mask))


class InputAffineCell(LinearCell):
    """A linear cell whose a_t and b_t are what `project` returns, `GateInputs(Affine(a, b))`.

    No parameter is used in the loop.
    """

    def prepare(self, params: Params) -> None:
        """Returns None, since the loop reads no parameters."""
        return

    def affine(self, w: None, zs: GateInputs) -> Affine:
        """Returns a and b of z, with the dropout mask of b applied."""
        return Affine(zs.gates.a, apply_dropout(zs.gates.b, zs.dropout_mask))


@dataclasses.dataclass(frozen=True, repr=False)
class InputGatedCell(InputAffineCell, GateParameters):
    """An `InputAffineCell` with the parameters `w_x (I, G·H)` and `b (G·H)` of its gates."""

    @property
    def state_size(self) -> int:
        """0, since there is no recurrent kernel."""
        return 0


@dataclasses.dataclass(frozen=True, repr=False)
class ChannelwiseCell(LinearCell):
    """A linear cell with one input u_t for each unit: its inputs, or a projection of them.

    The parameters are those of `parameters`, and `w_x (I, H)`, Lecun-normal, with
    `input_projection`. A subclass defines `parameters`.
    """

    hidden_size: int
    _: dataclasses.KW_ONLY
    input_projection: bool = False

    def __post_init__(self) -> None:
        check.require_int("hidden_size", self.hidden_size, least=1)
        check.require_bool("input_projection", self.input_projection)

    @property
    @abc.abstractmethod
    def parameters(self) -> Mapping[str, Parameter]:
        """The parameters other than `w_x`, by name."""

    @property
    def parameter_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each parameter; None stands for any size."""
        shapes: dict[str, tuple[int | None, ...]]
        shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
        if self.input_projection:
            shapes["w_x"] = (None, self.hidden_size)
        return shapes

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the initial parameters."""
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        wide = kernels.at_least_float32(dtype)
        parameters = dict(self.parameters)
        if self.input_projection:
            shape = (input_size, self.hidden_size)
            parameters["w_x"] = Parameter(shape, jax.nn.initializers.lecun_normal())
        else:
            # Each input is that of one unit, so there are as many.
            expected = f"{self.hidden_size}, the hidden_size, without input_projection"
            check.require(input_size == self.hidden_size, "input_size", input_size, expected)
        keys = jax.random.split(key, len(parameters))
        params = {}
        for key, (name, parameter) in zip(keys, parameters.items(), strict=True):
            params[name] = parameter.initializer(key, parameter.shape, wide).astype(dtype)
        return params

    def project_inputs(self, params: Params, xs: Array) -> jax.Array:
        """Checks params and xs, and returns u = x W_x, or x, in float32 at least."""
        name = self.expression_name
        check.require_params(name, params, self.parameter_shapes)
        size = len(params["w_x"]) if self.input_projection else self.hidden_size
        check.require_features("xs", name, xs, size=size)
        # Rounded to the dtype of the parameters, then wide, as in every product with them.
        us = kernels.widen(jnp.asarray(xs, check.float_dtype(params)))
        if self.input_projection:
            return kernels.dot(us, params["w_x"])
        return us
