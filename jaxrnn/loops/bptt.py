"""Backpropagation through time: one adjoint that runs in order, one product for each weight."""

import functools
from typing import Any

import jax

from jaxrnn import check, tree
from jaxrnn.loops import backend, chunks, derived
from jaxrnn.loops.backend import Settings
from jaxrnn.loops.forward_mode import explain_forward_mode
from jaxrnn.loops.linear_adjoint import linear_adjoint
from jaxrnn.types import Carry, Cell, Params, PyTree, Residuals, Step, StepResult


def bptt(step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[Carry, PyTree]:
    """Run a step over time; differentiate it by the backward recurrence, exactly.

    With c_t, y_t = step(params, c_{t-1}, x_t), λ_t = ∂L/∂c_t and ℓ the part of L that y_t enters,

        λ_{t-1} = (∂c_t/∂c_{t-1})ᵀ λ_t + ∂ℓ_{t-1}/∂c_{t-1}                                   (1)
        ∂L/∂W   = Σ_t (∂c_t/∂W)ᵀ λ_t                                                         (2)

    (1) runs backward in a scan that carries λ and nothing else; (2) is taken afterwards for all
    steps at once. A Cell brings both (`adjoint`, `gradients`), and its input products are
    taken for all steps beforehand. For any other step all of this is read off its jaxpr. All steps
    are those of a chunk: a sequence whose projections take more than 8 MiB is run in chunks of 2,
    or of 8 steps, which stay in the cache, and each adds its part to (2). Chunks are equal, so of a
    T without a divisor near that there is but one.

    Args:
        step: a Cell, or any pure function `(params, carry, x) -> (carry, y)`. It may close over
            traced values; these get their gradients too. (A Cell with its own adjoint may not.)
        params: what the step takes; leaves of any dtype.
        carry: the state before the first step; leaves of any dtype.
        xs: inputs, each leaf `(T, ...)`; T = 0 is allowed.

    Returns:
        The last carry, and ys, each leaf `(T, ...)`.

    Raises:
        TypeError, ValueError: while tracing, if carry, params or xs do not fit the step.
        TypeError: under forward-mode differentiation (jvp, jacfwd, linearize), which a hand-written
            backward pass does not have; use `jaxrnn.scan`. Under jit the message is JAX's own.
            Forward over reverse (`jax.hessian`) works.

    Gradient: exact. Time O(T), sequential depth 2T. Memory O(T): carries and what the cell saves;
    for a plain Step what its products and its nonlinear functions made, as far as it is needed.

    Source: P. Werbos, "Backpropagation through time", Proceedings of the IEEE 78 (1990).
    """
    params, carry = tree.checked_arguments(step, params, carry, xs)
    with explain_forward_mode("bptt"):
        if not isinstance(step, Cell):
            return derived.run(step, params, carry, xs)
        check.require_hashable("step", step)
        run = _compiled if step.has_handwritten_backward else _run_cell
        return run(step, backend.settings(), params, carry, xs)


def _run_cell(
    cell: Cell, settings: Settings, params: Params, carry: Carry, xs: PyTree
) -> StepResult:
    """Chunk after chunk, each by (1) and (2)."""

    def run_chunk(carry: Carry, xs: PyTree) -> StepResult:
        w, zs = cell.prepare(params), cell.project(params, xs)
        if cell.has_handwritten_backward:
            carry, carries = _recurrence(cell, settings, w, carry, zs)
        else:
            carry, carries = derived.run(_without_output(cell), w, carry, zs)
        return carry, cell.output(params, carries)

    size = chunks.bytes_of(jax.eval_shape(cell.project, params, xs))
    return chunks.in_chunks(run_chunk, carry, xs, size)


# A Cell does not close over traced values, so a call outside jit compiles once too.
_compiled = jax.jit(_run_cell, static_argnums=(0, 1))


def _without_output(cell: Cell) -> Step:
    """The plain step of a Cell without a backward pass of its own, whose output is its carry."""

    def step(w: PyTree, carry: Carry, z: PyTree) -> StepResult:
        carry, _ = cell.advance(w, carry, z)
        return carry, carry

    return step


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrence(
    cell: Cell, settings: Settings, w: PyTree, carry: Carry, zs: PyTree
) -> tuple[Carry, Carry]:
    """c_T and c_1..c_T of (C2); without a gradient nothing is kept."""

    def forward(carry: Carry, z_t: PyTree) -> tuple[Carry, Carry]:
        carry, _ = cell.advance(w, carry, z_t)
        return carry, carry

    return jax.lax.scan(forward, carry, zs, unroll=settings.unroll)


def _forward(cell: Cell, settings: Settings, *args: Any) -> tuple[tuple[Carry, Carry], PyTree]:
    w, carry, zs = jax.tree.map(lambda x: x.value, args)
    if settings.recomputes:
        last, carries = _recurrence(cell, settings, w, carry, zs)
        return (last, carries), (w, carry, zs, carries, None)

    def forward(carry: Carry, z_t: PyTree) -> tuple[Carry, tuple[Carry, PyTree]]:
        carry, saved_t = cell.advance(w, carry, z_t)
        return carry, (carry, saved_t)

    last, (carries, saved) = jax.lax.scan(forward, carry, zs, unroll=settings.unroll)
    return (last, carries), (w, carry, zs, carries, saved)


def _backward(
    cell: Cell, settings: Settings, kept: PyTree, cotangents: tuple[Carry, Carry]
) -> tuple[PyTree, Carry, PyTree]:
    w, carry, zs, carries, saved = kept
    # An output that nobody used has no cotangent: it must not become an array of T zeros.
    d_last, d_carries = tree.sparse_cotangents(cotangents)
    d_last = tree.add_sparse(tree.zero_cotangents(carry), d_last)
    previous_carries = tree.shift_right(carry, carries)
    if settings.recomputes:
        _, saved = jax.vmap(cell.advance, in_axes=(None, 0, 0))(w, previous_carries, zs)
        residuals = Residuals(previous_carries, zs, carries, saved)
        adjoint = _adjoint_with_coefficients
    else:
        residuals = Residuals(previous_carries, zs, carries, saved)
        adjoint = _adjoint_step_by_step
    d_carry, deltas = adjoint(cell, settings, w, residuals, d_last, d_carries)
    d_w, d_zs = cell.gradients(w, residuals, deltas)  # (2)
    return d_w, d_carry, d_zs


def _adjoint_step_by_step(
    cell: Cell,
    settings: Settings,
    w: PyTree,
    residuals: Residuals,
    d_last: Carry,
    d_carries: Carry,
) -> tuple[Carry, PyTree]:
    """∂L/∂c_0 and all δ_t, each step of (1) as the cell has it."""

    def backward(d_carry: Carry, inputs: tuple[Residuals, Carry]) -> tuple[Carry, PyTree]:
        residuals_t, d_carry_t = inputs
        return cell.adjoint(w, residuals_t, tree.add_sparse(d_carry, d_carry_t))  # (1)

    inputs = residuals, d_carries
    return jax.lax.scan(backward, d_last, inputs, reverse=True, unroll=settings.unroll)


def _adjoint_with_coefficients(
    cell: Cell,
    settings: Settings,
    w: PyTree,
    residuals: Residuals,
    d_last: Carry,
    d_carries: Carry,
) -> tuple[Carry, PyTree]:
    """The same; the coefficients of (1), and all δ_t, are computed for all steps at once."""
    linear = linear_adjoint(cell, w, check.one_step(residuals), d_last)

    def backward(d_carry: Carry, inputs: tuple[list[Any], Carry]) -> tuple[Carry, Carry]:
        coefficients_t, d_carry_t = inputs
        d_carry = tree.add_sparse(d_carry, d_carry_t)
        return linear.apply(w, coefficients_t, d_carry), d_carry  # (1)

    inputs = linear.coefficients(w, residuals), d_carries
    length = check.num_steps(residuals)
    d_carry, d_carry_at_all_steps = jax.lax.scan(
        backward, d_last, inputs, length, reverse=True, unroll=settings.unroll
    )
    _, deltas = jax.vmap(cell.adjoint, in_axes=(None, 0, 0))(w, residuals, d_carry_at_all_steps)
    return d_carry, deltas


_recurrence.defvjp(_forward, _backward, symbolic_zeros=True)
