"""Backpropagation through time: one adjoint in order, one matrix product for each weight."""

import jax

from jaxrnn import check, tree
from jaxrnn.loops import backend, chunks, derived, recomputing, saving
from jaxrnn.loops.backend import Settings
from jaxrnn.loops.checked_cell import CheckedCell
from jaxrnn.loops.forward_mode import explain_forward_mode
from jaxrnn.types import Carry, Cell, Params, PyTree, Step, StepResult


def bptt(step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[Carry, PyTree]:
    """Runs a step over time, and differentiates it exactly by the backward recurrence.

    With c_t, y_t = step(params, c_{t-1}, x_t), λ_t = ∂L/∂c_t, and ℓ_t the part of L that depends on
    y_t,

        λ_{t-1} = (∂c_t/∂c_{t-1})ᵀ λ_t + ∂ℓ_{t-1}/∂c_{t-1}                                   (1)
        ∂L/∂W   = Σ_t (∂c_t/∂W)ᵀ λ_t                                                         (2)

    (1) runs backward in a scan that carries λ and nothing else. (2) is computed afterwards, for all
    steps at once. A Cell defines both (`adjoint`, `gradients`), and its input products are computed
    for all steps before the loop. For any other step, all of this is derived from its jaxpr.

    A long sequence runs in chunks, and "all steps" are the steps of one chunk. On a CPU, a chunk
    fits into the cache, and a Cell saves the values that its backward pass needs. On a GPU, chunks
    are larger, a Cell keeps its carries alone, and everything outside the loops is computed again
    for a whole chunk. `jaxrnn.loops.backend` defines the sizes. All chunks have the same number of
    steps, so a T without a suitable divisor is one chunk.

    Args:
        step: a Cell, or any pure function `(params, carry, x) -> (carry, y)`. A function may close
            over traced values, which get their gradients too. A Cell with its own adjoint may not.
        params: the parameters of the step; leaves of any dtype.
        carry: the state before the first step; leaves of any dtype.
        xs: the inputs, each leaf `(T, ...)`; T = 0 is allowed.

    Returns:
        The last carry, and ys, each leaf `(T, ...)`.

    Raises:
        TypeError, ValueError: while tracing, if carry, params or xs do not fit the step, or if the
            `adjoint` or the `gradients` of a Cell return cotangents of a wrong form.
        TypeError: under forward-mode differentiation (jvp, jacfwd, linearize), since a hand-written
            backward pass has no rule for it; use `jaxrnn.scan`. Under jit the message is JAX's.
            Forward over reverse (`jax.hessian`) works.

    Gradient: exact. Time O(T), sequential depth 2T. Memory O(T): the carries and the values that
    the cell saves; for a plain Step the results of its products and nonlinear functions, as far as
    the backward pass needs them.

    Source: P. Werbos, "Backpropagation through time", Proceedings of the IEEE 78 (1990).

    Examples:
        >>> def step(params, carry, x):  # any pure function
        ...     h = jnp.tanh(x + carry @ params)
        ...     return h, h
        >>> def loss(params):
        ...     carry, hs = jaxrnn.bptt(step, params, jnp.zeros((4, 8)), jnp.ones((50, 4, 8)))
        ...     return jnp.mean(hs**2)
        >>> jax.grad(loss)(jnp.eye(8) / 2).shape
        (8, 8)
    """
    params, carry = tree.checked_arguments(step, params, carry, xs)
    with explain_forward_mode("bptt"):
        return run_with(backend.settings(), step, params, carry, xs)


def run_with(
    settings: Settings, step: Step, params: Params, carry: Carry, xs: PyTree
) -> StepResult:
    """Runs `bptt` with settings of its own, on arguments that are checked."""
    if not isinstance(step, Cell):
        return derived.run(step, settings.scan, params, carry, xs)
    check.require_hashable("step", step)
    run = _compiled if step.has_handwritten_backward else _run_cell
    return run(step, settings, params, carry, xs)


def _run_cell(
    cell: Cell, settings: Settings, params: Params, carry: Carry, xs: PyTree
) -> StepResult:
    """Runs one chunk after another, each with (1) and (2)."""
    scan = settings.scan

    def run_chunk(carry: Carry, xs: PyTree) -> StepResult:
        if not cell.has_handwritten_backward:
            w = cell.prepare(params)
            zs = cell.project(params, xs)
            carry, carries = derived.run(_without_output(cell), scan, w, carry, zs)
        elif settings.recomputes:
            solver = recomputing.InOrder(scan)
            carry, carries = recomputing.run(CheckedCell(cell), solver, params, carry, xs)
        else:
            w = cell.prepare(params)
            zs = cell.project(params, xs)
            carry, carries = saving.run(CheckedCell(cell), scan, w, carry, zs)
        return carry, cell.output(params, carries)

    size = chunks.bytes_of(jax.eval_shape(cell.project, params, xs))
    size_of_carries = check.num_steps(xs) * chunks.bytes_of(carry)
    if tree.is_surely_less(size, size_of_carries):
        size = size_of_carries  # such as the N states of each unit of an SSM
    return chunks.in_chunks(run_chunk, carry, xs, size)


# A Cell does not close over traced values, so calls outside jit share one compiled program.
_compiled = jax.jit(_run_cell, static_argnums=(0, 1))


def _without_output(cell: Cell) -> Step:
    """Returns `advance` of a Cell as a plain step, which outputs its carry."""

    def step(w: PyTree, carry: Carry, z: PyTree) -> StepResult:
        carry, _ = cell.advance(w, carry, z)
        return carry, carry

    return step
