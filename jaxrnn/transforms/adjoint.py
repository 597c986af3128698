"""The adjoint λ_t on its way back: scaled, clipped, or read, at every step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.expression import Expression, call_expression
from jaxrnn.transforms.base import TransformedCell
from jaxrnn.transforms.plain_adjoint import with_watched_carry
from jaxrnn.transforms.rows import one_where_zero, row_norm
from jaxrnn.types import Carry, Cell, Params, PyTree, Residuals, Step, StepResult, Weights


class ProbeInputs(NamedTuple):
    """Inputs, and a zero at every step whose gradient is read off the adjoint.

    Fields:
        xs: what the step itself takes.
        probe: zeros, `(*batch)` for ‖λ_t‖ and of the form of the carry for λ_t itself.
    """

    xs: PyTree
    probe: PyTree


def scale_adjoint(
    step: Cell | Step,
    factor: Callable[[jax.Array], Any],
    *,
    elementwise: bool = False,
) -> Cell | Step:
    """The same step, whose adjoint is scaled at every step of its way back.

    Of the whole λ_t = ∂L/∂c_t, the sum of what comes from the future and from the loss of this
    step, each row is multiplied before the step's own backward pass gets it,

        λ_t ← f(‖λ_t‖) λ_t                     ‖·‖ over all arrays of the carry jointly      (A1)
        λ_t ← f(|λ_t|) ⊙ λ_t                   `elementwise`                                 (A2)

    where zero stays zero whatever f. Values do not change. For f take `lambda size: 1 / size` to
    normalise, `lambda size: 0.9` to scale; to clip there is `clip_adjoint`.

    Args:
        step: a Cell, whose backward pass stays the hand-written one, or a plain Step. In a plain
            Step what is computed from an array of the new carry belongs to the loss of that array,
            except within a rule of its own (`jax.custom_vjp`), which is kept whole. The axes that
            all its arrays begin with tell rows apart, the last of the longest excepted.
        factor: f, of sizes `(*batch)` or of those of single numbers, all above 0. A function that
            is made anew at every call is compiled anew.
        elementwise: (A2) in the place of (A1); a complex number has its modulus.

    Returns:
        A Cell or a Step that takes what `step` takes; equal arguments give equal cells. With f = 1
        the gradient is the same, bit by bit.

    Raises:
        TypeError, ValueError: for arguments that do not fit; while tracing, if f returns another
            shape than it gets.

    Gradient: biased on purpose, unless f = 1. No forward mode. Time and memory: a reduction over
    the carry at each step.

    Source: as `clip_adjoint`.
    """
    check.require_callable("step", step)
    check.require_callable("factor", factor, takes=1)
    return _transformed(step, ScaleAdjoint(factor, elementwise=elementwise))


def clip_adjoint(step: Cell | Step, limit: float, *, elementwise: bool = False) -> Cell | Step:
    """The same step, whose adjoint never grows beyond a limit.

        λ_t ← min(1, n / ‖λ_t‖) λ_t                                                          (A4)

    optax's clipping sees the sum over all steps: where one step explodes, the rest of the sequence
    is scaled away with it. Here that step alone is scaled down, and all others keep their share.

    Args:
        step: as for `scale_adjoint`.
        limit: n, above 0.
        elementwise: clips |λ_t|, number by number.

    Returns:
        As `scale_adjoint`.

    Gradient: as `scale_adjoint`.

    Source: A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850
    (at every step); R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent
    neural networks", ICML 2013 (the sum).
    """
    check.require_callable("step", step)
    return _transformed(step, ClipAdjoint(limit, elementwise=elementwise))


def probe_adjoint(step: Cell | Step, *, whole: bool = False) -> Cell | Step:
    """The same step with a zero beside its inputs, whose gradient is the norm of the adjoint.

        ∂L/∂probe_t := ‖λ_t‖                                                                 (A5)

    An additive zero in the carry would have λ_t itself as its gradient; here it is reduced on the
    spot, in the backward pass that runs anyway.

    Args:
        step: as for `scale_adjoint`.
        whole: λ_t and not its norm.

    Returns:
        A Cell or a Step whose inputs are `ProbeInputs(xs, probe)`. Equal arguments give equal
        cells.

    Gradient: exact, but for the probe. Time and memory: a reduction a step, T·B numbers.
    """
    check.require_callable("step", step)
    return _transformed(step, ProbeAdjoint(whole=whole))


class AdjointRule(Expression):
    """What happens to the adjoint: `rule(λ) -> (what goes on, what is read)`."""

    has_probe = False

    def __call__(self, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Applies the rule to λ_t."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, repr=False)
class ScaleAdjoint(AdjointRule):
    """(A1) and (A2)."""

    factor: Callable[[jax.Array], Any]
    elementwise: bool = dataclasses.field(default=False, kw_only=True)

    expression_name = "scale_adjoint"

    def __post_init__(self) -> None:
        check.require_bool("elementwise", self.elementwise)

    def __call__(self, d_carry: Carry) -> tuple[Carry, None]:
        """Applies the rule to λ_t."""
        norm = None if self.elementwise else row_norm(d_carry)

        def scale(d: jax.Array) -> jax.Array:
            size = abs(d) if norm is None else tree.expand_mask(norm, d)
            factor = self.factor(one_where_zero(size))
            check.require_arrays(factor=factor)
            fits = factor is not None and jnp.shape(factor) in ((), jnp.shape(size))
            expected = f"the shape of the sizes {check.describe(size)}"
            check.require(fits, "factor", check.describe(factor), expected)
            return d * jnp.asarray(factor, d.dtype)  # (A1), (A2)

        return jax.tree.map(scale, d_carry), None


@dataclasses.dataclass(frozen=True, repr=False)
class ClipAdjoint(AdjointRule):
    """(A4)."""

    limit: float
    elementwise: bool = dataclasses.field(default=False, kw_only=True)

    expression_name = "clip_adjoint"

    def __post_init__(self) -> None:
        check.require_bool("elementwise", self.elementwise)
        self.replace_fields(limit=check.require_positive("limit", self.limit))

    def __call__(self, d_carry: Carry) -> tuple[Carry, None]:
        """Applies the rule to λ_t."""

        def factor(size: jax.Array) -> jax.Array:
            return jnp.minimum(1, self.limit / size)  # (A4)

        return ScaleAdjoint(factor, elementwise=self.elementwise)(d_carry)


@dataclasses.dataclass(frozen=True, repr=False)
class ProbeAdjoint(AdjointRule):
    """(A5)."""

    whole: bool = dataclasses.field(default=False, kw_only=True)

    expression_name = "probe_adjoint"
    has_probe = True

    def __post_init__(self) -> None:
        check.require_bool("whole", self.whole)

    def __call__(self, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Applies the rule to λ_t."""
        return d_carry, d_carry if self.whole else row_norm(d_carry)  # (A5)


def _transformed(step: Cell | Step, rule: AdjointRule) -> Cell | Step:
    return RuledCell(step, rule) if isinstance(step, Cell) else RuledStep(step, rule)


@dataclasses.dataclass(frozen=True, repr=False)
class RuledStep(Expression):
    """A plain step whose new carry is watched wherever it goes: to the next step, and into y."""

    step: Step
    rule: AdjointRule

    def expression(
        self, spell_argument: Callable[[Any], str], *, with_defaults: bool = False
    ) -> str:
        """A call of the function that made it."""
        return _expression(self.step, self.rule, spell_argument, with_defaults)

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """One step."""
        x, probe = _inputs_and_probe(self.rule, x)

        def watch(carry: Carry) -> Carry:
            return apply_rule(self.rule, carry, probe)

        return with_watched_carry(self.step, watch, params, carry, x)


@dataclasses.dataclass(frozen=True, repr=False)
class RuledCell(TransformedCell):
    """A Cell whose adjoint follows a rule."""

    rule: AdjointRule

    def expression(
        self, spell_argument: Callable[[Any], str], *, with_defaults: bool = False
    ) -> str:
        """A call of the function that made it."""
        return _expression(self.cell, self.rule, spell_argument, with_defaults)

    def project(self, params: Params, xs: PyTree) -> ProbeInputs:
        """The projected inputs, and the probe, None where the rule reads nothing."""
        xs, probe = _inputs_and_probe(self.rule, xs)
        return ProbeInputs(self.cell.project(params, xs), probe)

    def advance(self, w: Weights, carry: Carry, z: ProbeInputs) -> tuple[Carry, PyTree]:
        """As the inner cell."""
        new_carry, saved = self.cell.advance(w, carry, z.xs)
        return apply_rule(self.rule, new_carry, z.probe), saved

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """That of the inner cell, after the rule."""
        d_carry, d_probe = self.rule(d_carry)
        d_previous, delta = self.cell.adjoint(w, _of_inner_cell(residuals), d_carry)
        return d_previous, (delta, d_probe)

    def gradients(
        self, w: Weights, residuals: Residuals, deltas: PyTree
    ) -> tuple[Weights, ProbeInputs]:
        """Those of the inner cell, and what the rule read."""
        inner_deltas, d_probes = deltas
        d_w, d_zs = self.cell.gradients(w, _of_inner_cell(residuals), inner_deltas)
        return d_w, ProbeInputs(d_zs, d_probes)


def _of_inner_cell(residuals: Residuals) -> Residuals:
    return residuals._replace(z=residuals.z.xs)


def _inputs_and_probe(rule: AdjointRule, xs: PyTree) -> tuple[PyTree, PyTree]:
    return check.require_instance("xs", xs, ProbeInputs) if rule.has_probe else (xs, None)


def _expression(
    step: Cell | Step, rule: AdjointRule, spell: Callable[[Any], str], with_defaults: bool
) -> str:
    """The rule's own expression, with the step as its first argument."""
    call = call_expression(rule, spell, with_defaults=with_defaults)
    name, arguments = call.split("(", 1)
    separator = "" if arguments == ")" else ", "
    return f"{name}({spell(step)}{separator}{arguments}"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _identity(rule: AdjointRule, carry: Carry, probe: PyTree) -> Carry:
    return carry


_identity.defvjp(lambda _, carry, probe: (carry, None), lambda rule, _, d_carry: rule(d_carry))


def apply_rule(rule: AdjointRule, carry: Carry, probe: PyTree) -> Carry:
    """The carry, whose cotangent goes through the rule on its way back."""
    inexact, others = tree.split_inexact(carry)
    check.require_same_tree("xs.probe", probe, jax.eval_shape(rule, inexact)[1])
    return tree.merge_inexact(_identity(rule, inexact, probe), others)
