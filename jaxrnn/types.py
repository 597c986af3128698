"""The nouns of jaxrnn (Step, Cell, Layer, Network, Loop) and the letters of its shapes.

T time, B batch, I input, H hidden, O output, G gates. Time is axis 0, features are last, and any
number of batch axes lie between: `(T, *batch, I)`.

Cells, layers and networks are frozen dataclasses. Two objects are equal if their fields are equal,
so `jax.jit` compiles one program for two calls of `gru(128)`. The repr of an object is the
expression that constructs it.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxrnn import check
from jaxrnn.expression import Expression, name_of

Array = jax.Array | np.ndarray
Key = jax.Array  # one key of jax.random.key, or a raw key of PRNGKey
State = Float[Array, "*lead H"]  # hidden states (*batch, H) or (T, *batch, H)
Params = Any  # a pytree of arrays
Carry = Any  # a pytree of arrays (*batch, features)
Weights = Any  # the return value of a cell's `prepare`
PyTree = Any

StepResult = tuple[Carry, PyTree]  # (carry, y) from a step, (carry, ys) from a loop
Step = Callable[[Params, Carry, PyTree], StepResult]
RunPart = Callable[..., StepResult]  # see Network.run_parts


@runtime_checkable
class Loop(Protocol):
    """The contract of `lax.scan`: runs `step` over the leading axis of `xs`.

    All loops compute the same values. They differ in the gradient that `jax.grad` computes, and in
    their cost. A loop whose gradient is not exact declares this in its attribute `gradient`, see
    `jaxrnn.types.gradient_of`. A loop that truncates the gradient also declares where each window
    starts, see `jaxrnn.types.window_start_of`. A plain function with this contract is a loop whose
    gradient is exact.
    """

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Returns the last carry and the stacked outputs of all steps."""


def gradient_of(loop: Loop) -> str:
    """Returns the kind of gradient of a loop: "exact", "truncated" or "stochastic".

    A loop declares it in its attribute `gradient`. A loop without that attribute is "truncated" if
    it has a `window_start`, and "exact" otherwise.
    """
    declared: str | None = getattr(loop, "gradient", None)
    if declared is not None:
        return declared
    return "exact" if window_start_of(loop) is None else "truncated"


def window_start_of(loop: Loop) -> Callable[[int], int] | None:
    """Returns the map from step t to the first step that the gradient of y_t reaches.

    None if the gradient is exact. A truncating loop defines the map as its method `window_start`,
    so that a test of the gradient does not depend on how the loop is implemented. The map must not
    decrease. The gradient of the last carry reaches as far back as that of the last output.
    """
    return getattr(loop, "window_start", None)


def exact_loop(name: str, loop: Loop) -> Loop:
    """Returns `loop` if it is a Loop whose gradient is exact; raises an error otherwise.

    A loop that runs inside another loop must be exact and run on one device. A truncating inner
    loop would truncate each window of the outer loop again. A stochastic inner loop would draw the
    same numbers in each window.
    """
    check.require_callable(name, loop, takes=4)
    got = f"{name_of(loop)}, whose gradient is {gradient_of(loop)}"
    check.require(gradient_of(loop) == "exact", name, got, "an exact loop")
    got = f"{name_of(loop)}, which divides time over devices"
    check.require(time_axis_of(loop) is None, name, got, "a loop on one device")
    return loop


def loop_of_part(loop: Loop, index: int) -> Loop:
    """Returns the loop that runs part number `index` of a network.

    A loop that draws random numbers must draw different numbers in each part. It defines the method
    `of_part`, which maps a part's number to its loop. Any other loop runs every part itself.
    """
    of_part: Callable[[int], Loop] | None = getattr(loop, "of_part", None)
    return loop if of_part is None else of_part(index)


def loop_in_reverse(loop: Loop) -> Loop:
    """Returns the loop for a sequence whose steps have been put in reverse order.

    A loop that divides the time axis over devices defines the method `in_reverse`, since then the
    last device holds the first steps. Any other loop runs both orders itself.
    """
    in_reverse: Callable[[], Loop] | None = getattr(loop, "in_reverse", None)
    return loop if in_reverse is None else in_reverse()


def time_axis_of(loop: Loop) -> Any:
    """Returns the mesh axis over which a loop divides the time axis; None if it does not."""
    return getattr(loop, "time_axis", None)


class LoopAround:
    """A loop that calls `run(loop, step, params, carry, xs)`.

    In a network, each part gets its own inner loop. What the inner loop declares about itself, such
    as the kind of its gradient, the wrapper declares too.
    """

    def __init__(self, loop: Loop, run: Callable[..., StepResult]) -> None:
        self.loop = loop
        self.run = run
        self.gradient = gradient_of(loop)
        self.window_start = window_start_of(loop)
        self.time_axis = time_axis_of(loop)

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Calls `run` with the inner loop and the arguments."""
        return self.run(self.loop, step, params, carry, xs)

    def of_part(self, index: int) -> "LoopAround":
        """Returns the same wrapper around the loop of one part."""
        return LoopAround(loop_of_part(self.loop, index), self.run)

    def in_reverse(self) -> "LoopAround":
        """Returns the same wrapper around the loop of a reversed sequence."""
        return LoopAround(loop_in_reverse(self.loop), self.run)


class Part(Expression, abc.ABC):
    """The base class of everything that `unroll` runs: a Cell, a Layer or a Network."""

    @abc.abstractmethod
    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the initial parameters.

        Args:
            key: a key of `jax.random.key`.
            input_size: I, the number of features of an input. A part that takes tokens gets the
                size of the vocabulary.
            dtype: a floating-point dtype for the parameters.
        """

    @abc.abstractmethod
    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """Returns the zero state.

        Args:
            batch_shape: the batch axes.
            dtype: the narrowest floating-point dtype of the parameters. The carry is wider where it
                holds sums over time.
        """

    @abc.abstractmethod
    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """Runs one step, `(params, carry, x) -> (carry, y)`; a Part is a Step."""

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of an input: 1, or 0 for integer tokens `(*batch)`."""
        return 1

    def feature_shape(self, input_size: int) -> tuple[int, ...]:
        """Returns the feature axes of an input: `(input_size,)`, or `()` for tokens.

        A part with several feature axes, such as `conv_lstm`, overrides it; the last axis is
        `input_size`.
        """
        return (input_size,) * self.num_feature_axes  # one axis, or none for tokens

    @property
    def is_noisy(self) -> bool:
        """Whether the part draws noise when `unroll` gets a key."""
        return False

    def draw_noise(
        self, key: Key, params: Params, carry: Carry, xs: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Draws the noise of a whole sequence.

        Returns a pair: the noise that all steps share, and the noise that has a time axis. With
        `unroll(key=...)` the part then gets `WithNoise(params, shared)` as params and
        `WithNoise(xs, per_step)` as xs.
        """
        return None, None


class Residuals(NamedTuple):
    """The arrays that the backward pass keeps from `advance`.

    They belong to one step, or to all steps, stacked over time.

    Fields:
        previous_carry: c_{t-1}, the carry before the step.
        z: z_t, the projected input.
        carry: c_t, the carry after the step.
        saved: the second output of `advance`.
    """

    previous_carry: Carry
    z: PyTree
    carry: Carry
    saved: PyTree


class Cell(Part):
    """A Step split into parts, so that a loop can reorder them and run their backward pass.

    One step is

        z_t          = project(params, x_t),    w = prepare(params)                          (C1)
        c_t, saved_t = advance(w, c_{t-1}, z_t)                                              (C2)
        y_t          = output(params, c_t)                                                   (C3)

    and its backward pass, with λ_t = ∂L/∂c_t (the sum of the gradients from y_t and from step t+1)
    and r_t = Residuals(c_{t-1}, z_t, c_t, saved_t),

        λ_{t-1}, δ_t   = adjoint(w, r_t, λ_t)                                                (C4)
        ∂L/∂w, ∂L/∂z   = gradients(w, r_{1..T}, δ_{1..T})                                    (C5)

    Only (C2) and (C4) run in order. `project` and `output` act on the features and accept any
    leading axes, so they run once for the whole sequence. `prepare` runs once before the loop and
    brings the parameters into the form that the loop needs. JAX differentiates these three.
    `adjoint` applies the transposed Jacobian of `advance` with respect to c_{t-1}; δ_t is the
    cotangent that `gradients` needs from this step. `gradients` gets all steps at once, so each
    weight gradient is one matrix product over time and batch. Arrays that neither `adjoint` nor
    `gradients` reads are not kept.

    To write a cell, subclass Cell as a frozen dataclass and define `init`, `initial_carry`,
    `project`, `advance` and `output`. Without `adjoint` and `gradients`, the backward pass is
    derived from `advance`. A cell that defines them must not close over traced values; it gets them
    through `params` or `z`.
    """

    @abc.abstractmethod
    def project(self, params: Params, xs: PyTree) -> PyTree:
        """Returns z of (C1), for inputs with any leading axes; leaves are `(*lead, features)`."""

    def prepare(self, params: Params) -> Weights:
        """Returns w of (C1); defaults to the parameters themselves."""
        return params

    @abc.abstractmethod
    def advance(self, w: Weights, carry: Carry, z: PyTree) -> tuple[Carry, PyTree]:
        """Returns the next carry and the values that the backward pass saves (C2)."""

    @abc.abstractmethod
    def output(self, params: Params, carries: Carry) -> PyTree:
        """Returns y of (C3), for carries with any leading axes."""

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Returns λ_{t-1} and δ_t of (C4)."""
        raise NotImplementedError(f"{self!r} has no hand-written backward pass")

    def gradients(self, w: Weights, residuals: Residuals, deltas: PyTree) -> tuple[Weights, PyTree]:
        """Returns ∂L/∂w and ∂L/∂z of (C5)."""
        raise NotImplementedError(f"{self!r} has no hand-written backward pass")

    @property
    def has_handwritten_backward(self) -> bool:
        """Whether the cell defines `adjoint` and `gradients`.

        Raises a TypeError if it defines only one of them.
        """
        # Of the class, not of the object: `Cell` itself has both methods, which raise an error.
        cls = type(self)
        has_adjoint = cls.adjoint is not Cell.adjoint
        has_gradients = cls.gradients is not Cell.gradients
        got = "adjoint without gradients" if has_adjoint else "gradients without adjoint"
        has_both_or_neither = has_adjoint == has_gradients
        check.require(has_both_or_neither, cls.__name__, got, "both of them, or neither", TypeError)
        return has_adjoint

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """Runs one step, `(params, carry, x) -> (carry, y)`; a Cell is a Step.

        x is `(*batch, I)`, or `(*batch)` for tokens; carry has the shapes and dtypes of
        `initial_carry(batch_shape)`. Raises TypeError or ValueError if they do not fit. JAX
        differentiates the step; the gradient is exact.
        """
        check.require_arrays(params=params, carry=carry, xs=x)
        jax.eval_shape(self.project, params, x)  # raises before any computation
        batch = check.batch_shape(x, self.num_feature_axes)
        check.require_carry(self.initial_carry, params, carry, batch)
        result = self.advance(self.prepare(params), carry, self.project(params, x))
        carry, _ = check.require_pair("advance", result)
        return carry, self.output(params, carry)


class Layer(Part):
    """A map without memory, such as `linear`, `embedding` and `dropout`.

    It is also a Step, whose carry is the empty tuple. To write a layer, subclass Layer as a frozen
    dataclass and define `init` and `apply`.
    """

    @abc.abstractmethod
    def apply(self, params: Params, inputs: PyTree) -> PyTree:
        """Returns the outputs, for inputs with any leading axes."""

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """Returns the empty tuple, since a Layer has no memory."""
        return ()

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """Runs one step, `(params, (), x) -> ((), y)`."""
        check.require_same_tree("carry", carry, ())
        return (), self.apply(params, x)


class Network(Part):
    """Cells and Layers joined, such as `stacked`, `bidirectional` and `residual`.

    `unroll` accepts a Network in the place of a Cell. A Network does not run its parts over time
    itself. Its method `run_parts` defines their order, and calls a function that runs one part over
    its inputs, which are a whole sequence or one step.
    """

    @abc.abstractmethod
    def output(self, params: Params, carry: Carry) -> PyTree:
        """Returns the outputs that belong to a carry, for many-to-one models."""

    @abc.abstractmethod
    def run_parts(self, run: RunPart, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the parts with `run(part, params, carry, xs, index=None, *, reverse=False)`.

        `index` is the position of the part in the params and the carry of the network. It is None
        if the part has the whole params and carry. `reverse` asks for the other direction of time.
        """


class WithNoise(NamedTuple):
    """Parameters or inputs together with their noise.

    Fields:
        value: the parameters or inputs.
        noise: the noise that `draw_noise` drew for them.
    """

    value: PyTree
    noise: PyTree
