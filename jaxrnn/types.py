"""The nouns of jaxrnn (Step, Cell, Loop, Layer) and the letters of its shapes.

T time, B batch, I input, H hidden, O output, G gates. Time is axis 0, features are last, and any
number of batch axes lie between: `(T, *batch, I)`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float

from jaxrnn import check

Array = jax.Array | np.ndarray
Key = Any  # of jax.random.key
State = Float[Array, "*lead H"]  # hidden states of one step (*batch, H) or of all (T, *batch, H)
Params = Any  # a pytree of arrays
Carry = Any  # a pytree of arrays (*batch, features)
PyTree = Any

Stepped = tuple[Carry, PyTree]  # of a step (carry, y), of a loop (carry, ys)
Step = Callable[[Params, Carry, PyTree], Stepped]
Draw = Callable[[Key, Params, Carry, PyTree], tuple[PyTree, PyTree]]  # see Cell.noise
Run = Callable[..., Stepped]  # see Network.through

Args = ParamSpec("Args")
Made = TypeVar("Made")


# Of each Cell and Layer that `once` made, how: the factory's name and its arguments; and each
# factory by its name.
RECIPES: dict[Any, tuple[str, inspect.BoundArguments]] = {}
FACTORIES: dict[str, Callable[..., Any]] = {}


def once(make: Callable[Args, Made]) -> Callable[Args, Made]:
    """The factory, so that equal arguments, however they are written, give the same Cell or Layer.

    Functions hash by identity: made anew, `gru(128)` would be another program to `jax.jit`. What
    was made can be asked how it was made, by `RECIPES`. Every public function that returns a Cell
    is made so. What it makes of a plain Step is neither kept nor recorded, since a Step may close
    over anything.
    """
    signature = inspect.signature(make)
    kept: dict[Any, Any] = {}

    @functools.wraps(make)
    def made(*args: Args.args, **kwargs: Args.kwargs) -> Made:
        try:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = (*bound.args, *bound.kwargs.values())
            written = (values, (*map(type, values),))
            thing = kept.get(written)
        except TypeError:  # it says itself what is wrong, and of a dict makes a new one each time
            return make(*args, **kwargs)
        if thing is None:
            thing = make(*bound.args, **bound.kwargs)
            if isinstance(thing, (Cell, Layer)):
                thing = kept.setdefault(written, thing)
                RECIPES.setdefault(thing, (make.__name__, bound))
        return thing

    FACTORIES[make.__name__] = made
    return made


@runtime_checkable
class Loop(Protocol):
    """`lax.scan`'s contract: run `step` over the leading axis of `xs`.

    All loops compute the same values. They differ in what `jax.grad` of them means, and in what it
    costs. A loop whose gradient is not exact says so, see `jaxrnn.types.gradient_of`; one that is
    cut on purpose also says where, see `jaxrnn.types.reach_of`.
    """

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> Stepped:
        """Return the last carry, and all outputs stacked."""


def reach_of(loop: Loop) -> Callable[[int], int] | None:
    """The map from a step to the first one that the gradient of its output reaches; None if exact.

    A factory of truncating loops sets it as the attribute `reach` of the function it returns, so
    that a judge of the gradient need know nothing of how the loop is built. It must not decrease;
    the last carry reaches as far as the last output.
    """
    return getattr(loop, "reach", None)


def gradient_of(loop: Loop) -> str:
    """What `jax.grad` of a loop means: "exact", "truncated" or "stochastic".

    A factory of loops that are not exact sets it as the attribute `gradient` of the function that
    it returns; a loop without it is exact, but one that has a `reach` is truncated.
    """
    cut = "exact" if reach_of(loop) is None else "truncated"
    return getattr(loop, "gradient", cut)


def exact_loop(name: str, loop: Any) -> Any:
    """`loop` if it is a Loop whose gradient is exact, as one inside another has to be; or error.

    A loop that cuts would cut the windows of the other anew, and one that draws would draw the same
    in each of them.
    """
    check.function(name, loop, takes=4)
    got = f"{getattr(loop, '__name__', loop)}, whose gradient is {gradient_of(loop)}"
    check.that(gradient_of(loop) == "exact", name, got, "an exact loop")
    return loop


def loop_of_part(loop: Loop, index: int) -> Loop:
    """The loop for part number `index` of a network.

    A loop that draws has to draw apart in each part. It offers, as the attribute `of_part`, the
    function from a part's number to its loop; all others run every part themselves.
    """
    return getattr(loop, "of_part", lambda index: loop)(index)


def loop_around(loop: Loop, run: Callable[..., Stepped]) -> Loop:
    """The loop `run(loop, step, params, carry, xs)`; each part of a network runs its own `loop`."""

    def around(step: Step, params: Params, carry: Carry, xs: PyTree) -> Stepped:
        return run(loop, step, params, carry, xs)

    setattr(around, "gradient", gradient_of(loop))
    if reach_of(loop) is not None:
        setattr(around, "reach", reach_of(loop))
    setattr(around, "of_part", lambda index: loop_around(loop_of_part(loop, index), run))
    return around


class Seen(NamedTuple):
    """What `advance` was given and what it made of it, at one step or, stacked, at all.

    Fields:
        carry_tm1: c_{t-1}, the carry before the step.
        z: z_t, what `project` made of the input.
        carry: c_t, the carry after the step.
        saved: what `advance` remembered.
    """

    carry_tm1: Any
    z: Any
    carry: Any
    saved: Any


@dataclasses.dataclass(frozen=True)
class Cell:
    """A Step that shows its parts, so that a loop can reorder them and write its own backward pass.

    One step is

        z_t          = project(params, x_t),    w = prepare(params)                          (C1)
        c_t, saved_t = advance(w, c_{t-1}, z_t)                                              (C2)
        y_t          = output(params, c_t)                                                   (C3)

    and its backward pass, with λ_t = ∂L/∂c_t (all that reaches c_t: from y_t and from t+1) and
    seen_t = Seen(c_{t-1}, z_t, c_t, saved_t),

        λ_{t-1}, δ_t   = adjoint(w, seen_t, λ_t)                                             (C4)
        ∂L/∂w, ∂L/∂z   = gather(w, seen_{1..T}, δ_{1..T})                                    (C5)

    (C2) and (C4) are all that runs in order. `project` and `output` act on the features and take
    any leading axes, so they run once for the whole sequence; `prepare` brings what the loop needs
    of the parameters into the form in which it needs it, once before the loop. These three are
    differentiated by JAX. `adjoint` is the transposed Jacobian of `advance` in c_{t-1}; δ_t is what
    it learned on the way. `gather` sees every step at once, so that each weight gradient is one
    matrix product over time and batch. `saved_t` is the least that the backward pass must remember
    beside c_{t-1}, z_t and c_t; what neither function reads of any of them is not kept.

    `adjoint` and `gather` may be left out: they are then derived from `advance` by JAX. A cell that
    has them must not close over traced values: everything passes through `params` or `z`.

    A Cell is a frozen dataclass and no NamedTuple, because JAX keeps weak references to the
    functions it transforms, and a tuple cannot have one: `jax.jit(cell)` must work.

    Fields:
        init: `(key, input_size, dtype=float32) -> params`.
        carry: `(batch_shape=(), dtype=float32) -> carry`, the zero state; asked for in the
            narrowest floating dtype of the parameters, it may be wider where sums need it.
        project: `(params, xs) -> zs`; leaves `(*lead, features)`.
        advance: `(w, carry_tm1, z_t) -> (carry_t, saved_t)`.
        output: `(params, carries) -> ys`.
        adjoint: `(w, seen_t, d_carry_t) -> (d_carry_tm1, delta_t)`.
        gather: `(w, seen, deltas) -> (d_w, d_zs)`.
        prepare: `(params) -> w`; the parameters as they are, unless given.
        noise: `(key, params, carry, xs) -> (shared, stepwise)`, drawn once for a whole sequence:
            what is the same at all steps, and what has a leading time axis. `unroll(key=...)` then
            hands `Noised(params, shared)` and `Noised(xs, stepwise)` to `project`, `prepare` and
            `output`. None if the cell is deterministic.
        num_feature_axes: how many axes of an input are features, 1 unless given; 0 for a cell whose
            inputs are tokens, integers `(*batch)`.
    """

    init: Callable[..., Params]
    carry: Callable[..., Carry]
    project: Callable[[Params, PyTree], PyTree]
    advance: Callable[[PyTree, Carry, PyTree], tuple[Carry, PyTree]]
    output: Callable[[Params, Carry], PyTree]
    adjoint: Callable[[PyTree, Seen, Carry], tuple[Carry, PyTree]] | None = None
    gather: Callable[[PyTree, Seen, PyTree], tuple[PyTree, PyTree]] | None = None
    prepare: Callable[[Params], PyTree] = lambda params: params
    noise: Draw | None = None
    num_feature_axes: int = 1

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> Stepped:
        """One step, `(params, carry, x) -> (carry, y)`: a Cell is a Step.

        x is `(*batch, I)`, a token `(*batch)`; carry as `cell.carry(batch_shape)` makes it. Raises
        TypeError or ValueError where they do not fit. The gradient is JAX's own, exact.
        """
        check.arrays(params=params, carry=carry, xs=x)
        jax.eval_shape(self.project, params, x)  # raises unless they fit, before anything is run
        check.carry_fits(self, params, carry, check.batch_shape(x, self.num_feature_axes))
        carry, _ = self.advance(self.prepare(params), carry, self.project(params, x))
        return carry, self.output(params, carry)

    @property
    def by_hand(self) -> bool:
        """Whether it brings a backward pass of its own."""
        return self.adjoint is not None and self.gather is not None

    def changed(self, adjoint: Any, gather: Any, **parts: Any) -> "Cell":
        """The cell with other parts, and a backward pass by hand only if it has one of its own."""
        more = {"adjoint": adjoint, "gather": gather} if self.by_hand else {}
        return dataclasses.replace(self, **parts, **more)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A map without memory, as pure functions: `readout`, `embedding` and `dropout` are Layers.

    It is a Step, too, whose carry is the empty tuple.

    Fields:
        init: `(key, input_size, dtype=float32) -> params`; of tokens, the input size is how many
            different ones there are.
        apply: `(params, inputs) -> outputs`, over any leading axes.
        noise: as in a Cell.
        num_feature_axes: as in a Cell; `embedding` has 0.
    """

    init: Callable[..., Params]
    apply: Callable[[Params, Any], Any]
    noise: Draw | None = None
    num_feature_axes: int = 1

    def carry(self, batch_shape: tuple[int, ...] = (), dtype: Any = None) -> Carry:
        """The empty tuple, since a Layer remembers nothing."""
        return ()

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> Stepped:
        """One step; `(params, (), x) -> ((), y)`."""
        check.same_tree("carry", carry, ())
        return (), self.apply(params, x)


@runtime_checkable
class Network(Protocol):
    """Cells and Layers joined: what `stacked`, `bidirectional` and `residual` return.

    `unroll` takes it where it takes a Cell. It brings no way through time of its own: `through`
    says in which order its parts are run, and what runs each of them over its inputs, a whole
    sequence or one step, is handed to it.
    """

    def init(self, key: Key, input_size: int, dtype: Any = ...) -> Params:
        """Parameters, one tree a part."""

    def carry(self, batch_shape: tuple[int, ...] = (), dtype: Any = ...) -> Carry:
        """The zero state, one tree a part."""

    def output(self, params: Params, carry: Carry) -> PyTree:
        """The outputs that belong to a carry: many-to-one."""

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> Stepped:
        """One step; TypeError where the network needs the whole sequence."""

    def through(self, run: Run, params: Params, carry: Carry, xs: PyTree) -> Stepped:
        """Run the parts by `run(part, params, carry, xs, index=None, *, turned=False)`.

        `index` is the place of the part's tree in params and carry, None where they are the whole;
        `turned` asks for the other direction of time.
        """

    @property
    def noisy(self) -> bool:
        """Whether any part draws noise."""

    @property
    def num_feature_axes(self) -> int:
        """How many axes of an input are features; 0 if inputs are tokens, integers `(*batch)`."""
        return 1


Part = Cell | Layer | Network


class Noised(NamedTuple):
    """Parameters or inputs, and the noise that goes with them.

    Fields:
        value: what a function would be handed without noise.
        noise: what `Cell.noise` drew.
    """

    value: PyTree
    noise: PyTree
