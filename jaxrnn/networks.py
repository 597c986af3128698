"""Cells and Layers joined: one after another, in both directions, around a shortcut."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn import check
from jaxrnn.sequence import unroll
from jaxrnn.types import Array, Carry, Key, Layer, Network, Params, Part, PyTree, Run, Stepped


class BothWays(NamedTuple):
    """Parameters, or carries, of the part that runs forward and of the one that runs backward."""

    forward: PyTree
    backward: PyTree


def stacked(*parts: Part) -> Network:
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
    check.that(parts, "parts", "none", "at least one Cell, Layer or Network")
    for i, part in enumerate(parts):
        _part(f"parts[{i}]", part)
        fits = i == 0 or _takes_tokens(parts[i - 1]) or not _takes_tokens(part)
        expected = f"one that takes features, as parts[{i - 1}] before it does"
        check.that(fits, f"parts[{i}]", "one that takes tokens", expected)
    return Stack(tuple(parts))


def bidirectional(
    forward: Part, backward: Part | None = None, *, merge: Callable[[Any, Any], Any] | None = None
) -> Network:
    """Two parts over the same inputs, one from the first step on, one from the last.

        y_t = merge(forward(x_1..x_t), backward(x_T..x_t))                                   (S2)

    On masked rows each direction runs over the valid steps alone, and a reset before step t cuts
    between t-1 and t in both.

    Args:
        forward: a Cell, a Layer or a Network.
        backward: likewise; the same as `forward` (with parameters of its own) unless given.
        merge: of two outputs; concatenation along the last axis unless given; `jnp.add` sums.

    Returns:
        A Network whose params and carry are `BothWays(forward, backward)`. It is no Step, since it
        needs the whole sequence. `output(params, carry)` merges the last output of `forward` with
        the one of `backward` at the first step. ValueError if one of them takes tokens and the
        other features.

    Gradient: what the loop makes of it; exact by default.

    Source: M. Schuster, K. Paliwal, "Bidirectional recurrent neural networks", IEEE Transactions on
    Signal Processing 45 (1997).
    """
    forward = _part("forward", forward)
    backward = forward if backward is None else _part("backward", backward)
    axes = forward.num_feature_axes, backward.num_feature_axes
    got, expected = (f"one that takes {n or 'no'} feature axes" for n in axes[::-1])
    check.that(axes[0] == axes[1], "backward", got, f"{expected}, as forward does")
    merge = concatenated if merge is None else check.function("merge", merge, takes=2)
    return Bidirectional((forward, backward), merge)


def residual(part: Part) -> Network:
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
    takes_tokens = _takes_tokens(_part("part", part))
    expected = "one that takes features, since outputs are added to them"
    check.that(not takes_tokens, "part", "one that takes tokens", expected)
    return Residual((part,))


def concatenated(forward: Array, backward: Array) -> jax.Array:
    """Both, side by side in the last axis."""
    return jnp.concatenate([forward, backward], axis=-1)


@dataclasses.dataclass(frozen=True)
class Joined(Network):
    """What networks have in common: their parts, each with params and a carry of its own."""

    parts: tuple[Part, ...]

    def carry(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Carry:
        """A tuple, one tree a part."""
        return tuple(part.carry(batch_shape, dtype) for part in self.parts)

    @property
    def noisy(self) -> bool:
        """Whether any part draws noise."""
        return any(p.noisy if isinstance(p, Network) else p.noise is not None for p in self.parts)

    @property
    def num_feature_axes(self) -> int:
        """As its first part's, which all parts that get the same inputs share."""
        return self.parts[0].num_feature_axes

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> Stepped:
        """One step; `(params, carry, x) -> (carry, y)`."""
        return self.through(_one_step, params, carry, x)


class Stack(Joined):
    """See `stacked`."""

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """A tuple, one tree a part; each part's inputs are as many as the outputs before it."""
        params, size = [], check.integer("input_size", input_size, least=1)
        dtype = check.floating("dtype", dtype)
        check.key("key", key)
        tokens, features = ((1,), jnp.int32), ((1, size), dtype)
        xs: Any = jax.ShapeDtypeStruct(*(tokens if _takes_tokens(self) else features))
        for part, key_part in zip(self.parts, jax.random.split(key, len(self.parts)), strict=True):
            size = size if _takes_tokens(part) else xs.shape[-1]
            params.append(part.init(key_part, size, dtype))
            xs = jax.eval_shape(lambda p, x, part=part: unroll(part, p, x)[1], params[-1], xs)
        return tuple(params)

    def output(self, params: Params, carry: Carry) -> PyTree:
        """The output of the last part that has a carry, through the Layers behind it."""
        check.one_each(self.parts, params=params, carry=carry)
        for i, part in reversed(list(enumerate(self.parts))):
            if not isinstance(part, Layer):
                behind, y = slice(i + 1, None), part.output(params[i], carry[i])
                return Stack(self.parts[behind])(params[behind], carry[behind], y)[1]
        raise ValueError("carry: got that of Layers alone, which do not remember their inputs")

    def through(self, run: Run, params: Params, carry: Carry, xs: PyTree) -> Stepped:
        """Part by part (S1)."""
        check.one_each(self.parts, params=params, carry=carry)
        carries = []
        for index, (part, p, c) in enumerate(zip(self.parts, params, carry, strict=True)):
            try:
                c, xs = run(part, p, c, xs, index)
            except (TypeError, ValueError) as error:
                error.add_note(f"in part {index} of a stack of {len(self.parts)}")
                raise
            carries.append(c)
        return tuple(carries), xs


@dataclasses.dataclass(frozen=True)
class Bidirectional(Joined):
    """See `bidirectional`."""

    merge: Callable[[Any, Any], Any]

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> BothWays:
        """Both parts' parameters, drawn apart."""
        check.integer("input_size", input_size, least=1)
        check.key("key", key)
        keyed = zip(self.parts, jax.random.split(key), strict=True)
        return BothWays(*(part.init(key_part, input_size, dtype) for part, key_part in keyed))

    def carry(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> BothWays:
        """Both parts' zero states."""
        return BothWays(*super().carry(batch_shape, dtype))

    def output(self, params: BothWays, carry: BothWays) -> PyTree:
        """What each direction ended with, merged."""
        check.one_each(self.parts, params=params, carry=carry)
        parts: Any = self.parts
        return self._merged(*map(lambda part, p, c: part.output(p, c), parts, params, carry))

    def through(self, run: Run, params: Params, carry: Carry, xs: PyTree) -> Stepped:
        """Both directions (S2)."""
        check.one_each(self.parts, params=params, carry=carry)
        forward, ys = run(self.parts[0], params[0], carry[0], xs, 0)
        backward, ys_back = run(self.parts[1], params[1], carry[1], xs, 1, turned=True)
        return BothWays(forward, backward), self._merged(ys, ys_back)

    def _merged(self, forward: PyTree, backward: PyTree) -> PyTree:
        ys, lead = self.merge(forward, backward), check.batch_shape(forward)
        fits = [jnp.shape(y)[: len(lead)] == lead for y in jax.tree.leaves(ys)]
        expected = f"arrays with the axes {list(lead)} in front, as both directions have"
        check.that(fits and all(fits), "merge", check.describe(ys), expected)
        return ys

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> Stepped:
        """Refuse: no step knows what comes after it."""
        raise TypeError("step: got a bidirectional network, expected one that runs forward only")


class Residual(Joined):
    """See `residual`."""

    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """The part's own."""
        return self.parts[0].init(key, input_size, dtype)

    def carry(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Carry:
        """The part's own."""
        return super().carry(batch_shape, dtype)[0]

    def output(self, params: Params, carry: Carry) -> PyTree:
        """Refuse: the input is not in the carry."""
        raise TypeError("carry: got that of a residual network, which does not tell its input")

    def through(self, run: Run, params: Params, carry: Carry, xs: PyTree) -> Stepped:
        """The part and its shortcut (S3)."""
        carry, ys = run(self.parts[0], params, carry, xs)
        expected = f"the shape of its inputs {check.describe(xs)}, since they are added"
        check.that(ys.shape == jnp.shape(xs), "part", f"outputs {check.describe(ys)}", expected)
        return carry, ys + jnp.asarray(xs, ys.dtype)


def _part(name: str, value: Any) -> Part:
    check.kind(isinstance(value, Part), name, value, "a Cell, Layer or Network")
    return value


def _takes_tokens(part: Part) -> bool:
    return part.num_feature_axes == 0


def _one_step(part: Any, params: Params, carry: Carry, x: PyTree, index: Any = None) -> Stepped:
    """What `through` runs where there is but one step."""
    return part(params, carry, x)
