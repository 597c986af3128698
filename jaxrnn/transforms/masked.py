"""Steps that are left out: where a mask is False the carry is held."""

import functools
from typing import Any, NamedTuple

from jaxrnn import check, tree
from jaxrnn.types import Carry, Cell, Params, PyTree, Seen, Step


class Masked(NamedTuple):
    """Inputs, and which of them count.

    Fields:
        xs: what the step itself takes.
        mask: m `(*lead)`, bool; True where the step is taken.
    """

    xs: PyTree
    mask: Any


def masked(step: Cell | Step, *, fill: float = 0.0) -> Cell | Step:
    """The step that is taken where a mask is True and leaves the carry alone elsewhere.

        c_t = m_t ? step(params, c_{t-1}, x_t) : c_{t-1}                                     (M1)

    and backward, since (3) of the adjoint is linear in λ,

        λ_{t-1}, δ_t = m_t ? adjoint(λ_t) : (λ_t, 0)                                         (M2)

    Where m_t is False, x_t is replaced by `fill` before the step sees it, so that NaN there reaches
    neither value nor gradient, and y_t is whatever the step makes of the carry that was held (a
    Cell: its output), which `unroll` replaces by zeros.

    Args:
        step: a Cell, whose backward pass stays the one by hand, or a plain Step, whose carry and
            inputs have the mask's axes in front.
        fill: an input of which the step makes finite numbers with finite slopes.

    Returns:
        A Cell or a Step whose inputs are `Masked(xs, mask)`. Equal cells give the same cell.

    Gradient: exact. Time and memory: the step's, and a selection for each array of the carry.
    """
    check.function("step", step)
    fill = check.number("fill", fill)
    return _masked_cell(step, fill) if isinstance(step, Cell) else _masked_step(step, fill)


def _masked_step(step: Step, fill: float) -> Step:
    def masked_step(params: Params, carry: Carry, x: Masked) -> tuple[Carry, PyTree]:
        new, y = step(params, carry, tree.filled(x.mask, x.xs, fill))
        return tree.where(x.mask, new, carry), y  # (M1)

    return masked_step


@functools.cache
def _masked_cell(cell: Any, fill: float) -> Cell:
    def project(params: Params, xs: Masked) -> Masked:
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
