"""The adjoint λ_t, scaled, clipped or read at every step of the backward pass."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxrnn import check, tree
from jaxrnn.expression import Expression, Spell, argument_expressions
from jaxrnn.transforms.base import ExtraInputCell, require_cell_or_plain_step
from jaxrnn.transforms.rows import num_batch_axes, one_where_zero, row_norm
from jaxrnn.transforms.substitute_carry import with_watched_carry
from jaxrnn.types import Carry, Cell, Params, PyTree, Residuals, Step, StepResult, Weights

# The size of an adjoint -> the factor of that adjoint.
FactorOfSize = Callable[[jax.Array], ArrayLike]


class ProbeInputs(NamedTuple):
    """Inputs, and a probe, a zero whose gradient is read from the adjoint.

    Fields:
        xs: the inputs of the step itself.
        probe: zeros, `(*batch)` for ‖λ_t‖, or with the shapes of the carry for λ_t.
    """

    xs: PyTree
    probe: PyTree


def scale_adjoint(
    step: Cell | Step,
    factor: FactorOfSize,
    *,
    elementwise: bool = False,
) -> Cell | Step:
    """Returns a step with the same values, whose adjoint is scaled at every step.

    λ_t = ∂L/∂c_t is the sum of the gradients from the future and from the loss of this step. Each
    row of λ_t is multiplied before the step's backward pass gets it,

        λ_t ← f(‖λ_t‖) λ_t                     ‖·‖ over all arrays of the carry jointly     (AT1)
        λ_t ← f(|λ_t|) ⊙ λ_t                   `elementwise`                                (AT2)

    where a zero stays zero for every f. Values do not change. Examples of f are
    `lambda size: 1 / size`, which normalises, and `lambda size: 0.9`. For clipping see
    `clip_adjoint`.

    Args:
        step: a Cell, whose backward pass stays hand-written, or a plain Step. In a Network,
            transform its cells. In a plain Step, every value that is computed from an array of the
            new carry counts as its loss. A function with a custom derivative rule
            (`jax.custom_vjp`) is not split. The rows of a plain Step are the leading axes that all
            arrays of the carry share, without the last axis of the longest array.
        factor: f, a function of sizes `(*batch)`, or of the sizes of single numbers. All sizes are
            above 0. Each new function object is compiled again.
        elementwise: (AT2) instead of (AT1). The size of a complex number is its modulus.

    Returns:
        A Cell or a Step with the inputs of `step`. Equal arguments give equal cells. With f = 1 the
        gradient is the same, bit by bit.

    Raises:
        TypeError, ValueError: for arguments that do not fit; while tracing, if f changes the shape.

    Gradient: biased on purpose, unless f = 1. No forward mode. Time and memory: a reduction over
    the carry at each step.

    Source: A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850;
    R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks",
    ICML 2013.
    """
    require_cell_or_plain_step(step)
    check.require_callable("factor", factor, takes=1)
    return _with_rule(step, ScaleAdjoint(factor, elementwise=elementwise))


def clip_adjoint(step: Cell | Step, limit: float, *, elementwise: bool = False) -> Cell | Step:
    """Returns a step with the same values, whose adjoint never exceeds a limit.

        λ_t ← min(1, n / ‖λ_t‖) λ_t                                                         (AT3)

    optax clips the sum of the gradients of all steps: if the adjoint explodes at one step, the
    gradients of all other steps are scaled down too. Here only the adjoint of that step is scaled
    down.

    Args:
        step: a Cell, whose backward pass stays hand-written, or a plain Step; see `scale_adjoint`.
        limit: n, above 0.
        elementwise: clips each |λ_t| by itself.

    Returns:
        A Cell or a Step with the inputs of `step`. Equal arguments give equal cells.

    Raises:
        TypeError, ValueError: for arguments that do not fit.

    Gradient: biased on purpose, unless no adjoint exceeds the limit. No forward mode. Time and
    memory: a reduction over the carry at each step.

    Source: A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850
    (at every step); R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent
    neural networks", ICML 2013 (the sum).
    """
    require_cell_or_plain_step(step)
    return _with_rule(step, ClipAdjoint(limit, elementwise=elementwise))


def probe_adjoint(step: Cell | Step, *, whole: bool = False) -> Cell | Step:
    """Returns a step with a probe in its inputs, whose gradient is the norm of the adjoint.

        ∂L/∂probe_t := ‖λ_t‖                                                                (AT4)

    The gradient of a zero added to the carry is λ_t itself. Here λ_t is reduced to its norm in the
    backward pass, step by step.

    Args:
        step: a Cell, whose backward pass stays hand-written, or a plain Step; see `scale_adjoint`.
        whole: the gradient of the probe is λ_t, and not its norm.

    Returns:
        A Cell or a Step whose inputs are `ProbeInputs(xs, probe)`. Equal arguments give equal
        cells.

    Gradient: exact, except for the probe. Time and memory: a reduction at each step, T·B numbers.
    """
    check.require_callable("step", step)
    return _with_rule(step, ProbeAdjoint(whole=whole))


class AdjointRule(Expression):
    """A change of the adjoint, `(λ, number of batch axes) -> (new λ, gradient of the probe)`.

    A rule is one half of a transformation, and the step that it acts on is the other half: in
    `clip_adjoint(lstm(4), 1.0)`, the rule is `ClipAdjoint(1.0)`, and the whole is
    `RuledCell(lstm(4), rule)`. A rule without a probe returns None as its gradient.
    """

    has_probe = False

    def __call__(self, d_carry: Carry, batch_rank: int) -> tuple[Carry, PyTree]:
        """Applies the rule to λ_t."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, repr=False)
class ScaleAdjoint(AdjointRule):
    """The rule of (AT1) and (AT2)."""

    factor: FactorOfSize
    elementwise: bool = dataclasses.field(default=False, kw_only=True)

    expression_name = "scale_adjoint"

    def __post_init__(self) -> None:
        check.require_bool("elementwise", self.elementwise)

    def __call__(self, d_carry: Carry, batch_rank: int) -> tuple[Carry, None]:
        """Applies the rule to λ_t."""
        norm_of_rows = None if self.elementwise else row_norm(d_carry, batch_rank)

        def scale(d: jax.Array) -> jax.Array:
            # Either the size of each number, or one size for all numbers of a row.
            size = abs(d) if norm_of_rows is None else tree.expand_mask(norm_of_rows, d)
            # A size of 0 would give 1 / 0 for a normalising f; its λ is 0 for any factor.
            factor = self.factor(one_where_zero(size))
            check.require_arrays(factor=factor)
            fits = factor is not None and jnp.shape(factor) in ((), jnp.shape(size))
            expected = f"the shape of the sizes {check.describe(size)}"
            check.require(fits, "factor", check.describe(factor), expected)
            return d * jnp.asarray(factor, d.dtype)  # (AT1), (AT2)

        return jax.tree.map(scale, d_carry), None


@dataclasses.dataclass(frozen=True, repr=False)
class ClipAdjoint(AdjointRule):
    """The rule of (AT3)."""

    limit: float
    elementwise: bool = dataclasses.field(default=False, kw_only=True)

    expression_name = "clip_adjoint"

    def __post_init__(self) -> None:
        check.require_bool("elementwise", self.elementwise)
        self.replace_fields(limit=check.require_positive("limit", self.limit))

    def __call__(self, d_carry: Carry, batch_rank: int) -> tuple[Carry, None]:
        """Applies the rule to λ_t."""

        def factor(size: jax.Array) -> jax.Array:
            return jnp.minimum(1, self.limit / size)  # (AT3)

        return ScaleAdjoint(factor, elementwise=self.elementwise)(d_carry, batch_rank)


@dataclasses.dataclass(frozen=True, repr=False)
class ProbeAdjoint(AdjointRule):
    """The rule of (AT4)."""

    whole: bool = dataclasses.field(default=False, kw_only=True)

    expression_name = "probe_adjoint"
    has_probe = True

    def __post_init__(self) -> None:
        check.require_bool("whole", self.whole)

    def __call__(self, d_carry: Carry, batch_rank: int) -> tuple[Carry, PyTree]:
        """Applies the rule to λ_t."""
        d_probe = d_carry if self.whole else row_norm(d_carry, batch_rank)  # (AT4)
        return d_carry, d_probe


def _with_rule(step: Cell | Step, rule: AdjointRule) -> Cell | Step:
    if isinstance(step, Cell):
        return RuledCell(step, rule)
    return RuledStep(step, rule)


@dataclasses.dataclass(frozen=True, repr=False)
class RuledStep(Expression):
    """A plain step whose new carry passes through the rule wherever it is used."""

    step: Step
    rule: AdjointRule

    def expression(self, spell_argument: Spell, *, with_defaults: bool = False) -> str:
        """Returns the call of the public function that constructs it."""
        return _expression(self.step, self.rule, spell_argument, with_defaults)

    def __call__(self, params: Params, carry: Carry, x: PyTree) -> StepResult:
        """Runs one step."""
        x, probe = _inputs_and_probe(self.rule, x)

        def watch(carry: Carry) -> Carry:
            return apply_rule(self.rule, num_batch_axes(self.step, carry), carry, probe)

        return with_watched_carry(self.step, watch, params, carry, x)


@dataclasses.dataclass(frozen=True, repr=False)
class RuledCell(ExtraInputCell):
    """A Cell whose adjoint passes through a rule."""

    rule: AdjointRule

    def expression(self, spell_argument: Spell, *, with_defaults: bool = False) -> str:
        """Returns the call of the public function that constructs it."""
        return _expression(self.cell, self.rule, spell_argument, with_defaults)

    def project(self, params: Params, xs: PyTree) -> ProbeInputs:
        """Returns the projected inputs, and the probe, which is None for a rule without one."""
        xs, probe = _inputs_and_probe(self.rule, xs)
        return ProbeInputs(self.cell.project(params, xs), probe)

    def advance(self, w: Weights, carry: Carry, z: ProbeInputs) -> tuple[Carry, PyTree]:
        """Calls the inner cell."""
        new_carry, saved = self.cell.advance(w, carry, z.xs)
        batch_rank = num_batch_axes(self.cell, carry)
        return apply_rule(self.rule, batch_rank, new_carry, z.probe), saved

    def adjoint(self, w: Weights, residuals: Residuals, d_carry: Carry) -> tuple[Carry, PyTree]:
        """Applies the rule, then calls the inner cell."""
        d_carry, d_probe = self.rule(d_carry, num_batch_axes(self.cell, d_carry))
        d_previous, delta = self.cell.adjoint(w, self._inner_residuals(residuals), d_carry)
        # The gradient of the probe of each step is kept with δ, since `gradients` returns it.
        return d_previous, (delta, d_probe)

    def gradients(
        self, w: Weights, residuals: Residuals, deltas: PyTree
    ) -> tuple[Weights, ProbeInputs]:
        """Returns the gradients of the inner cell, and those of the probe."""
        inner_deltas, d_probes = deltas
        d_w, d_zs = self.cell.gradients(w, self._inner_residuals(residuals), inner_deltas)
        return d_w, ProbeInputs(d_zs, d_probes)


def _inputs_and_probe(rule: AdjointRule, xs: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the inputs of the step itself, and the probe; None for a rule without one."""
    if not rule.has_probe:
        return xs, None
    return check.require_instance("xs", xs, ProbeInputs)


def _expression(step: Cell | Step, rule: AdjointRule, spell: Spell, with_defaults: bool) -> str:
    """Returns the expression of the rule, with the step as its first argument."""
    arguments = [spell(step), *argument_expressions(rule, spell, with_defaults=with_defaults)]
    return f"{rule.expression_name}({', '.join(arguments)})"


# Where JAX differentiates a step, as `scan` does, the rule acts through this identity: its value is
# the carry, and its backward pass is the rule.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _identity(rule: AdjointRule, batch_rank: int, carry: Carry, probe: PyTree) -> Carry:
    return carry


def _identity_forward(
    rule: AdjointRule, batch_rank: int, carry: Carry, probe: PyTree
) -> tuple[Carry, None]:
    return carry, None  # the rule needs nothing of the forward pass


def _identity_backward(
    rule: AdjointRule, batch_rank: int, residuals: None, d_carry: Carry
) -> tuple[Carry, PyTree]:
    return rule(d_carry, batch_rank)


_identity.defvjp(_identity_forward, _identity_backward)


def apply_rule(rule: AdjointRule, batch_rank: int, carry: Carry, probe: PyTree) -> Carry:
    """Returns the carry; its cotangent passes through the rule in the backward pass."""
    inexact, others = tree.split_inexact(carry)
    # The gradient of the probe must have its shape, so the rule's result tells what a probe is.
    _, wanted = jax.eval_shape(lambda d_carry: rule(d_carry, batch_rank), inexact)
    check.require_same_tree("xs.probe", probe, wanted)
    return tree.merge_inexact(_identity(rule, batch_rank, inexact, probe), others)
