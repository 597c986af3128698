"""Cells and Layers joined: one after another, in both directions, around a shortcut."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.sequence import unroll
from jaxrnn.types import (
    Array,
    Carry,
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
    """Parameters, or carries, of the part that runs forward and of the one that runs backward."""

    forward: PyTree
    backward: PyTree


@dataclasses.dataclass(frozen=True, repr=False, init=False)
class stacked(Network):
    """Parts run one after another, each on the outputs of the one before.

        y⁰_t = x_t,    cˡ_t, yˡ_t = partˡ(paramsˡ, cˡ_{t-1}, yˡ⁻¹_t),    y_t = yᴸ_t          (S1)

    `unroll` runs them layer by layer, each over all time, so that every Cell keeps its products
    over the whole sequence and its backward pass by hand. Called, the stack is one Step. A stack
    takes what its first part takes: with `embedding` there, tokens `(T, *batch)`.

    Args:
        *parts: at least one: Cells, Layers (`dropout`, `readout`), networks; ValueError if none, or
            if one that takes tokens stands behind one that takes features.

    Returns:
        A Network; params and carry are tuples, one tree a part (an empty tuple for a Layer's
        carry). `output(params, carry)` is that of the last Cell and the Layers after it.

    Gradient: what the loop makes of it; exact by default.
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
        """As the first part."""
        return self.parts[0].num_feature_axes

    @property
    def is_noisy(self) -> bool:
        """Whether any part draws noise."""
        return any(part.is_noisy for part in self.parts)

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """A tuple, one tree a part; each part's inputs are as many as the outputs before it."""
        params, size = [], check.require_int("input_size", input_size, least=1)
        dtype = check.require_floating("dtype", dtype)
        check.require_key("key", key)
        tokens, features = ((1,), jnp.int32), ((1, size), dtype)
        xs: Any = jax.ShapeDtypeStruct(*(tokens if _takes_tokens(self) else features))
        for part, key_part in zip(self.parts, jax.random.split(key, len(self.parts)), strict=True):
            size = size if _takes_tokens(part) else xs.shape[-1]
            params.append(part.init(key_part, size, dtype))
            xs = jax.eval_shape(lambda p, x, part=part: unroll(part, p, x)[1], params[-1], xs)
        return tuple(params)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """A tuple, one tree a part."""
        return tuple(part.initial_carry(batch_shape, dtype) for part in self.parts)

    def output(self, params: Params, carry: Carry) -> PyTree:
        """The output of the last part that has a carry, through the Layers behind it."""
        check.require_one_per_part(self.parts, params=params, carry=carry)
        for i, part in reversed(list(enumerate(self.parts))):
            if isinstance(part, Layer):
                continue
            cell: Any = part
            y = cell.output(params[i], carry[i])
            layers: Any = self.parts[i + 1 :]
            for layer, layer_params in zip(layers, params[i + 1 :], strict=True):
                y = layer.apply(layer_params, y)
            return y
        raise ValueError("carry: got that of Layers alone, which do not remember their inputs")

    def run_parts(self, run: RunPart, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Part by part (S1)."""
        check.require_one_per_part(self.parts, params=params, carry=carry)
        carries = []
        for index, (part, p, c) in enumerate(zip(self.parts, params, carry, strict=True)):
            try:
                c, xs = run(part, p, c, xs, index)
            except (TypeError, ValueError) as error:
                error.add_note(f"in part {index} of a stack of {len(self.parts)}")
                raise
            carries.append(c)
        return tuple(carries), xs

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """One step; `(params, carry, x) -> (carry, y)`."""
        return self.run_parts(_run_one_step, params, carry, x)


@dataclasses.dataclass(frozen=True, repr=False)
class bidirectional(Network):
    """Two parts over the same inputs, one from the first step on, one from the last.

        y_t = merge(forward(x_1..x_t), backward(x_T..x_t))                                   (S2)

    On masked rows each direction runs over the valid steps alone, and a reset before step t cuts
    between t-1 and t in both.

    Args:
        forward: a Cell, a Layer or a Network.
        backward: likewise; the same as `forward` (with parameters of its own) unless given.
        merge: of two outputs; concatenation along the last axis unless given; `jnp.add` sums.

    Returns:
        A Network whose params and carry are `Directions(forward, backward)`. It is no Step, since it
        needs the whole sequence. `output(params, carry)` merges the last output of `forward` with
        the one of `backward` at the first step. ValueError if one of them takes tokens and the
        other features.

    Gradient: what the loop makes of it; exact by default.

    Source: M. Schuster, K. Paliwal, "Bidirectional recurrent neural networks", IEEE Transactions on
    Signal Processing 45 (1997).
    """

    forward: Part
    backward: Part | None = None
    merge: Callable[[Any, Any], Any] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_part("forward", self.forward)
        if self.backward is not None:
            _check_part("backward", self.backward)
        if self.merge is not None:
            check.require_callable("merge", self.merge, takes=2)
        if self.backward == self.forward:
            self.replace_fields(backward=None)
        axes = [part.num_feature_axes for part in self.parts]
        expected, got = (f"one that takes {n or 'no'} feature axes" for n in axes)
        check.require(axes[0] == axes[1], "backward", got, f"{expected}, as forward does")

    @property
    def parts(self) -> Directions:
        """The part that runs forward and the one that runs backward, which defaults to the same."""
        return Directions(self.forward, self.forward if self.backward is None else self.backward)

    @property
    def num_feature_axes(self) -> int:
        """As both parts."""
        return self.forward.num_feature_axes

    @property
    def is_noisy(self) -> bool:
        """Whether any part draws noise."""
        return any(part.is_noisy for part in self.parts)

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Directions:
        """Both parts' parameters, drawn apart."""
        check.require_int("input_size", input_size, least=1)
        check.require_key("key", key)
        keyed = zip(self.parts, jax.random.split(key), strict=True)
        return Directions(*(part.init(key_part, input_size, dtype) for part, key_part in keyed))

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Directions:
        """Both parts' zero states."""
        return Directions(*(part.initial_carry(batch_shape, dtype) for part in self.parts))

    def output(self, params: Directions, carry: Directions) -> PyTree:
        """The last output of each direction, merged."""
        check.require_one_per_part(self.parts, params=params, carry=carry)
        triples = zip(self.parts, params, carry, strict=True)
        return self._merged(*(part.output(p, c) for part, p, c in triples))

    def run_parts(self, run: RunPart, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Both directions (S2)."""
        check.require_one_per_part(self.parts, params=params, carry=carry)
        forward, backward = self.parts
        forward_carry, ys = run(forward, params[0], carry[0], xs, 0)
        backward_carry, backward_ys = run(backward, params[1], carry[1], xs, 1, reverse=True)
        return Directions(forward_carry, backward_carry), self._merged(ys, backward_ys)

    def _merged(self, forward: PyTree, backward: PyTree) -> PyTree:
        merge = concatenate_features if self.merge is None else self.merge
        ys, lead = merge(forward, backward), check.batch_shape(forward)
        fits = [jnp.shape(y)[: len(lead)] == lead for y in jax.tree.leaves(ys)]
        expected = f"arrays with the axes {list(lead)} in front, as both directions have"
        check.require(fits and all(fits), "merge", check.describe(ys), expected)
        return ys

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """Refuses: the backward part needs the steps that come after."""
        raise TypeError("step: got a bidirectional network, expected one that runs forward only")


@dataclasses.dataclass(frozen=True, repr=False)
class residual(Network):
    """A part with a shortcut around it.

        y_t = part(x_1..x_t) + x_t                                                           (S3)

    Args:
        part: a Cell, a Layer or a Network whose outputs have the form of its inputs.

    Returns:
        A Network with the params and carry of the part. It has no `output`, since a carry does not
        tell its input: many-to-one takes the outputs at the last valid step.

    Raises:
        ValueError: for a part that takes tokens, to which nothing can be added; while tracing, if
            outputs and inputs differ in shape.

    Gradient: what the loop makes of it; exact by default.
    """

    part: Part

    def __post_init__(self) -> None:
        _check_part("part", self.part)
        expected = "one that takes features, since outputs are added to them"
        check.require(not _takes_tokens(self.part), "part", "one that takes tokens", expected)

    @property
    def num_feature_axes(self) -> int:
        """As the part."""
        return self.part.num_feature_axes

    @property
    def is_noisy(self) -> bool:
        """As the part."""
        return self.part.is_noisy

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """As the part."""
        return self.part.init(key, input_size, dtype)

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """As the part."""
        return self.part.initial_carry(batch_shape, dtype)

    def output(self, params: Params, carry: Carry) -> PyTree:
        """Refuses: the input is not in the carry."""
        raise TypeError("carry: got that of a residual network, which does not tell its input")

    def run_parts(self, run: RunPart, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """The part and its shortcut (S3)."""
        carry, ys = run(self.part, params, carry, xs)
        expected = f"the shape of its inputs {check.describe(xs)}, since they are added"
        check.require(ys.shape == jnp.shape(xs), "part", f"outputs {check.describe(ys)}", expected)
        return carry, ys + jnp.asarray(xs, ys.dtype)

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """One step; `(params, carry, x) -> (carry, y)`."""
        return self.run_parts(_run_one_step, params, carry, x)


def concatenate_features(forward: Array, backward: Array) -> jax.Array:
    """Both, side by side in the last axis."""
    return jnp.concatenate([forward, backward], axis=-1)


def _check_part(name: str, value: Any) -> None:
    check.require_type(isinstance(value, Part), name, value, "a Cell, Layer or Network")


def _takes_tokens(part: Part) -> bool:
    return part.num_feature_axes == 0


def _run_one_step(
    part: Part, params: Params, carry: Carry, x: PyTree, index: int | None = None
) -> StepResult:
    """What `run_parts` runs where there is only one step."""
    return part(params, carry, x)
