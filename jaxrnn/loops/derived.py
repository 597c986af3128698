"""The parts of a Cell, derived from a step that shows none.

A step's jaxpr tells what of it runs in order. With c_t the carry and F the arrays where parameters
or inputs have just entered linearly, and something that is not linear follows,

    w        = what depends on neither carry nor input, and is made once                     (1)
    z_t      = what depends on the input and not on the carry, for all steps at once         (2)
    c_t      = advance(w, c_{t-1}, z_t)                                                      (3)
    y_t      = what depends on c_t and is not needed for c_{t+1}, for all steps at once      (4)
    λ_{t-1}  = (∂c_t/∂c_{t-1})ᵀ λ_t,    δ_t = ∂L/∂F_t, by everything but what leads to F     (5)
    ∂L/∂w, z = (∂F/∂(w, z))ᵀ δ, for all steps at once: each weight's is one product          (6)

Only (3) and (5) run in order. What they remember is F and what is costly to make again, as far as
(5) and (6) read it; all else is made again from these.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxrnn import check, tree
from jaxrnn.types import Carry, Params, PyTree, Step

SAME, STEPWISE, CARRIED = range(3)

# Linear, and free or nearly so: what has entered linearly passes through them to the end of F.
STRUCTURAL = {
    *("add", "sub", "neg", "add_any", "convert_element_type", "copy", "broadcast_in_dim", "pad"),
    *("concatenate", "reshape", "slice", "split", "squeeze", "transpose", "rev"),
}
# The slope of what is costly told from its value, s = f(a) to f'(a).
SLOPES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": lambda s: 1 - s * s,
    "logistic": lambda s: s * (1 - s),
    "exp": lambda s: s,
}
COSTLY = {*SLOPES, "dot_general", "conv_general_dilated"}
# A branch would become two, and a search as long as the longest, were they not run step by step.
UNMOVED = {"cond", "while"}


class Recurrence(NamedTuple):
    """What runs over time: of a Cell's functions those that a loop's recurrence uses."""

    advance: Callable[..., tuple[Carry, PyTree]]
    adjoint: Callable[..., tuple[Carry, PyTree]]
    gather: Callable[..., tuple[PyTree, PyTree]]


class Parted(NamedTuple):
    """A step in parts.

    Fields:
        recurrence: (3), (5) and (6), of pairs: a carry, and what else (4) needs of its step.
        w: (1).
        pair: the first.
        zs: (2).
        outputs: (4), from all pairs to all outputs.
    """

    recurrence: Recurrence
    w: PyTree
    pair: tuple[Carry, PyTree]
    zs: PyTree
    outputs: Callable[[tuple[Carry, PyTree]], PyTree]


def parted(step: Step, params: Params, carry: Carry, xs: PyTree) -> Parted:
    """The parts of a step, which may close over traced values: they count as parameters."""
    steps = check.length(xs)
    jaxpr, constants, (carry_form, y_form) = _flat(step, params, carry, check.at_one_step(xs))
    plan = _planned(jaxpr, len(constants), carry_form.num_leaves)

    env = _run(plan.once, dict(zip(plan.own, constants, strict=True)))
    w = [env[v] for v in plan.same], [env[v].T for v in plan.turned]

    def projected(*x):
        at_t = _run(plan.ahead, env | dict(zip(plan.inputs, x, strict=True)))
        return [at_t[v] for v in plan.stepwise]

    # The number of a step makes a sequence of them where nothing of the input is needed.
    zs = jax.vmap(projected, axis_size=steps)(*jax.tree.leaves(xs)), jnp.arange(steps)

    def played(w, z, carry_tm1, known, across):
        """The pair of (3) and all variables; what is known is not made again, across takes F."""
        turned = dict(zip(plan.turned, w[1], strict=False))  # there on the way back alone
        carry_tm1 = jax.tree.leaves(carry_tm1)
        env = plan.given(w, z) | dict(zip(plan.carried, carry_tm1, strict=True))

        def crossing(v):
            crosses = not isinstance(v, Literal) and v in plan.cut
            return across(v, env[v]) if crosses else _value(env, v)

        for eqn in plan.loop:
            # On the way to F its slopes go on: what has none could not be differentiated again.
            entering = not plan.front.isdisjoint(eqn.outvars)
            values = [_value(env, v) if entering else crossing(v) for v in eqn.invars]
            if eqn.primitive.name in SLOPES and eqn.outvars[0] in known:
                made = [SLOPES[eqn.primitive.name](known[eqn.outvars[0]]) * values[0]]
            elif _is_product(eqn) and eqn.invars[1] in turned:
                made = [_turned_product(eqn, values[0], turned[eqn.invars[1]])]
            else:
                made = _evaluated(eqn, values)
            pairs = zip(eqn.outvars, made, strict=True)
            env |= {v: _known(x, known[v]) if v in known else x for v, x in pairs}
        carry = carry_form.unflatten([crossing(v) for v in plan.carry])
        return (carry, [crossing(v) for v in plan.extras]), env

    def advance(w, pair_tm1, z):
        pair, env = played((w[0], ()), z, pair_tm1[0], {}, lambda v, x: x)
        return pair, [env[v] for v in plan.kept]

    def known(seen):
        outs = zip(plan.carry + plan.extras, jax.tree.leaves(seen.carry), strict=True)
        worth = {v: x for v, x in outs if not isinstance(v, Literal) and v in plan.worth}
        return worth | dict(zip(plan.kept, seen.saved, strict=True))

    def adjoint(w, seen_t, d_pair_t):
        def moved(carry_tm1, moves):
            def across(v, x):
                return x + moves[plan.cut[v]]

            return played(w, seen_t.z, carry_tm1, known(seen_t), across)[0]

        moves = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in plan.cut]
        pull = tree.pullback(moved, seen_t.carry_tm1[0], moves)
        ((d_carry_tm1, deltas),) = pull(d_pair_t)
        return (d_carry_tm1, tree.zeros(seen_t.carry_tm1[1])), deltas  # (5)

    def gather(w, seen, deltas):
        def fronts(w, seen_t):
            found = {}

            def across(v, x):
                found[v] = x
                return _known(jnp.zeros_like(x), x)  # no slope here, but one of second order

            played(w, seen_t.z, seen_t.carry_tm1[0], known(seen_t), across)
            return [found[v] for v in plan.cut]

        over_time = jax.vmap(fronts, in_axes=(None, 0), axis_size=steps)
        pull = tree.pullback(
            lambda same, zs: over_time((same, ()), seen._replace(z=zs)), w[0], seen.z
        )
        ((d_same, d_zs),) = pull(deltas)  # (6)
        return (d_same, [None] * len(w[1])), d_zs

    def outputs(pairs):
        def at_t(z, pair):
            carry, extras = pair
            outs = zip(plan.carry + plan.extras, jax.tree.leaves(carry) + extras, strict=True)
            env = plan.given(w, z) | {v: x for v, x in outs if not isinstance(v, Literal)}
            env = _run(plan.late, env)
            return y_form.unflatten([_value(env, v) for v in plan.ys])

        return jax.vmap(at_t, axis_size=steps)(zs, pairs)

    extras = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in plan.extras]
    return Parted(Recurrence(advance, adjoint, gather), w, (carry, extras), zs, outputs)


class Plan(NamedTuple):
    """The variables and equations of a step's jaxpr, by their place in (1) to (6).

    Fields:
        own, carried, inputs: what the step is given: parameters, carry, input.
        once, same: the equations of (1), and what the others need of it; of that, `turned` is
            what a product has on its right, which the way back needs transposed.
        ahead, stepwise: likewise of (2).
        loop, late: the equations of (3) and of (4).
        carry, extras, ys: what (3) hands on, what (4) needs beside it, and what (4) makes.
        front: all that leads to F.
        cut: F, by its place in δ.
        worth: what is worth remembering, and `kept`, that of it which is not handed on anyway.
    """

    own: list[Any]
    carried: list[Any]
    inputs: list[Any]
    once: list[Any]
    same: list[Any]
    turned: list[Any]
    ahead: list[Any]
    stepwise: list[Any]
    loop: list[Any]
    late: list[Any]
    carry: list[Any]
    extras: list[Any]
    ys: list[Any]
    front: set[Any]
    cut: dict[Any, int]
    worth: set[Any]
    kept: list[Any]

    def given(self, w: PyTree, z: PyTree) -> dict[Any, Any]:
        """What (1) and (2) made, by its variable."""
        return dict(zip(self.same + self.stepwise, w[0] + z[0], strict=True))


def _planned(jaxpr: Any, constants: int, carries: int) -> Plan:
    """The plan of a step that takes parameters, carry and input in this order."""
    variables = [*jaxpr.constvars, *jaxpr.invars]
    own, others = variables[:constants], variables[constants:]
    carried, inputs = others[:carries], others[carries:]
    carry, ys = jaxpr.outvars[:carries], jaxpr.outvars[carries:]
    kinds = {v: kind for kind, some in enumerate((own, inputs, carried)) for v in some}
    for eqn in jaxpr.eqns:
        kind = max((kinds[v] for v in _reads([eqn])), default=SAME)
        stays = eqn.effects or (kind == STEPWISE and eqn.primitive.name in UNMOVED)
        kinds |= dict.fromkeys(eqn.outvars, CARRIED if stays else kind)

    def is_carried(eqn):
        return any(kinds[v] == CARRIED for v in eqn.outvars)

    def in_order(eqn, wanted):
        """A broadcast too, which would only be made larger by being made beforehand."""
        keyed = any(_is_key(v) for v in _reads([eqn]))
        stays = eqn.effects or (is_carried(eqn) and (keyed or eqn.primitive.name in UNMOVED))
        return stays or (wanted and (is_carried(eqn) or eqn.primitive.name == "broadcast_in_dim"))

    loop = _leading_to(carry, jaxpr.eqns, in_order)
    made = {v for eqn in loop for v in eqn.outvars}
    late = _leading_to(
        ys,
        jaxpr.eqns,
        lambda eqn, wanted: wanted and is_carried(eqn) and made.isdisjoint(eqn.outvars),
    )
    late_reads = [*_reads(late), *_variables(ys)]
    extras = [v for v in dict.fromkeys(late_reads) if kinds[v] == CARRIED and v not in carry]
    extras = [v for v in extras if v in made or v in carried]
    given = [v for v in [*_reads(loop), *_variables(carry)] if v not in made] + late_reads
    same, stepwise = (
        [v for v in dict.fromkeys(given) if kinds[v] == kind] for kind in (SAME, STEPWISE)
    )
    before = _leading_to(
        same + stepwise, jaxpr.eqns, lambda eqn, wanted: wanted and not is_carried(eqn)
    )
    once = [eqn for eqn in before if all(kinds[v] == SAME for v in eqn.outvars)]

    turned = [v for eqn in loop if _is_product(eqn) for v in eqn.invars[1:] if v in same]

    front: set[Any] = set()
    for eqn in loop:
        entering = [v for v in _reads([eqn]) if kinds[v] != CARRIED and check.is_inexact(v.aval)]
        going_on = eqn.primitive.name in STRUCTURAL and not front.isdisjoint(_reads([eqn]))
        if entering or going_on:
            front.update(eqn.outvars)
    front.update(v for v in _variables(carry) if kinds[v] != CARRIED)
    leaving = [*_variables(carry), *extras]
    leaving += [v for eqn in loop if front.isdisjoint(eqn.outvars) for v in _reads([eqn])]
    cut = [v for v in dict.fromkeys(leaving) if v in front and check.is_inexact(v.aval)]
    worth = [
        v
        for eqn in loop
        for v in eqn.outvars
        if check.is_inexact(v.aval) and (v in cut or eqn.primitive.name in COSTLY)
    ]
    kept = [v for v in worth if v not in carry and v not in extras]
    ahead = [eqn for eqn in before if eqn not in once]
    places = {v: i for i, v in enumerate(cut)}
    return Plan(
        *(own, carried, inputs, once, same, turned, ahead, stepwise, loop, late),
        *(carry, extras, ys, front, places, set(worth), kept),
    )


def closed(step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[Step, Params]:
    """The step as a function of its arguments alone, and its params: yours, and all it closed over.

    These are of any dtype, in one list.
    """
    jaxpr, own, (carry_form, y_form) = _flat(step, params, carry, check.at_one_step(xs))

    def pure(own, carry, x):
        values = _applied(jaxpr, [*own, *jax.tree.leaves((carry, x))])
        size = carry_form.num_leaves
        return carry_form.unflatten(values[:size]), y_form.unflatten(values[size:])

    return pure, own


def _leading_to(outs: Iterable[Any], eqns: list[Any], chosen: Callable[..., bool]) -> list[Any]:
    """The equations that are chosen, told whether what they make is wanted by `outs` or others."""
    wanted, found = set(_variables(outs)), []
    for eqn in reversed(eqns):
        if chosen(eqn, not wanted.isdisjoint(eqn.outvars)):
            found.append(eqn)
            wanted.update(_reads([eqn]))
    return found[::-1]


def _variables(atoms: Iterable[Any]) -> list[Any]:
    return [v for v in atoms if not isinstance(v, Literal)]


def _reads(eqns: Iterable[Any]) -> list[Any]:
    return [v for eqn in eqns for v in _variables(eqn.invars)]


def _is_key(v: Any) -> bool:
    return jnp.issubdtype(v.aval.dtype, jax.dtypes.extended)


def _flat(step: Step, params: Params, carry: Carry, x: PyTree) -> tuple[Any, list[Any], Any]:
    """The step's jaxpr with calls of jit written out, its parameters, and how its values go.

    A custom_vjp must not close over traced values, so all constants become parameters.
    """
    closed, shapes = jax.make_jaxpr(step, return_shape=True)(params, carry, x)
    leaves = [*closed.consts, *jax.tree.leaves((params, carry, x))]
    flat = jax.make_jaxpr(lambda *leaves: _applied(closed.jaxpr, leaves))(*leaves)
    own = [*flat.consts, *closed.consts, *jax.tree.leaves(params)]
    return flat.jaxpr, own, tuple(map(jax.tree.structure, shapes))


def _applied(jaxpr: Any, values: Iterable[Any]) -> list[Any]:
    """The values of a jaxpr, its calls of jit written out."""
    variables = [*jaxpr.constvars, *jaxpr.invars]
    env = _run(jaxpr.eqns, dict(zip(variables, values, strict=True)))
    return [_value(env, v) for v in jaxpr.outvars]


def _run(eqns: Iterable[Any], env: dict[Any, Any]) -> dict[Any, Any]:
    """The values of all variables."""
    env = dict(env)
    for eqn in eqns:
        env |= zip(eqn.outvars, _evaluated(eqn, [_value(env, v) for v in eqn.invars]), strict=True)
    return env


def _value(env: dict[Any, Any], v: Any) -> Any:
    return v.val if isinstance(v, Literal) else env[v]


def _evaluated(eqn: Any, values: list[Any]) -> list[Any]:
    """What an equation makes; that of a call of jit goes through its own."""
    if eqn.primitive.name == "jit":
        inner = eqn.params["jaxpr"]
        return _applied(inner.jaxpr, [*inner.consts, *values])
    made = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(made) if eqn.primitive.multiple_results else [made]


def _is_product(eqn: Any) -> bool:
    """Whether it is x W, for a matrix W."""
    dims = eqn.params.get("dimension_numbers")
    return (
        eqn.primitive.name == "dot_general"
        and dims[0][1] == (0,)
        and eqn.invars[1].aval.ndim == 2
        and dims[1] == ((), ())
    )


def _turned_product(eqn: Any, x: jax.Array, w_t: jax.Array) -> jax.Array:
    """Take x W by Wᵀ, whose own transposed product is the faster one."""
    ((contracted, _), batch) = eqn.params["dimension_numbers"]
    params = eqn.params | {"dimension_numbers": ((contracted, (1,)), batch)}
    return eqn.primitive.bind(x, w_t, **params)


@jax.custom_jvp
def _known(made: jax.Array, known: jax.Array) -> jax.Array:
    """What is known, with the slope of what was made anew, whose value is then not needed."""
    return known


@_known.defjvp
def _(primals, tangents):
    return primals[1], tangents[0]
