"""Marks on a sequence: steps that are left out, and sequences that begin anew.

Where a mask is False the carry is held; where a reset is True it is replaced before the step.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxrnn import check, tree
from jaxrnn.types import Carry, Cell, Key, Params, PyTree, Seen, Step, Stepped, once


class Masked(NamedTuple):
    """Inputs, and which of them count.

    Fields:
        xs: what the step itself takes.
        mask: m `(*lead)`, bool; True where the step is taken.
    """

    xs: PyTree
    mask: Any


class Restarted(NamedTuple):
    """Inputs, and where a sequence begins anew.

    Fields:
        xs: what the step itself takes.
        reset: r `(*lead)`, bool; True where the carry is replaced before the step.
    """

    xs: PyTree
    reset: Any


class Restarting(NamedTuple):
    """Parameters, and the carry from which a sequence begins anew.

    Fields:
        params: what the step itself takes.
        carry: c_0, of the form of the carry, or without its batch axes, the same for all rows.
    """

    params: Params
    carry: Carry


@once
def masked(step: Cell | Step, *, fill: float = 0.0) -> Cell | Step:
    """The step that is taken where a mask is True and leaves the carry alone elsewhere.

        c_t = m_t ? step(params, c_{t-1}, x_t) : c_{t-1}                                     (M1)

    and backward, since (3) of the adjoint is linear in λ,

        λ_{t-1}, δ_t = m_t ? adjoint(λ_t) : (λ_t, 0)                                         (M2)

    Where m_t is False, x_t is replaced by `fill`, an integer by 0, before the step sees it, so that
    NaN there reaches neither value nor gradient, and y_t is whatever the step makes of the carry
    that was held (a Cell: its output), which `unroll` replaces by zeros.

    Args:
        step: a Cell, whose backward pass stays the one by hand, or a plain Step, whose carry and
            inputs have the mask's axes in front.
        fill: an input of which the step makes finite numbers with finite slopes.

    Returns:
        A Cell or a Step whose inputs are `Masked(xs, mask)`. Equal cells give the same cell.

    Gradient: exact. Time and memory: the step's, and a selection for each array of the carry.
    """
    check.function("step", step)
    fill = check.finite("fill", fill)
    taken = functools.partial(_taken, step, fill)
    return _masked_cell(step, fill) if isinstance(step, Cell) else taken


def _taken(step: Step, fill: float, params: Params, carry: Carry, x: Masked) -> Stepped:
    """A plain step, taken where the mask is True."""
    check.instance("xs", x, Masked)
    check.booleans("xs.mask", x.mask)
    check.rows("xs.mask", x.mask.shape, None, carry)
    new, y = step(params, carry, tree.filled(x.mask, x.xs, fill))
    return tree.where(x.mask, new, carry), y  # (M1)


@functools.cache
def _masked_cell(cell: Any, fill: float) -> Cell:
    def project(params: Params, xs: Masked) -> Masked:
        check.instance("xs", xs, Masked)
        check.leads("xs.mask", xs.mask, xs.xs, cell.num_feature_axes)
        return Masked(cell.project(params, tree.filled(xs.mask, xs.xs, fill)), xs.mask)

    def advance(w: PyTree, carry_tm1: Carry, z: Masked) -> tuple[Carry, PyTree]:
        carry_t, saved = cell.advance(w, carry_tm1, z.xs)
        return tree.where(z.mask, carry_t, carry_tm1), saved  # (M1)

    def adjoint(w: PyTree, seen: Seen, d_carry: Carry) -> tuple[Carry, PyTree]:
        z, mask = seen.z
        d_taken = tree.zero_unless(mask, d_carry)
        d_carry_tm1, delta = cell.adjoint(w, seen._replace(z=z), d_taken)
        return tree.where(mask, d_carry_tm1, d_carry), delta  # (M2)

    def gather(w: PyTree, seen: Seen, deltas: PyTree) -> tuple[PyTree, Masked]:
        d_w, d_zs = cell.gather(w, seen._replace(z=seen.z.xs), deltas)
        return d_w, Masked(d_zs, None)

    return cell.changed(adjoint, gather, project=project, advance=advance)


@once
def restarted(step: Cell | Step, *, learned: bool = False) -> Cell | Step:
    """The step whose carry is replaced by c_0, before it is taken, where a reset is True.

        c̃_{t-1} = r_t ? c_0 : c_{t-1},    c_t, y_t = step(params, c̃_{t-1}, x_t)              (R1)

    and backward

        λ_{t-1} = r_t ? 0 : ∂L/∂c̃_{t-1},    ∂L/∂c_0 = Σ_t r_t ∂L/∂c̃_{t-1}                    (R2)

    so that no gradient crosses a reset, and nothing of a carry that was NaN.

    Args:
        step: a Cell, whose backward pass stays the one by hand, or a plain Step, whose carry has
            the reset's axes in front.
        learned: whether a Cell's c_0 is to have a gradient, for which ∂L/∂c̃ is kept at all steps;
            a plain Step's always has.

    Returns:
        A Cell or a Step whose params are `Restarting(params, c_0)` and whose inputs are
        `Restarted(xs, reset)`. A Cell's `init` gives the zero state without batch axes for c_0.
        Equal arguments give the same cell.

    Gradient: exact. Time and memory: the step's, and a selection for each array of the carry.
    """
    check.function("step", step)
    check.boolean("learned", learned)
    begun = functools.partial(_begun, step)
    return _restarted_cell(step, learned) if isinstance(step, Cell) else begun


def _begun(inside: Step, params: Restarting, carry: Carry, x: Restarted) -> tuple[Carry, PyTree]:
    """A plain step, or a cell's `advance`, from where it begins."""
    check.instance("params", params, Restarting)
    check.instance("xs", x, Restarted)
    check.booleans("xs.reset", x.reset)
    check.rows("xs.reset", x.reset.shape, None, carry)
    start = _for_all_rows(params.carry, carry, x.reset.ndim)
    check.same_tree("params.carry", start, carry, ", as the carry")
    return inside(params.params, tree.where(x.reset, start, carry), x.xs)  # (R1)


def _for_all_rows(start: Carry, carry: Carry, batch_axes: int) -> Carry:
    """c_0 with the batch axes of the carry, where it has none."""
    forms: list[Any] = [jax.tree.structure(tree) for tree in (start, carry)]
    if forms[0] != forms[1]:
        return start

    def for_all(c: Any, like: Any) -> Any:
        fits = jnp.shape(c) == like.shape[batch_axes:]
        return jnp.broadcast_to(c, like.shape) if fits else c

    return jax.tree.map(for_all, start, carry)


@functools.cache
def _restarted_cell(cell: Any, learned: bool) -> Cell:
    def init(key: Key, input_size: int, dtype: DTypeLike = jnp.float32) -> Restarting:
        return Restarting(cell.init(key, input_size, dtype), cell.carry((), dtype))

    def project(params: Restarting, xs: Restarted) -> Restarted:
        check.instance("params", params, Restarting)
        check.instance("xs", xs, Restarted)
        check.leads("xs.reset", xs.reset, xs.xs, cell.num_feature_axes)
        return Restarted(cell.project(params.params, xs.xs), xs.reset)

    def prepare(params: Restarting) -> Restarting:
        return Restarting(cell.prepare(params.params), params.carry)

    def output(params: Restarting, carries: Carry) -> PyTree:
        return cell.output(params.params, carries)

    def inner_seen(w: Restarting, seen: Seen) -> Seen:
        """What the step inside saw, which began from c̃."""
        z, reset = seen.z
        starts = jax.tree.map(lambda c, cs: jnp.broadcast_to(c, cs.shape), w.carry, seen.carry_tm1)
        return seen._replace(carry_tm1=tree.where(reset, starts, seen.carry_tm1), z=z)

    def adjoint(w: Restarting, seen: Seen, d_carry: Carry) -> tuple[Carry, PyTree]:
        reset = seen.z.reset
        d_carry_tm1, delta = cell.adjoint(w.params, inner_seen(w, seen), d_carry)
        d_start = tree.zero_unless(reset, d_carry_tm1) if learned else None
        return tree.zero_unless(~reset, d_carry_tm1), (delta, d_start)  # (R2)

    def gather(w: Restarting, seen: Seen, deltas: PyTree) -> tuple[Restarting, Restarted]:
        inner_deltas, d_starts = deltas
        d_w, d_zs = cell.gather(w.params, inner_seen(w, seen), inner_deltas)

        def over_time_and_rows(d: jax.Array, c: jax.Array) -> jax.Array:
            return jnp.sum(d, axis=tuple(range(d.ndim - jnp.ndim(c))))  # (R2)

        d_carry = None if d_starts is None else jax.tree.map(over_time_and_rows, d_starts, w.carry)
        return Restarting(d_w, d_carry), Restarted(d_zs, None)

    advance = functools.partial(_begun, cell.advance)
    parts: dict[str, Any] = {"init": init, "project": project, "prepare": prepare, "output": output}
    parts["advance"] = advance
    return cell.changed(adjoint, gather, **parts)
