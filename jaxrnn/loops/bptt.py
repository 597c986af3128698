"""Backpropagation through time: one adjoint that runs in order, one product for each weight."""

import functools
from typing import Any

import jax

from jaxrnn import check, tree
from jaxrnn.loops import chunks, derived
from jaxrnn.loops.forward_mode import explain_forward_mode
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
        return (_compiled if step.has_handwritten_backward else _chunked)(step, params, carry, xs)


def _chunked(cell: Cell, params: Params, carry: Carry, xs: PyTree) -> StepResult:
    """Chunk after chunk, each by (1) and (2)."""

    def run(carry: Carry, xs: PyTree) -> StepResult:
        w, zs = cell.prepare(params), cell.project(params, xs)
        if cell.has_handwritten_backward:
            carry, carries = _recurrence(cell, w, carry, zs)
        else:
            carry, carries = derived.run(_without_output(cell), w, carry, zs)
        return carry, cell.output(params, carries)

    size = chunks.bytes_of(jax.eval_shape(cell.project, params, xs))
    return chunks.in_chunks(run, carry, xs, size)


# A Cell is made once and never closes over traced values, so a call outside jit compiles once too.
_compiled = jax.jit(_chunked, static_argnums=0)


def _without_output(cell: Cell) -> Step:
    """The plain step of a Cell without a backward pass of its own, whose output is its carry."""

    def step(w: PyTree, carry: Carry, z: PyTree) -> StepResult:
        carry, _ = cell.advance(w, carry, z)
        return carry, carry

    return step


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(cell: Any, w: PyTree, carry: Carry, zs: PyTree) -> tuple[Carry, Carry]:
    """c_T and c_1..c_T of (C2); undifferentiated it keeps nothing."""

    def forward(carry, z_t):
        carry, _ = cell.advance(w, carry, z_t)
        return carry, carry

    return jax.lax.scan(forward, carry, zs)


def _forward(cell, w, carry, zs):
    w, carry, zs = jax.tree.map(lambda x: x.value, (w, carry, zs))

    def forward(carry, z_t):
        carry, saved_t = cell.advance(w, carry, z_t)
        return carry, (carry, saved_t)

    last, (carries, saved) = jax.lax.scan(forward, carry, zs)
    return (last, carries), (w, carry, zs, carries, saved)


def _backward(cell, residuals, cotangents):
    w, carry, zs, carries, saved = residuals
    # An output that nobody used has no cotangent: it must not become an array of T zeros.
    d_last, d_carries = tree.sparse_cotangents(cotangents)
    steps = Residuals(tree.shift_right(carry, carries), zs, carries, saved)

    def backward(d_carry, at_t):
        residuals_t, d_carry_t = at_t
        return cell.adjoint(w, residuals_t, tree.add_sparse(d_carry, d_carry_t))  # (1)

    d_carry = tree.add_sparse(tree.zero_cotangents(carry), d_last)
    d_carry, deltas = jax.lax.scan(backward, d_carry, (steps, d_carries), reverse=True)
    d_w, d_zs = cell.gradients(w, steps, deltas)  # (2)
    return d_w, d_carry, d_zs


_recurrence.defvjp(_forward, _backward, symbolic_zeros=True)
