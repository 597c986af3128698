"""What cells share: their form, how gates lie side by side, the product inside the loop.

Gates lie side by side in the last axis of a kernel, `(I, G·H)`, and apart wherever time passes over
them: a loop that slices them out of one array at every step is slower than one that is handed them.

Where parameters are narrower than float32, a step computes in float32: products have narrow factors
and wide sums, and what is kept from step to step or for the way back is narrow again, but for what
a cell's zero state has wide.

Noise has two places in a cell, each None until `jaxrnn.transforms` puts something there: in
`Kernel.keep` it scales the state that a product sees, in `Drive.keep` the candidate.
"""

import dataclasses
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Inexact

from jaxrnn import check, tree
from jaxrnn.cells.orthogonal import orthogonal
from jaxrnn.types import Array, Carry, Cell, Params, Seen, State

Vector = Inexact[Array, " N"]  # one number a feature: a bias, a gain
Joined = Float[Array, "*lead GH"]  # all gates side by side
Matrix = Float[Array, "I H"]


class Kernel(namedtuple("Kernel", "w w_t keep", defaults=(None,))):
    """A recurrent kernel as the loop uses it, p = (k ⊙ h) W.

    Fields:
        w: W `(H, G·H)`.
        w_t: Wᵀ for the way back, made once: a product with `w.T` in the loop is slower. None in a
            gradient.
        keep: k `(*batch, H)`, what noise leaves of h for all time; None for all.
    """


class Drive(namedtuple("Drive", "gates keep", defaults=(None,))):
    """What drives a cell with a candidate at a step.

    Fields:
        gates: the input's share of each gate, `(*lead, H)`.
        keep: `(*lead, H)`, what noise leaves of the candidate; None for all.
    """


class Deltas(namedtuple("Deltas", "gates behind")):
    """The cotangents of the gates' pre-activations, and of what a variant puts behind memory."""


def kernel(w: Float[Array, "H GH"]) -> Kernel:
    """W with its transpose beside it."""
    return Kernel(w, w.T)


def product(hs: Float[Array, "*lead H"], k: Kernel) -> Joined:
    """P = (k ⊙ h) W."""
    return dot(scaled(hs, k.keep), k.w)


def product_adjoint(deltas: Joined, k: Kernel) -> Float[Array, "*lead H"]:
    """∂L/∂h = k ⊙ (δ Wᵀ), with δ = ∂L/∂p."""
    return scaled(dot(deltas, k.w_t), k.keep)


def product_gathered(hs: State, deltas: Joined, k: Kernel) -> Kernel:
    """∂L/∂W = Σ (k ⊙ h)ᵀ δ over time and batch, one matrix product; noise has no gradient."""
    return Kernel(summed_product(scaled(hs, k.keep), deltas, k.w), None)


def dot(x: Float[Array, "*lead I"], w: Matrix) -> Float[jax.Array, "*lead H"]:
    """Take x W, factors in the dtype of W, sums and result in that of x."""
    return jnp.matmul(x.astype(w.dtype), w, preferred_element_type=x.dtype)


def scaled(x: Inexact[Array, "*lead H"], keep: Array | None) -> Inexact[Array, "*lead H"]:
    """Take x ⊙ keep, the same for all leading axes that `keep` lacks; x where there is none."""
    return x if keep is None else x * jnp.broadcast_to(keep, x.shape).astype(x.dtype)


# The shape of a parameter, and how it starts, as one of jax.nn.initializers does.
Start = tuple[tuple[int, ...], Callable[..., jax.Array]]


@dataclasses.dataclass(frozen=True)
class Form:
    """What a cell with gates is made of: its parameters, how they start, and its zero state.

    They are `w_x (I, G·H)`, Lecun-normal, `w_h (S, G·H)`, orthogonal gate by gate, `b (G·H)`, and
    what a cell has beside these.

    Fields:
        name: of the cell, for what is said of arguments that do not fit.
        hidden_size: H, at least 1; ValueError below, TypeError if not an int.
        biases: the number that each gate's part of `b` starts at; there are G of them, as the
            NamedTuple of the gates where `driven` makes one of them.
        more: the other parameters by name, of each its shape and how it starts.
        state_size: S, the features of h; H unless given; 0 if there is no `w_h`.
        norm: what normalises x W_x before its gain and bias, as `norm.normed` does, if the products
            with both kernels have gains, `gain_x (G·H)` and `gain_h (G·H)`, which start at 1.
    """

    name: str
    hidden_size: int
    biases: Any
    more: Mapping[str, Start] = dataclasses.field(default_factory=dict)
    state_size: int | None = None
    norm: Any = None

    def __post_init__(self) -> None:
        check.integer("hidden_size", self.hidden_size, least=1)

    @property
    def beside(self) -> dict[str, Start]:
        """The parameters beside `w_x`, `w_h` and `b`."""
        gain = (len(self.biases) * self.hidden_size,), jax.nn.initializers.ones
        return {**dict.fromkeys(("gain_x", "gain_h") if self.norm else (), gain), **self.more}

    @property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Of all parameters; None for any size."""
        width = len(self.biases) * self.hidden_size
        size = self.hidden_size if self.state_size is None else self.state_size
        w_h = {"w_h": (size, width)} if size else {}
        more = {name: shape for name, (shape, _) in self.beside.items()}
        return {"w_x": (None, width), **w_h, "b": (width,), **more}

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """The parameters as they start."""
        check.integer("input_size", input_size, least=1)
        wide, shapes, gates = at_least_float32(dtype), self.shapes, len(self.biases)
        check.key("key", key)
        lecun = jax.nn.initializers.lecun_normal()
        keys = jax.random.split(key, 1 + gates + len(self.beside))
        key_x, keys_h, keys_beside = keys[0], keys[1 : 1 + gates], keys[1 + gates :]
        params = {
            "w_x": lecun(key_x, (input_size, gates * self.hidden_size), wide),
            "b": join_gates(*(jnp.full(self.hidden_size, bias, wide) for bias in self.biases)),
        }
        if "w_h" in shapes:
            of_gate: Any = shapes["w_h"][0], self.hidden_size
            of_gates = jax.vmap(lambda key_h: orthogonal(key_h, of_gate, wide))(keys_h)
            params["w_h"] = join_gates(*of_gates)
        for key_more, (name, (shape, start)) in zip(keys_beside, self.beside.items(), strict=True):
            params[name] = start(key_more, shape, wide)
        return {name: p.astype(dtype) for name, p in params.items()}

    def carry(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Carry:
        """The zero state h."""
        return zeros(self.hidden_size, batch_shape, dtype)

    def output(self, params: Params, carries: Carry) -> State:
        """What is seen of the carry: the state itself, y = h."""
        return carries

    def cell(self, project: Any, advance: Any, adjoint: Any, gather: Any, prepare: Any) -> Cell:
        """The Cell of this form that goes through time by these functions, in float32 at least."""

        def wide_advance(w: Any, carry_tm1: Carry, z: Any) -> tuple[Carry, Any]:
            dtype = check.float_dtype(z)
            carry, saved = advance(w, *tree.cast((carry_tm1, z), at_least_float32(dtype)))
            return tree.cast_like(carry, carry_tm1), tree.cast(saved, dtype)

        def wide_adjoint(w: Any, seen: Seen, d_carry: Carry) -> tuple[Carry, Any]:
            dtype = check.float_dtype(seen.z)
            d_carry_tm1, delta = adjoint(w, *tree.cast((seen, d_carry), at_least_float32(dtype)))
            return tree.cast_like(d_carry_tm1, seen.carry_tm1), tree.cast(delta, dtype)

        def wide_gather(w: Any, seen: Seen, deltas: Any) -> tuple[Any, Any]:
            dtype = check.float_dtype(seen.z)
            return tree.cast(gather(w, *tree.cast((seen, deltas), at_least_float32(dtype))), dtype)

        steps = wide_advance, self.output, wide_adjoint, wide_gather
        return Cell(self.init, self.carry, project, *steps, prepare)

    def project(self, params: Params, xs: Array) -> list[jax.Array]:
        """Take x W_x + b over any leading axes, one array a gate, once both are known to fit."""
        check.params_fit(self.name, params, self.shapes)
        check.features("xs", self.name, xs, size=params["w_x"].shape[0])
        xs, gates = jnp.asarray(xs, params["w_x"].dtype), len(self.biases)
        if self.norm or tree.surely_less(xs.size, len(params["w_x"]) ** 2):
            # Fewer rows than inputs, streamed: products are less to take apart than kernels.
            p = xs @ params["w_x"]
            p = scaled(self.norm(p).values, params["gain_x"]) if self.norm else p
            return list(split_gates(plus_bias(p, params["b"]), gates))
        kernels, biases = split_gates(params["w_x"], gates), split_gates(params["b"], gates)
        return [plus_bias(xs @ w, b) for w, b in zip(kernels, biases, strict=True)]

    def driven(self, params: Params, xs: Array) -> Drive:
        """`project` of a cell with a candidate, whose gates are the fields of a NamedTuple."""
        return Drive(self.biases._make(self.project(params, xs)))


def prepared(weights: Any) -> Callable[[Params], Any]:
    """`prepare` of a cell whose loop uses what a NamedTuple has as its fields, `w_h` the first."""
    more = weights._fields[1:]
    return lambda params: weights(kernel(params["w_h"]), *(params[name] for name in more))


def recurrent_kernel(params: Params) -> Kernel:
    """All that a loop uses of the parameters where it uses `w_h` alone."""
    return kernel(params["w_h"])


def at_least_float32(dtype: DTypeLike) -> Any:
    """`dtype`, or float32 where it is narrower: orthogonal starts and complex numbers need it."""
    return max(check.floating("dtype", dtype), jnp.dtype("float32"), key=lambda d: d.itemsize)


def split_gates(x: Joined, gates: int) -> Sequence[jax.Array]:
    """`(..., G·H)` to G arrays `(..., H)`; transposed, one concatenation and not pads and adds."""
    size = x.shape[-1] // gates
    return jax.lax.split(x, (size,) * gates, axis=x.ndim - 1)


def join_gates(*gates: Float[Array, "*lead H"]) -> Float[jax.Array, "*lead GH"]:
    """The inverse of `split_gates`."""
    return jnp.concatenate(gates, axis=-1)


def plus_bias(x: Float[Array, "*lead H"], b: Vector) -> Float[jax.Array, "*lead H"]:
    """Add a bias over any leading axes, said aloud: to some, rank promotion is an error."""
    return jnp.add(x, jnp.broadcast_to(b, x.shape).astype(x.dtype))


def zeros(size: int, batch_shape: tuple[int, ...], dtype: DTypeLike) -> State:
    """Zeros `(*batch_shape, size)`."""
    check.of_type("batch_shape", batch_shape, isinstance(batch_shape, tuple), "a tuple")
    for n in batch_shape:
        fits = jax.export.is_symbolic_dim(n) or (isinstance(n, (int, np.integer)) and n >= 0)
        check.that(fits, "batch_shape", batch_shape, "sizes that are ints of at least 0")
    return jnp.zeros((*batch_shape, size), check.floating("dtype", dtype))


def summed(deltas: Inexact[Array, "*lead H"]) -> Inexact[jax.Array, " H"]:
    """Σ δ over time and batch, `(H,)`: the gradient of a bias."""
    return jnp.sum(deltas, axis=tuple(range(deltas.ndim - 1)))


def summed_product(inputs: Float[Array, "*lead I"], deltas: State, w: Matrix) -> Matrix:
    """Σ inputᵀ δ over time and batch, as one matrix product: the gradient of a kernel (4)."""
    lead = tuple(range(deltas.ndim - 1))
    inputs, wide = inputs.astype(w.dtype), deltas.dtype
    more = {"preferred_element_type": wide, "out_sharding": jax.typeof(w).sharding}
    return jnp.tensordot(inputs, deltas.astype(w.dtype), (lead, lead), **more)
