"""Where does the gradient go: through which steps, to which parameters, past which gates?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from jaxrnn import check, sequence, tree
from jaxrnn.loops.bptt import bptt
from jaxrnn.transforms.adjoint import ProbeInputs, probe_adjoint
from jaxrnn.transforms.rows import batch_axes, row_norm
from jaxrnn.types import Array, Loop, LoopAround, Params, PyTree

Loss = Callable[..., Any]  # (params, *args, loop=loop) -> scalar


class GradientFlow(NamedTuple):
    """A loss, its gradient, and what flowed through the carry on the way.

    Fields:
        value: L.
        grads: ∂L/∂params.
        norms: ‖∂L/∂c_t‖ `(T, *batch)`, one array for each recurrent layer, in the order in which
            they run; so do the steps, from the last on where a layer runs backward in time.
    """

    value: jax.Array
    grads: Params
    norms: tuple[jax.Array, ...]


def gradient_flow(loss: Loss, params: Params, *args: Any, loop: Loop = bptt) -> GradientFlow:
    """A gradient, and the norm of the adjoint at every step that it came through.

        λ_t = ∂L/∂c_t,    ‖λ_t‖² = Σ over all arrays of the carry of a row                   (F1)

    λ_t is all that reaches c_t, from later steps and from its own output. Of an LSTM what reaches c
    by way of h in the same step belongs to h.

    Args:
        loss: `loss(params, *args, loop=loop) -> scalar`, which runs its recurrences by `unroll(...,
            loop=loop)`, or by `loop` itself, once each and not inside a scan. Networks, masks,
            resets and noise are as welcome as a plain Step.
        params: what to differentiate for.
        *args: handed on.
        loop: the gradient algorithm that is looked at.

    Returns:
        A `GradientFlow`.

    Gradient: that of `loop`. Time and memory: those of the gradient, and a reduction over the carry
    a step, which shows in the time where a step is as short as that (an Elman cell of 64, B = 1).

    Source: S. Hochreiter, "Untersuchungen zu dynamischen neuronalen Netzen", TU München 1991;
    Y. Bengio, P. Simard, P. Frasconi, "Learning long-term dependencies with gradient descent is
    difficult", IEEE Transactions on Neural Networks 5 (1994).
    """

    def with_probe(loop: Loop, step: Any, params: Params, carry: Any, xs: PyTree) -> Any:
        norm = jax.eval_shape(row_norm, carry)
        probe = jax.ShapeDtypeStruct((check.num_steps(xs), *batch_axes(carry)), norm.dtype)
        return probe, lambda probe: loop(probe_adjoint(step), params, carry, ProbeInputs(xs, probe))

    value, (grads, norms) = with_zeros(loss, params, args, loop, with_probe)
    return GradientFlow(value, grads, norms)


def per_step_gradients(
    loss: Loss, params: Params, *args: Any, loop: Loop = bptt
) -> tuple[Params, ...]:
    """What each step adds to the gradient of each parameter of the recurrence.

        ∂L/∂W = Σ_t G_t,    G_t = (∂c_t/∂W)ᵀ λ_t + (∂y_t/∂W)ᵀ ∂L/∂y_t                        (F2)

    the gradient for a W_t of its own at every step.

    Args:
        loss: as for `flow`, like the other arguments.
        params: ″.
        *args: ″.
        loop: ″.

    Returns:
        For each recurrent layer, in the order in which they run, a tree like that layer's
        parameters, each leaf `(T, ...)`; over T it sums to the gradient.

    Gradient: that of `loop`. Time and memory: T times the parameters, by a derived backward pass.
    """

    def of_each_step(loop: Loop, step: Any, params: Params, carry: Any, xs: PyTree) -> Any:
        def stepwise(params: Params, carry: Any, at_t: tuple[PyTree, PyTree]) -> Any:
            x, zero = at_t
            return step(tree.add_sparse(params, zero), carry, x)

        steps, each = check.num_steps(xs), tree.split_inexact(params)[0]
        forms = jax.tree.map(lambda p: jax.ShapeDtypeStruct((steps, *p.shape), p.dtype), each)
        return forms, lambda zeros: loop(stepwise, params, carry, (xs, zeros))

    return with_zeros(loss, params, args, loop, of_each_step)[1][1]


def saturation(
    states: sequence.History, *, mask: Bool[Array, " T *batch"] | None = None, tail: float = 0.05
) -> dict[str, jax.Array]:
    """How many values of each gate lie near either end of its range, step by step.

    What never leaves [0, 1] has that range, else what never leaves [-1, 1] has that; near is within
    a share `tail` of it. A σ has a slope of at most tail (1 - tail) there.

    Args:
        states: what `history` gives for a cell.
        mask: True where a step counts.
        tail: in (0, 1/2); ValueError outside.

    Returns:
        By path, such as "saved.f", the shares `(T, 2)` near the lower and near the upper end; 0 at
        steps where no row counts, NaN for what has no such range.

    Gradient: zero.
    """
    check.require(
        0 < check.require_number("tail", tail) < 0.5, "tail", tail, "a number in (0, 1/2)"
    )
    steps = check.num_steps(states, "states")
    if mask is not None:
        check.require_bool_sequence("mask", mask, steps)
        for path, x in jax.tree.leaves_with_path(states):
            place, expected = "states" + jax.tree_util.keystr(path), f"the axes of {mask.shape}"
            check.require(x.shape[: mask.ndim] == mask.shape, place, x, f"{expected}, the mask's")

    def of_gate(x: jax.Array) -> jax.Array:
        counts = jnp.broadcast_to(True if mask is None else tree.expand_mask(mask, x), x.shape)
        within = [jnp.all((low <= x) & (x <= 1) | ~counts) for low in (0, -1)]
        place = jnp.where(within[1], jnp.where(within[0], x, (x + 1) / 2), jnp.nan)
        ends = jnp.stack([place < tail, place > 1 - tail], -1) & counts[..., None]
        axes = tuple(range(1, x.ndim))
        shares = jnp.sum(ends, axes) / jnp.maximum(1, jnp.sum(counts, axes))[:, None]
        return jnp.where(within[1], shares, jnp.nan)

    named = tree.leaves_by_name(states).items()
    return {name: of_gate(x) for name, x in named if jnp.issubdtype(x.dtype, jnp.floating)}


def with_zeros(loss: Loss, params: Params, args: Any, loop: Loop, beside: Any) -> Any:
    """`(loss, (∂/∂params, (∂/∂zeros, …)))` for zeros put beside each call of its loop.

    `beside(loop, step, params, carry, xs)` says what they look like, and gives the function of them
    that is run in the place of the loop, which is that of the part of a network that it runs.
    """
    forms = of_each_call(lambda *call: beside(*call)[0], loss, params, args, loop)

    def value(params: Params, zeros: tuple[Any, ...]) -> jax.Array:
        left = iter(zeros)
        with_next = LoopAround(loop, lambda *call: beside(*call)[1](next(left)))
        return loss(params, *args, loop=with_next)

    zeros = jax.tree.map(lambda form: jnp.zeros(form.shape, form.dtype), tuple(forms))
    return jax.value_and_grad(value, argnums=(0, 1))(params, zeros)


def of_each_call(what: Any, loss: Loss, params: Params, args: Any, loop: Loop) -> list[Any]:
    """`what(loop, step, params, carry, xs)` of each call of a loss's loop; nothing is run."""
    check.require_callable("loop", loop, takes=4)
    check.require_callable("loss", loss, 1 + len(args), loop=loop)
    check.require_arrays(params=params)
    found: list[Any] = []

    def noting(loop: Loop, *call: Any) -> Any:
        found.append(what(loop, *call))
        return loop(*call)

    noted = LoopAround(loop, noting)
    form = jax.eval_shape(lambda params: loss(params, *args, loop=noted), params)
    check.require_scalar_loss("loss", form)
    return found
