"""Networks: parts one after another, in both directions of time, and with a shortcut."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.sequence import unroll
from jaxrnn.types import (
    Array,
    Carry,
    Cell,
    Key,
    Layer,
    Network,
    Params,
    Part,
    PyTree,
    RunPart,
    StepResult,
)


class Directions(NamedTuple):
    """Parameters, carries or parts: that which runs forward, and that which runs backward."""

    forward: PyTree
    backward: PyTree


@dataclasses.dataclass(frozen=True, repr=False, init=False)
class stacked(Network):
    """Parts that run one after another, each on the outputs of the previous part.

        y⁰_t = x_t,    cˡ_t, yˡ_t = partˡ(paramsˡ, cˡ_{t-1}, yˡ⁻¹_t),    y_t = yᴸ_t          (S1)

    `unroll` runs the parts layer by layer, each over all time, so that every Cell keeps its
    products over the whole sequence and its hand-written backward pass. As a function, the stack is
    one Step. A stack takes the inputs of its first part: with `embedding` first, these are tokens
    `(T, *batch)`.

    Parameters: params and carry are tuples with one tree for each part; the carry of a Layer is the
    empty tuple. `output(params, carry)` is the output of the last Cell, passed through the Layers
    after it.

    Args:
        *parts: at least one Cell, Layer (such as `dropout` or `linear`) or Network. ValueError if
            there is none, or if a part that takes tokens follows a part that takes features.

    Gradient: that of the loop; by default it is exact.

    Examples:
        >>> network = jaxrnn.stacked(jaxrnn.embedding(16), jaxrnn.lstm(32), jaxrnn.linear(100))
        >>> params = network.init(jax.random.key(0), input_size=100)  # the size of the vocabulary
        >>> _, logits = jaxrnn.unroll(network, params, jnp.zeros((50, 4), jnp.int32))
        >>> logits.shape
        (50, 4, 100)
    """

    parts: tuple[Part, ...] = dataclasses.field(metadata={"variadic": True})

    def __init__(self, *parts: Part) -> None:
        self.replace_fields(parts=parts)
        check.require(parts, "parts", "none", "at least one Cell, Layer or Network")
        for i, part in enumerate(parts):
            _check_part(f"parts[{i}]", part)
            fits = i == 0 or _takes_tokens(parts[i - 1]) or not _takes_tokens(part)
            expected = f"one that takes features, as parts[{i - 1}] before it does"
            check.require(fits, f"parts[{i}]", "one that takes tokens", expected)

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of the first part's inputs."""
        return self.parts[0].num_feature_axes

    def feature_shape(self, input_size: int) -> tuple[int, ...]:
        """Returns the feature axes of the first part's inputs."""
        return self.parts[0].feature_shape(input_size)

    @property
    def is_noisy(self) -> bool:
        """Whether any part draws noise."""
        return any(part.is_noisy for part in self.parts)

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of all parts.

        Returns a tuple with one tree for each part. The input size of a part is the number of
        outputs of the previous part.
        """
        params = []
        check.require_int("input_size", input_size, least=1)
        dtype = check.require_floating("dtype", dtype)
        check.require_key("key", key)
        # Inputs of one step without batch axes, as shapes. Each part runs on the shapes of the
        # outputs of the part before it, which tells how many features it gets.
        if _takes_tokens(self):
            xs = jax.ShapeDtypeStruct((1,), jnp.int32)
        else:
            xs = jax.ShapeDtypeStruct((1, *self.feature_shape(input_size)), dtype)
        keys = jax.random.split(key, len(self.parts))
        for part, key_part in zip(self.parts, keys, strict=True):
            # Tokens have no features; their size is that of the vocabulary, which is `input_size`.
            size = input_size if _takes_tokens(part) else xs.shape[-1]
            part_params = part.init(key_part, size, dtype)
            _, xs = jax.eval_shape(functools.partial(unroll, part), part_params, xs)
            params.append(part_params)
        return tuple(params)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """Returns a tuple with the zero state of each part."""
        return tuple(part.initial_carry(batch_shape, dtype) for part in self.parts)

    def output(self, params: Params, carry: Carry) -> PyTree:
        """Returns the last Cell's output, passed through the Layers after it."""
        check.require_one_per_part(self.parts, params=params, carry=carry)
        # The Layers at the end, in reverse order, then the last Cell or Network before them.
        layers: list[tuple[Layer, Params]] = []
        triples = list(zip(self.parts, params, carry, strict=True))
        for part, part_params, part_carry in reversed(triples):
            if isinstance(part, Layer):
                layers.append((part, part_params))
            if isinstance(part, (Cell, Network)):
                y = part.output(part_params, part_carry)
                for layer, layer_params in reversed(layers):
                    y = layer.apply(layer_params, y)
                return y
        raise ValueError("carry: got the carry of Layers only, expected one of a Cell")

    def run_parts(self, run: RunPart, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the parts one after another (S1)."""
        check.require_one_per_part(self.parts, params=params, carry=carry)
        carries = []
        triples = zip(self.parts, params, carry, strict=True)
        for index, (part, part_params, part_carry) in enumerate(triples):
            try:
                new_carry, xs = run(part, part_params, part_carry, xs, index)
            except (TypeError, ValueError) as error:
                # The message is that of the part, whose argument is not an argument of the stack.
                error.add_note(f"in part {index} of a stack of {len(self.parts)}")
                raise
            carries.append(new_carry)
        return tuple(carries), xs

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """Runs one step, `(params, carry, x) -> (carry, y)`."""
        return self.run_parts(_run_one_step, params, carry, x)


@dataclasses.dataclass(frozen=True, repr=False)
class bidirectional(Network):
    """Two parts over the same inputs, one forward and one backward in time.

        y_t = merge(forward(x_1..x_t), backward(x_T..x_t))                                   (S2)

    On masked rows, each direction runs over the valid steps alone, and a reset before step t
    separates the steps t-1 and t in both.

    Parameters: params and carry are `Directions(forward, backward)`. `output(params, carry)` merges
    the last output of `forward`, at step T, with the last output of `backward`, at step 1. A
    bidirectional network is not a Step, since it needs the whole sequence.

    Args:
        forward: a Cell, a Layer or a Network.
        backward: a Cell, a Layer or a Network. It defaults to `forward`, with parameters of its
            own. ValueError if one part takes tokens and the other takes features.
        merge: a function of two outputs, such as `jnp.add`. It defaults to concatenation along the
            last axis.

    Gradient: that of the loop; by default it is exact.

    Source: M. Schuster, K. Paliwal, "Bidirectional recurrent neural networks", IEEE Transactions on
    Signal Processing 45 (1997).

    Examples:
        >>> network = jaxrnn.bidirectional(jaxrnn.gru(16))
        >>> params = network.init(jax.random.key(0), input_size=8)
        >>> carry, ys = jaxrnn.unroll(network, params, jnp.ones((50, 4, 8)))
        >>> ys.shape, carry.backward.shape
        ((50, 4, 32), (4, 16))
    """

    forward: Part
    backward: Part | None = None
    merge: Callable[[PyTree, PyTree], PyTree] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_part("forward", self.forward)
        if self.backward is not None:
            _check_part("backward", self.backward)
        if self.merge is not None:
            check.require_callable("merge", self.merge, takes=2)
        if self.backward == self.forward:
            # So that `bidirectional(f, f)` and `bidirectional(f)` are equal, and compiled once.
            self.replace_fields(backward=None)
        forward_axes = self.parts.forward.num_feature_axes
        backward_axes = self.parts.backward.num_feature_axes
        got = f"one that takes {backward_axes or 'no'} feature axes"
        expected = f"one that takes {forward_axes or 'no'} feature axes, as forward does"
        check.require(forward_axes == backward_axes, "backward", got, expected)

    @property
    def parts(self) -> Directions:
        """The forward part and the backward part, which defaults to the forward part."""
        backward = self.forward if self.backward is None else self.backward
        return Directions(self.forward, backward)

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of both parts' inputs."""
        return self.forward.num_feature_axes

    def feature_shape(self, input_size: int) -> tuple[int, ...]:
        """Returns the feature axes of both parts' inputs."""
        return self.forward.feature_shape(input_size)

    @property
    def is_noisy(self) -> bool:
        """Whether any part draws noise."""
        return any(part.is_noisy for part in self.parts)

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Directions:
        """Draws the parameters of both parts, with different keys."""
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        key_forward, key_backward = jax.random.split(key)
        forward, backward = self.parts
        return Directions(
            forward.init(key_forward, input_size, dtype),
            backward.init(key_backward, input_size, dtype),
        )

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Directions:
        """Returns the zero states of both parts."""
        return Directions(*(part.initial_carry(batch_shape, dtype) for part in self.parts))

    def output(self, params: Directions, carry: Directions) -> PyTree:
        """Returns the last output of each direction, merged."""
        check.require_one_per_part(self.parts, params=params, carry=carry)
        forward, backward = self.parts
        ys = forward.output(params[0], carry[0])
        backward_ys = backward.output(params[1], carry[1])
        return self._merged(ys, backward_ys)

    def run_parts(self, run: RunPart, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs both directions (S2)."""
        check.require_one_per_part(self.parts, params=params, carry=carry)
        forward, backward = self.parts
        forward_carry, ys = run(forward, params[0], carry[0], xs, 0)
        backward_carry, backward_ys = run(backward, params[1], carry[1], xs, 1, reverse=True)
        return Directions(forward_carry, backward_carry), self._merged(ys, backward_ys)

    def _merged(self, forward: PyTree, backward: PyTree) -> PyTree:
        """Returns the outputs of both directions as one, and checks what `merge` returned."""
        merge = concatenate_features if self.merge is None else self.merge
        try:
            ys = merge(forward, backward)
        except (TypeError, ValueError) as error:
            got = f"{check.describe(forward)} and {check.describe(backward)}"
            # The first line of JAX's message; the rest explains JAX.
            reason, _, _ = str(error).partition("\n")
            expected = "outputs of both directions that fit together"
            raise ValueError(f"merge: got {got} ({reason}), expected {expected}") from error
        # Masks zero the outputs of padded steps, so time and batch have to stay the first axes.
        lead = check.batch_shape(forward)
        leaves = jax.tree.leaves(ys)
        fits = leaves and all(jnp.shape(y)[: len(lead)] == lead for y in leaves)
        expected = f"arrays with the leading axes {list(lead)}, as both directions have"
        check.require(fits, "merge", check.describe(ys), expected)
        return ys

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """Raises a TypeError, since the backward part needs the later steps."""
        raise TypeError("step: got a bidirectional network, expected one that runs forward only")


@dataclasses.dataclass(frozen=True, repr=False)
class residual(Network):
    """A part with a shortcut around it.

        y_t = part(x_1..x_t) + x_t                                                           (S3)

    Parameters: params and carry are those of the part. A residual network has no `output`, since
    the carry does not contain the input. Many-to-one models use the outputs at the last valid step.

    Args:
        part: a Cell, a Layer or a Network whose outputs have the shape of its inputs.

    Raises:
        ValueError: for a part that takes tokens, since nothing can be added to a token; while
            tracing, if outputs and inputs differ in shape.

    Gradient: that of the loop; by default it is exact.
    """

    part: Part

    def __post_init__(self) -> None:
        _check_part("part", self.part)
        expected = "one that takes features, since outputs are added to them"
        check.require(not _takes_tokens(self.part), "part", "one that takes tokens", expected)

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of the part's inputs."""
        return self.part.num_feature_axes

    def feature_shape(self, input_size: int) -> tuple[int, ...]:
        """Returns the feature axes of the part's inputs."""
        return self.part.feature_shape(input_size)

    @property
    def is_noisy(self) -> bool:
        """Whether the part draws noise."""
        return self.part.is_noisy

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of the part.

        Raises a ValueError if its outputs do not have the size of its inputs.
        """
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        dtype = check.require_floating("dtype", dtype)

        def run(x: Array) -> StepResult:
            return unroll(self, self.part.init(key, input_size, dtype), x)

        # On shapes, so that nothing is drawn twice.
        x = jax.ShapeDtypeStruct((1, input_size), dtype)
        jax.eval_shape(run, x)  # raises an error if outputs and inputs differ in size
        return self.part.init(key, input_size, dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """Returns the zero state of the part."""
        return self.part.initial_carry(batch_shape, dtype)

    def output(self, params: Params, carry: Carry) -> PyTree:
        """Raises a TypeError, since the carry does not contain the input."""
        raise TypeError("carry: got the carry of a residual network, expected one with an output")

    def run_parts(self, run: RunPart, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the part and adds its inputs to its outputs (S3)."""
        carry, ys = run(self.part, params, carry, xs)
        expected = f"the shape of its inputs {check.describe(xs)}, since they are added"
        check.require(ys.shape == jnp.shape(xs), "part", f"outputs {check.describe(ys)}", expected)
        return carry, ys + jnp.asarray(xs, ys.dtype)

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """Runs one step, `(params, carry, x) -> (carry, y)`."""
        return self.run_parts(_run_one_step, params, carry, x)


def concatenate_features(forward: Array, backward: Array) -> jax.Array:
    """Concatenates two arrays along the last axis."""
    return jnp.concatenate([forward, backward], axis=-1)


def _check_part(name: str, value: object) -> None:
    check.require_type(isinstance(value, Part), name, value, "a Cell, Layer or Network")


def _takes_tokens(part: Part) -> bool:
    return part.num_feature_axes == 0


def _run_one_step(
    part: Part, params: Params, carry: Carry, x: PyTree, index: int | None = None
) -> StepResult:
    """Runs one part of a network for one step; the `run` of `Network.run_parts`."""
    return part(params, carry, x)
