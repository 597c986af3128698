"""The nouns of jaxrnn (Step, Cell, Layer, Network, Loop) and the letters of its shapes.

T time, B batch, I input, H hidden, O output, G gates. Time is axis 0, features are last, and any
number of batch axes lie between: `(T, *batch, I)`.

Cells, layers and networks are frozen dataclasses. Two of them are equal if their fields are, so
`gru(128)` written twice is one program to `jax.jit`, and their repr is the expression that makes
them.
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
Key = Any  # of jax.random.key
State = Float[Array, "*lead H"]  # hidden states of one step (*batch, H) or of all (T, *batch, H)
Params = Any  # a pytree of arrays
Carry = Any  # a pytree of arrays (*batch, features)
Weights = Any  # what a cell's `prepare` makes of the parameters
PyTree = Any

StepResult = tuple[Carry, PyTree]  # of a step (carry, y), of a loop (carry, ys)
Step = Callable[[Params, Carry, PyTree], StepResult]
RunPart = Callable[..., StepResult]  # see Network.run_parts


@runtime_checkable
class Loop(Protocol):
    """`lax.scan`'s contract: run `step` over the leading axis of `xs`.

    All loops compute the same values. They differ in what `jax.grad` of them means, and in what it
    costs. A loop whose gradient is not exact says so, see `jaxrnn.types.gradient_of`; a loop that
    truncates the gradient also says where, see `jaxrnn.types.window_start_of`. A plain function
    with this contract is a loop whose gradient is exact.
    """

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Return the last carry, and all outputs stacked."""


def gradient_of(loop: Loop) -> str:
    """What `jax.grad` of a loop means: "exact", "truncated" or "stochastic".

    A loop says it by its attribute `gradient`. A loop without it is exact, or truncated if it has a
    `window_start`.
    """
    default = "exact" if window_start_of(loop) is None else "truncated"
    return getattr(loop, "gradient", default)


def window_start_of(loop: Loop) -> Callable[[int], int] | None:
    """The map from step t to the first step that the gradient of y_t reaches; None if exact.

    A truncating loop offers it as its method `window_start`, so that a test of the gradient need
    not know how the loop works. It must not decrease. The last carry reaches as far as the last
    output.
    """
    return getattr(loop, "window_start", None)


def exact_loop(name: str, loop: Any) -> Any:
    """`loop` if it is a Loop whose gradient is exact; otherwise our error.

    A loop inside another one has to be exact. One that truncates would truncate the windows of the
    outer loop again, and one that draws would draw the same numbers in each of them.
    """
    check.require_callable(name, loop, takes=4)
    got = f"{name_of(loop)}, whose gradient is {gradient_of(loop)}"
    check.require(gradient_of(loop) == "exact", name, got, "an exact loop")
    return loop


def loop_of_part(loop: Loop, index: int) -> Loop:
    """The loop for part number `index` of a network.

    A loop that draws random numbers has to draw different ones in each part. It offers the method
    `of_part`, from a part's number to its loop. All other loops run every part themselves.
    """
    return getattr(loop, "of_part", lambda index: loop)(index)


class LoopAround:
    """The loop `run(loop, step, params, carry, xs)`; each part of a network runs its own `loop`."""

    def __init__(self, loop: Loop, run: Callable[..., StepResult]) -> None:
        self.loop, self.run, self.gradient = loop, run, gradient_of(loop)
        self.window_start = window_start_of(loop)

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the loop by `run`."""
        return self.run(self.loop, step, params, carry, xs)

    def of_part(self, index: int) -> "LoopAround":
        """The same around the loop of one part."""
        return LoopAround(loop_of_part(self.loop, index), self.run)


class Part(Expression, abc.ABC):
    """What `unroll` runs and networks are made of: a Cell, a Layer or a Network."""

    @abc.abstractmethod
    def init(self, key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the initial parameters.

        Args:
            key: of `jax.random.key`.
            input_size: I, the features of an input; the number of different tokens for a part that
                takes tokens.
            dtype: of the parameters, floating point.
        """

    @abc.abstractmethod
    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """The zero state.

        Args:
            batch_shape: the batch axes.
            dtype: the narrowest floating dtype of the parameters. The carry may be wider where it
                holds sums.
        """

    @abc.abstractmethod
    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """One step, `(params, carry, x) -> (carry, y)`: a Part is a Step."""

    @property
    def num_feature_axes(self) -> int:
        """How many axes of an input are features: 1, or 0 for tokens, integers `(*batch)`."""
        return 1

    @property
    def is_noisy(self) -> bool:
        """Whether the part draws noise when `unroll` gets a key."""
        return False

    def draw_noise(
        self, key: Key, params: Params, carry: Carry, xs: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Draws the noise of a whole sequence: what all steps share, and what has a time axis.

        `unroll(key=...)` then passes `WithNoise(params, shared)` and `WithNoise(xs, per_step)` on
        in the place of params and xs.
        """
        return None, None


class Residuals(NamedTuple):
    """What the backward pass keeps of `advance`, at one step or, stacked, at all steps.

    Fields:
        previous_carry: c_{t-1}, the carry before the step.
        z: z_t, the projected input.
        carry: c_t, the carry after the step.
        saved: what `advance` returned beside the carry.
    """

    previous_carry: Any
    z: Any
    carry: Any
    saved: Any


class Cell(Part):
    """A Step that shows its parts, so that a loop can reorder them and write its backward pass.

    One step is

        z_t          = project(params, x_t),    w = prepare(params)                          (C1)
        c_t, saved_t = advance(w, c_{t-1}, z_t)                                              (C2)
        y_t          = output(params, c_t)                                                   (C3)

    and its backward pass, with λ_t = ∂L/∂c_t (the sum of what comes from y_t and from step t+1) and
    r_t = Residuals(c_{t-1}, z_t, c_t, saved_t),

        λ_{t-1}, δ_t   = adjoint(w, r_t, λ_t)                                                (C4)
        ∂L/∂w, ∂L/∂z   = gradients(w, r_{1..T}, δ_{1..T})                                    (C5)

    Only (C2) and (C4) run in order. `project` and `output` act on the features and take any leading
    axes, so they run once for the whole sequence. `prepare` brings the parameters into the form
    that the loop needs, once before the loop. JAX differentiates these three. `adjoint` is the
    transposed Jacobian of `advance` in c_{t-1}; δ_t is what `gradients` needs of it. `gradients`
    gets all steps at once, so each weight gradient is one matrix product over time and batch.
    Arrays that neither `adjoint` nor `gradients` reads are not kept.

    To write a cell, subclass Cell as a frozen dataclass and define `init`, `initial_carry`,
    `project`, `advance` and `output`. `adjoint` and `gradients` may be left out; then they are
    derived from `advance`. A cell that has them must not close over traced values: everything
    passes through `params` or `z`.
    """

    @abc.abstractmethod
    def project(self, params: Params, xs: PyTree) -> PyTree:
        """z of (C1), for inputs with any leading axes; leaves `(*lead, features)`."""

    def prepare(self, params: Params) -> Weights:
        """w of (C1); the parameters themselves unless a cell overrides it."""
        return params

    @abc.abstractmethod
    def advance(self, w: Weights, carry: Carry, z: PyTree) -> tuple[Carry, PyTree]:
        """The next carry and what the backward pass needs beside it (C2)."""

    @abc.abstractmethod
    def output(self, params: Params, carries: Carry) -> PyTree:
        """y of (C3), for carries with any leading axes."""

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """λ_{t-1} and δ_t of (C4)."""
        raise NotImplementedError(f"{self!r} has no hand-written backward pass")

    def gradients(self, w: Weights, residuals: Residuals, deltas: PyTree) -> tuple[Weights, PyTree]:
        """∂L/∂w and ∂L/∂z of (C5)."""
        raise NotImplementedError(f"{self!r} has no hand-written backward pass")

    @property
    def has_handwritten_backward(self) -> bool:
        """Whether the cell defines `adjoint` and `gradients`."""
        own = type(self)
        return own.adjoint is not Cell.adjoint and own.gradients is not Cell.gradients

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """One step, `(params, carry, x) -> (carry, y)`: a Cell is a Step.

        x is `(*batch, I)`, a token `(*batch)`; carry has the form of `initial_carry(batch_shape)`.
        Raises TypeError or ValueError where they do not fit. The gradient is JAX's own, exact.
        """
        check.require_arrays(params=params, carry=carry, xs=x)
        jax.eval_shape(self.project, params, x)  # raises unless they fit, before anything is run
        check.require_carry(self, params, carry, check.batch_shape(x, self.num_feature_axes))
        carry, _ = self.advance(self.prepare(params), carry, self.project(params, x))
        return carry, self.output(params, carry)


class Layer(Part):
    """A map without memory: `linear`, `embedding` and `dropout` are Layers.

    It is a Step, too, whose carry is the empty tuple. To write one, subclass Layer as a frozen
    dataclass and define `init` and `apply`.
    """

    @abc.abstractmethod
    def apply(self, params: Params, inputs: PyTree) -> PyTree:
        """The outputs, over any leading axes."""

    def initial_carry(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Carry:
        """The empty tuple, since a Layer has no memory."""
        return ()

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """One step; `(params, (), x) -> ((), y)`."""
        check.require_same_tree("carry", carry, ())
        return (), self.apply(params, x)


class Network(Part):
    """Cells and Layers joined: `stacked`, `bidirectional` and `residual` are Networks.

    `unroll` takes it where it takes a Cell. A Network does not run its parts through time itself:
    `run_parts` says in which order they run, and calls the function that runs one part over its
    inputs, a whole sequence or one step.
    """

    @abc.abstractmethod
    def output(self, params: Params, carry: Carry) -> PyTree:
        """The outputs that belong to a carry: many-to-one."""

    @abc.abstractmethod
    def run_parts(self, run: RunPart, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the parts by `run(part, params, carry, xs, index=None, *, reverse=False)`.

        `index` is the place of the part's tree in params and carry, None where they are the whole;
        `reverse` asks for the other direction of time.
        """


class WithNoise(NamedTuple):
    """Parameters or inputs, and the noise that belongs to them.

    Fields:
        value: the parameters or inputs themselves.
        noise: what `draw_noise` drew for them.
    """

    value: PyTree
    noise: PyTree
