"""The adjoint on its way back: read, or changed, at a step or where it crosses into the next."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxrnn import check, tree
from jaxrnn.cells.parts import at_least_float32
from jaxrnn.transforms.noise import drawn, of_arrays, rates, with_noise
from jaxrnn.types import Carry, Cell, Key, Noised, Params, PyTree, Seen, Step, once

Control = Callable[[Carry], tuple[Carry, PyTree]]  # λ -> (what goes on, what is read)
REMAT = {"checkpoint", "remat", "remat2"}  # names of `jax.checkpoint` in a jaxpr


class Probed(NamedTuple):
    """Inputs, and a zero at every step whose gradient is read off the adjoint.

    Fields:
        xs: what the step itself takes.
        probe: zeros, `(*batch)` for ‖λ_t‖ and of the form of the carry for λ_t itself.
    """

    xs: PyTree
    probe: PyTree


@once
def controlled(
    step: Cell | Step,
    factor: Callable[[jax.Array], Any] = jnp.ones_like,
    *,
    elementwise: bool = False,
    cut: float | Carry = 0.0,
) -> Cell | Step:
    """The same step, whose adjoint is changed at every step of its way back.

    Of the whole λ_t = ∂L/∂c_t, what comes from the future and what comes from the loss of this
    step, each row is multiplied before the step's own backward pass sees it,

        λ_t ← f(‖λ_t‖) λ_t                     ‖·‖ over all arrays of the carry jointly      (A1)
        λ_t ← f(|λ_t|) ⊙ λ_t                   `elementwise`                                 (A2)

    where zero stays zero whatever f; and of what goes on to step t-1, each row of each array is

        ∂L/∂c_{t-1} ← 0                        with probability p, `cut`                     (A3)

    Values are untouched. For f take `lambda size: 1 / size` to normalise, `lambda size: 0.9` to
    scale; to clip there is `clipped`.

    Args:
        step: a Cell, whose backward pass stays the one by hand, or a plain Step. In a plain Step
            what is computed from an array of the new carry belongs to the loss of that array, but
            within a rule of its own (`jax.custom_vjp`), which is kept whole; the axes that all its
            arrays begin with tell rows apart, the last of the longest excepted.
        factor: f, of sizes `(*batch)` or of those of single numbers, all above 0. A function that
            is made anew at every call is compiled anew.
        elementwise: (A2) in the place of (A1); a complex number has its modulus.
        cut: p in [0, 1), one number or one for each array of the carry: `LSTMCarry(h=0.25, c=0.0)`
            is h-detach. Each step keeps its own loss. For Cells: `unroll(key=...)` draws where;
            without a key nothing is cut.

    Returns:
        A Cell or a Step that takes what `step` takes; equal arguments give the same cell. With f =
        1 and p = 0 the gradient is the same, bit by bit.

    Raises:
        TypeError, ValueError: a rate outside [0, 1); `cut` for a plain Step.

    Gradient: biased on purpose, unless f = 1. No forward mode. Time and memory: a reduction over
    the carry at each step; T·B bools an array for `cut`.

    Source: B. Kanuparthi et al., "h-detach: Modifying the LSTM gradient towards better
    optimization", ICLR 2019; for f as `clipped`.
    """
    check.function("step", step)
    control = _control(
        check.function("factor", factor, takes=1), check.boolean("elementwise", elementwise)
    )
    rates("cut", cut)
    if isinstance(step, Cell):
        # A dict of rates has no hash, and makes a cell of its own each time.
        known = any(isinstance(cut, kind) for kind in (int, float, tuple))
        make = _watched_cell if known else _watched_cell.__wrapped__
        return make(step, control, cut if any(jax.tree.leaves(cut)) else None)
    if any(jax.tree.leaves(cut)):
        raise TypeError(f"cut: got {cut} for a plain Step, expected 0, since only Cells draw noise")
    return _watched_step(step, control)


@once
def clipped(step: Cell | Step, limit: float, *, elementwise: bool = False) -> Cell | Step:
    """The same step, whose adjoint never grows beyond a limit.

        λ_t ← min(1, n / ‖λ_t‖) λ_t                                                          (A4)

    optax's clipping sees the sum over all steps: where one step explodes, the rest of the sequence
    is scaled away with it. Here that step alone is brought down, and all others keep their share.

    Args:
        step: as for `controlled`.
        limit: n, above 0.
        elementwise: clip |λ_t|, number by number.

    Returns:
        As `controlled`.

    Gradient: as `controlled`.

    Source: A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850
    (at every step); R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent
    neural networks", ICML 2013 (the sum).
    """
    check.function("step", step)
    limit, elementwise = check.positive("limit", limit), check.boolean("elementwise", elementwise)
    watch = _watched_cell if isinstance(step, Cell) else _watched_step
    return watch(step, _control(_clip(limit), elementwise))


@once
def probed(step: Cell | Step, *, whole: bool = False) -> Cell | Step:
    """The same step with a zero beside its inputs, whose gradient is the norm of the adjoint.

        ∂L/∂probe_t := ‖λ_t‖                                                                 (A5)

    An additive zero in the carry would have λ_t itself as its gradient; here it is reduced on the
    spot, on the backward pass that runs anyway.

    Args:
        step: as for `controlled`.
        whole: λ_t and not its norm.

    Returns:
        A Cell or a Step whose inputs are `Probed(xs, probe)`. Equal arguments give the same cell.

    Gradient: exact, but for the probe. Time and memory: a reduction a step, T·B numbers.
    """
    check.function("step", step)
    watch = _watched_cell if isinstance(step, Cell) else _watched_step
    return watch(step, _read(check.boolean("whole", whole)), probes=True)


def batch_of(carry: Carry) -> tuple[int, ...]:
    """The axes that tell rows apart; see `controlled`."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree.split_inexact(carry)[0])]
    shared = itertools.takewhile(lambda sizes: len({*sizes}) == 1, zip(*shapes, strict=False))
    return tuple(sizes[0] for sizes in shared)[: max(0, *map(len, shapes), 1) - 1]


def packed(carry: Carry) -> jax.Array:
    """All real numbers of a row side by side, `(*batch, N)`; a complex one is two.

    In the widest dtype among them, at least float32.
    """
    start = len(batch_of(carry))
    leaves = jax.tree.leaves(tree.split_inexact(carry)[0])
    parts = [p for c in leaves for p in ((c.real, c.imag) if jnp.iscomplexobj(c) else (c,))]
    dtype = at_least_float32(max((p.dtype for p in parts), key=lambda d: jnp.finfo(d).bits))
    return jnp.concatenate([jax.lax.collapse(p, start).astype(dtype) for p in parts], axis=-1)


def row_norm(d_carry: Carry) -> jax.Array:
    """‖λ‖ `(*batch)` over all arrays jointly, with no square that over- or underflows."""
    sizes = abs(packed(d_carry))
    peak = _positive(jnp.max(sizes, axis=-1, initial=0))
    return jnp.sqrt(jnp.sum((sizes / peak[..., None]) ** 2, axis=-1)) * peak


def _positive(size: jax.Array) -> jax.Array:
    """1 in the place of 0, for what is to be divided."""
    return jnp.where(size == 0, 1, size)


@functools.cache
def _control(factor: Callable[[jax.Array], Any], elementwise: bool) -> Control:
    def control(d_carry: Carry) -> tuple[Carry, None]:
        norm = None if elementwise else row_norm(d_carry)

        def times(d: jax.Array) -> jax.Array:
            size = abs(d) if norm is None else tree.widened(norm, d)
            f, expected = factor(_positive(size)), f"the shape of the sizes {check.describe(size)}"
            check.arrays(factor=f)
            fits = f is not None and jnp.shape(f) in ((), jnp.shape(size))
            check.that(fits, "factor", check.describe(f), expected)
            return d * jnp.asarray(f, d.dtype)  # (A1), (A2)

        return jax.tree.map(times, d_carry), None

    return control


@functools.cache
def _clip(limit: float) -> Callable[[jax.Array], jax.Array]:
    return lambda size: jnp.minimum(1, limit / size)  # (A4)


@functools.cache
def _read(whole: bool) -> Control:
    return lambda d_carry: (d_carry, d_carry if whole else row_norm(d_carry))  # (A5)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _identity(control: Control, carry: Carry, probe: PyTree) -> Carry:
    return carry


_identity.defvjp(lambda _, carry, probe: (carry, None), lambda control, _, d: control(d))


def _watched(control: Control, carry: Carry, probe: PyTree) -> Carry:
    """The carry, whose cotangent goes through the control on its way back."""
    inexact, others = tree.split_inexact(carry)
    check.same_tree("xs.probe", probe, jax.eval_shape(control, inexact)[1])
    return tree.merge(_identity(control, inexact, probe), others)


@functools.cache
def _watched_cell(cell: Any, control: Control, cut: Any = None, probes: bool = False) -> Cell:
    def draw(key: Key, params: Params, carry: Carry, xs: PyTree) -> tuple[None, Carry]:
        shape = (check.length(xs), *batch_of(carry))
        rates = jax.tree.map(lambda p: 1 - p, of_arrays("cut", cut, carry))
        return None, drawn(key, rates, lambda _: shape, carry)

    def project(params: Params, xs: PyTree, _: None = None, keep: Carry | None = None) -> Noised:
        """What drives the cell inside, the probe, and where the link to the step before holds."""
        xs, probe = check.instance("xs", xs, Probed) if probes else (xs, None)
        return Noised(Probed(cell.project(params, xs), probe), keep)

    def linked(keep: Carry | None, carry: Carry, cut_off: Carry) -> Carry:
        return carry if keep is None else jax.tree.map(tree.where, keep, carry, cut_off)  # (A3)

    def advance(w: PyTree, carry_tm1: Carry, z: Noised) -> tuple[Carry, PyTree]:
        carry_tm1 = linked(z.noise, carry_tm1, jax.lax.stop_gradient(carry_tm1))
        carry_t, saved = cell.advance(w, carry_tm1, z.value.xs)
        return _watched(control, carry_t, z.value.probe), saved

    def adjoint(w: PyTree, seen: Seen, d_carry: Carry) -> tuple[Carry, PyTree]:
        d_carry, read = control(d_carry)
        d_carry_tm1, delta = cell.adjoint(w, seen._replace(z=seen.z.value.xs), d_carry)
        nothing = jax.tree.map(jnp.zeros_like, d_carry_tm1)
        return linked(seen.z.noise, d_carry_tm1, nothing), (delta, read)

    def gather(w: PyTree, seen: Seen, deltas: PyTree) -> tuple[PyTree, Noised]:
        d_w, d_zs = cell.gather(w, seen._replace(z=seen.z.value.xs), deltas[0])
        return d_w, Noised(Probed(d_zs, deltas[1]), None)

    if cut:
        return with_noise(cell, draw, project=project).changed(adjoint, gather, advance=advance)
    return cell.changed(adjoint, gather, project=project, advance=advance)


def _watched_step(step: Step, control: Control, probes: bool = False) -> Step:
    """The step, its new carry watched wherever it goes: on to the next step, and into y."""

    def watched(params: Params, carry: Carry, x: PyTree) -> tuple[Carry, PyTree]:
        x, probe = check.instance("xs", x, Probed) if probes else (x, None)
        jaxpr, values, form = _flat(step, params, carry, x)
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        for eqn in jaxpr.eqns:
            env |= zip(eqn.outvars, _evaluated(eqn, env), strict=True)
        carry_t, _ = form.unflatten([_value(env, v) for v in jaxpr.outvars])
        carry_t = _watched(control, carry_t, probe)
        # What was computed from the carry, once more from the watched one. All else stays as it
        # is: a rule of the user's own must not run twice.
        made = {v for eqn in jaxpr.eqns for v in eqn.outvars}
        outs = zip(jaxpr.outvars, jax.tree.leaves(carry_t), strict=False)
        watched_carry = {v: c for v, c in outs if not isinstance(v, Literal) and v in made}
        anew = dict(watched_carry)
        for eqn in jaxpr.eqns:
            if any(v in anew for v in eqn.invars if not isinstance(v, Literal)):
                anew |= zip(eqn.outvars, _evaluated(eqn, env | anew), strict=True)
                anew |= watched_carry
        _, y = form.unflatten([_value(env | anew, v) for v in jaxpr.outvars])
        return carry_t, y

    return watched


def _flat(step: Step, params: Params, carry: Carry, x: PyTree) -> tuple[Any, list[Any], Any]:
    """The step's jaxpr, the values of its variables, and what tree it returns.

    Calls of `jit` are written out, and a `jax.checkpoint` that returns the new carry: they would
    hide what of y is computed from the carry. A rule of the user's own stays whole.
    """
    traced, shapes = jax.make_jaxpr(step, return_shape=True)(params, carry, x)
    carries = len(jax.tree.leaves(check.looped("step", shapes)[0]))

    def applied(jaxpr: Any, carry: list[Any], values: list[Any]) -> list[Any]:
        """The values of a jaxpr, in which these variables are the new carry."""
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        for eqn in jaxpr.eqns:
            of_carry = [any(v is c for c in carry) for v in eqn.outvars]
            if eqn.primitive.name == "jit" or (eqn.primitive.name in REMAT and any(of_carry)):
                inner, consts = eqn.params["jaxpr"], []
                if eqn.primitive.name == "jit":
                    inner, consts = inner.jaxpr, inner.consts
                inner_carry = [v for v, c in zip(inner.outvars, of_carry, strict=True) if c]
                own = [*consts, *(_value(env, v) for v in eqn.invars)]
                made = applied(inner, inner_carry, own)
            else:
                made = _evaluated(eqn, env)
            env |= zip(eqn.outvars, made, strict=True)
        return [_value(env, v) for v in jaxpr.outvars]

    new, leaves = (
        traced.jaxpr.outvars[:carries],
        [*traced.consts, *jax.tree.leaves((params, carry, x))],
    )
    flat = jax.make_jaxpr(lambda *leaves: applied(traced.jaxpr, new, [*leaves]))(*leaves)
    return flat.jaxpr, [*flat.consts, *leaves], jax.tree.structure(shapes)


def _value(env: dict[Any, Any], v: Any) -> Any:
    return v.val if isinstance(v, Literal) else env[v]


def _evaluated(eqn: Any, env: dict[Any, Any]) -> list[Any]:
    """What an equation makes of the values of its variables."""
    params, values = eqn.primitive.get_bind_params(eqn.params), [_value(env, v) for v in eqn.invars]
    made = eqn.primitive.bind(*values, **params)
    return list(made) if eqn.primitive.multiple_results else [made]
