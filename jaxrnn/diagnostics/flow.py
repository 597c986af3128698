"""Follows the gradient: through which steps, to which parameters, past which gates?"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from jaxrnn import check, runner, tree
from jaxrnn.loops.bptt import bptt
from jaxrnn.transforms.adjoint import ProbeInputs, probe_adjoint
from jaxrnn.transforms.rows import num_batch_axes, row_norm
from jaxrnn.types import (
    Array,
    Carry,
    Loop,
    LoopAround,
    Params,
    PyTree,
    Step,
    StepResult,
)

Loss = Callable[..., jax.Array]  # (params, *args, loop=loop) -> scalar

# The shapes of an extra input of a call of a loop, and the function of that input which replaces
# the call.
WithExtraInput = tuple[PyTree, Callable[[PyTree], StepResult]]
ExtraInput = Callable[[Loop, Step, Params, Carry, PyTree], WithExtraInput]

Result = TypeVar("Result")


class GradientFlow(NamedTuple):
    """A loss, its gradient, and the norms of the adjoints of its recurrent layers.

    Fields:
        value: L.
        grads: ∂L/∂params.
        norms: ‖∂L/∂c_t‖ `(T, *batch)`, one array for each recurrent layer, in the order in which
            the layers run. Steps too are in the order in which they run: a layer that runs backward
            in time begins with the last step.
    """

    value: jax.Array
    grads: Params
    norms: tuple[jax.Array, ...]


def gradient_flow(loss: Loss, params: Params, *args: Any, loop: Loop = bptt) -> GradientFlow:
    """Returns a loss, its gradient, and the norm of the adjoint at every step.

        λ_t = ∂L/∂c_t,    ‖λ_t‖² = Σ over all arrays of the carry of a row                   (F1)

    λ_t is everything that reaches c_t: from later steps and from the output of step t. In an LSTM,
    the part that reaches c through h of the same step is counted for h.

    Args:
        loss: `loss(params, *args, loop=loop) -> scalar`. It runs its recurrences by `unroll(...,
            loop=loop)` or by `loop` itself, each of them once and not inside a scan. Networks,
            plain Steps, masks, resets and noise are all supported.
        params: the parameters to differentiate with respect to.
        *args: passed on to the loss.
        loop: the gradient algorithm whose adjoints are measured.

    Returns:
        A `GradientFlow`.

    Gradient: that of `loop`. Time and memory: those of the gradient, plus one reduction over the
    carry at each step. The reduction is noticeable where a step is as short as the reduction itself
    (an Elman cell of 64, B = 1).

    Source: S. Hochreiter, "Untersuchungen zu dynamischen neuronalen Netzen", TU München 1991;
    Y. Bengio, P. Simard, P. Frasconi, "Learning long-term dependencies with gradient descent is
    difficult", IEEE Transactions on Neural Networks 5 (1994).

    Examples:
        >>> cell = jaxrnn.gru(16)
        >>> params = cell.init(jax.random.key(0), input_size=8)
        >>> def loss(params, xs, loop=jaxrnn.bptt):
        ...     carry, ys = jaxrnn.unroll(cell, params, xs, loop=loop)
        ...     return jnp.mean(carry**2)
        >>> flow = jaxrnn.diagnostics.gradient_flow(loss, params, jnp.ones((50, 4, 8)))
        >>> flow.norms[0].shape  # of ∂L/∂h_t, by step and row
        (50, 4)
    """

    def with_probe(
        loop: Loop, step: Step, params: Params, carry: Carry, xs: PyTree
    ) -> WithExtraInput:
        """The gradient of the extra input, a number for each row and step, is ‖λ_t‖."""
        norm = jax.eval_shape(lambda carry: row_norm(carry, num_batch_axes(step, carry)), carry)
        shape = jax.ShapeDtypeStruct((check.num_steps(xs), *norm.shape), norm.dtype)

        def run(probe: jax.Array) -> StepResult:
            return loop(probe_adjoint(step), params, carry, ProbeInputs(xs, probe))

        return shape, run

    value, (grads, norms) = grad_with_extra_inputs(loss, params, args, loop, with_probe)
    return GradientFlow(value, grads, norms)


def per_step_gradients(
    loss: Loss, params: Params, *args: Any, loop: Loop = bptt
) -> tuple[Params, ...]:
    """Returns what each step adds to the gradient of each parameter of a recurrence.

        ∂L/∂W = Σ_t G_t,    G_t = (∂c_t/∂W)ᵀ λ_t + (∂y_t/∂W)ᵀ ∂L/∂y_t                        (F2)

    G_t is the gradient for W_t if every step has a copy W_t of the parameter W.

    Args:
        loss: `loss(params, *args, loop=loop) -> scalar`, with the requirements that `gradient_flow`
            lists.
        params: the parameters of the loss.
        *args: passed on to the loss.
        loop: the gradient algorithm.

    Returns:
        For each recurrent layer, in the order in which the layers run, a tree like that layer's
        parameters, each leaf `(T, ...)`. The sum over T is the gradient.

    Gradient: that of `loop`. Time and memory: T times the parameters, by a derived backward pass.
    """

    def with_parameters_per_step(
        loop: Loop, step: Step, params: Params, carry: Carry, xs: PyTree
    ) -> WithExtraInput:
        """The extra input is added to the parameters at each step, so its gradient is G_t."""

        def step_with_increment(
            params: Params, carry: Carry, inputs: tuple[PyTree, PyTree]
        ) -> StepResult:
            x, increment = inputs
            return step(tree.add_sparse(params, increment), carry, x)

        def run(increments: PyTree) -> StepResult:
            return loop(step_with_increment, params, carry, (xs, increments))

        steps = check.num_steps(xs)
        inexact, _ = tree.split_inexact(params)
        shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct((steps, *p.shape), p.dtype), inexact)
        return shapes, run

    _, (_, terms) = grad_with_extra_inputs(loss, params, args, loop, with_parameters_per_step)
    return terms


def saturation(
    states: runner.History, *, mask: Bool[Array, " T *batch"] | None = None, tail: float = 0.05
) -> dict[str, jax.Array]:
    """Returns the share of values of each gate that lie near either end of its range, per step.

    The range of an array is [0, 1] if all of its values lie there, else [-1, 1] if all of its
    values lie there. A value is near an end if its distance from that end is below a share `tail`
    of the range. There, the slope of a σ is at most tail (1 - tail).

    Args:
        states: the states that `history` returns: a History, or a tree of them for a Network.
        mask: True where a step is valid.
        tail: in (0, 1/2); ValueError otherwise.

    Returns:
        By path, such as "saved.f", the shares `(T, 2)` near the lower and near the upper end. They
        are 0 at steps where no row is valid, and NaN for an array that has neither range.

    Gradient: zero.
    """
    check.require_number("tail", tail)
    check.require(0 < tail < 0.5, "tail", tail, "a number in (0, 1/2)")
    steps = check.num_steps(states, "states")
    for part in jax.tree.leaves(states, is_leaf=lambda x: isinstance(x, runner.History)):
        expected = "a History, or a tree of them, as `history` returns it"
        check.require_type(isinstance(part, runner.History), "states", part, expected)
    if mask is not None:
        check.require_bool_sequence("mask", mask, steps)
        for path, x in jax.tree.leaves_with_path(states):
            name = "states" + jax.tree_util.keystr(path)
            expected = f"the axes of {mask.shape}, the mask's"
            check.require(x.shape[: mask.ndim] == mask.shape, name, x, expected)

    def shares_of(x: jax.Array) -> jax.Array:
        valid = jnp.ones(x.shape, bool)
        if mask is not None:
            valid = jnp.broadcast_to(tree.expand_mask(mask, x), x.shape)
        is_sigmoid = jnp.all((x >= 0) & (x <= 1) | ~valid)
        is_tanh = jnp.all((x >= -1) & (x <= 1) | ~valid)  # or a sigmoid
        position = jnp.where(is_sigmoid, x, (x + 1) / 2)  # in [0, 1]
        position = jnp.where(is_tanh, position, jnp.nan)
        near = jnp.stack([position < tail, position > 1 - tail], -1) & valid[..., None]
        axes = tuple(range(1, x.ndim))
        shares = jnp.sum(near, axes) / jnp.maximum(1, jnp.sum(valid, axes))[:, None]
        return jnp.where(is_tanh, shares, jnp.nan)

    arrays = tree.leaves_by_name(states).items()
    return {name: shares_of(x) for name, x in arrays if jnp.issubdtype(x.dtype, jnp.floating)}


def grad_with_extra_inputs(
    loss: Loss, params: Params, args: tuple[Any, ...], loop: Loop, with_input: ExtraInput
) -> tuple[jax.Array, tuple[Params, tuple[PyTree, ...]]]:
    """Returns `(value, (d_params, d_inputs))`, with an extra input of zeros at each call of a loop.

    The loss is traced twice: to find the shapes of the extra inputs, and to differentiate it. Both
    traces call the loop in the same order.
    """

    def shapes_of(*call: Any) -> PyTree:
        shapes, _ = with_input(*call)
        return shapes

    shapes = map_loop_calls(shapes_of, loss, params, args, loop)

    def value(params: Params, inputs: tuple[PyTree, ...]) -> jax.Array:
        remaining = iter(inputs)

        def run(*call: Any) -> StepResult:
            _, run_with = with_input(*call)
            return run_with(next(remaining))

        return loss(params, *args, loop=LoopAround(loop, run))

    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), tuple(shapes))
    return jax.value_and_grad(value, argnums=(0, 1))(params, zeros)


def map_loop_calls(
    function: Callable[..., Result],
    loss: Loss,
    params: Params,
    args: tuple[Any, ...],
    loop: Loop,
) -> list[Result]:
    """Returns `function(loop, step, params, carry, xs)` of each call of a loss's loop.

    The loss is only traced, not run.
    """
    check.require_callable("loop", loop, takes=4)
    check.require_callable("loss", loss, 1 + len(args), loop=loop)
    check.require_arrays(params=params)
    results: list[Result] = []

    def record(loop: Loop, *call: Any) -> StepResult:
        results.append(function(loop, *call))
        return loop(*call)

    recording = LoopAround(loop, record)
    form = jax.eval_shape(lambda params: loss(params, *args, loop=recording), params)
    check.require_scalar_loss("loss", form)
    # Otherwise the diagnostics would find nothing, and say that nothing is wrong.
    expected = "one that calls it, such as by unroll(..., loop=loop)"
    check.require(results, "loss", "one that does not call its loop", expected)
    return results
