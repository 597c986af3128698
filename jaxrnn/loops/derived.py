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
from typing import Any

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


class Recurrence:
    """What runs over time, (3), (5) and (6), and all of a step by its place in (1) to (6).

    It goes through pairs: a carry, and what else (4) needs of its step.

    Attributes:
        carry_form, y_form: the trees that the step returns.
        own, carried, inputs: what the step is given: parameters, carry, input.
        once, same: the equations of (1), and what the others need of it; of that, `turned` is
            what a product has on its right, which the way back needs transposed.
        ahead, stepwise: likewise of (2).
        loop, late: the equations of (3) and of (4).
        carry, extras, ys: what (3) hands on, what (4) needs beside it, and what (4) makes.
        front: all that leads to F.
        cut: F, in the order of δ.
        worth: what is worth remembering, and `kept`, that of it which is not handed on anyway.
    """

    def __init__(self, jaxpr: Any, constants: int, form: Any) -> None:
        """Take the jaxpr apart, whose inputs are so many parameters, a carry and an input."""
        self.carry_form, self.y_form = form.children()
        carries = self.carry_form.num_leaves
        variables = [*jaxpr.constvars, *jaxpr.invars]
        self.own, others = variables[:constants], variables[constants:]
        self.carried, self.inputs = others[:carries], others[carries:]
        self.carry, self.ys = jaxpr.outvars[:carries], jaxpr.outvars[carries:]
        inputs = self.own, self.inputs, self.carried
        kinds = {v: kind for kind, some in enumerate(inputs) for v in some}
        for eqn in jaxpr.eqns:
            kind = max((kinds[v] for v in _reads([eqn])), default=SAME)
            stays = eqn.effects or (kind == STEPWISE and eqn.primitive.name in UNMOVED)
            kinds |= dict.fromkeys([eqn, *eqn.outvars], CARRIED if stays else kind)

        def of_kind(kind):
            return [eqn for eqn in jaxpr.eqns if kinds[eqn] == kind]

        def in_order(eqn):
            """A broadcast too, which would only be made larger by being made beforehand."""
            return kinds[eqn] == CARRIED or eqn.primitive.name == "broadcast_in_dim"

        def stays_in_order(eqn):
            """Whatever is wanted."""
            keyed = any(jnp.issubdtype(v.aval.dtype, jax.dtypes.extended) for v in _reads([eqn]))
            unmoved = keyed or eqn.primitive.name in UNMOVED
            return eqn.effects or (kinds[eqn] == CARRIED and unmoved)

        self.loop = _leading_to(self.carry, filter(in_order, jaxpr.eqns), stays_in_order)
        made = dict.fromkeys(v for eqn in self.loop for v in eqn.outvars)
        later = [eqn for eqn in of_kind(CARRIED) if made.keys().isdisjoint(eqn.outvars)]
        self.late = _leading_to(self.ys, later)
        late_reads = [*_reads(self.late), *_variables(self.ys)]
        extras = [v for v in dict.fromkeys(late_reads) if v in made or v in self.carried]
        self.extras = [v for v in extras if kinds[v] == CARRIED and v not in self.carry]
        loop_reads = [v for v in [*_reads(self.loop), *_variables(self.carry)] if v not in made]
        given = dict.fromkeys(loop_reads + late_reads)
        self.same = [v for v in given if kinds[v] == SAME]
        self.stepwise = [v for v in given if kinds[v] == STEPWISE]
        self.ahead = _leading_to(self.stepwise, of_kind(STEPWISE))
        self.once = _leading_to(self.same + _reads(self.ahead), of_kind(SAME))
        on_the_right = _variables(eqn.invars[1] for eqn in self.loop if _is_product(eqn))
        self.turned = [v for v in on_the_right if v in self.same]

        self.front: set[Any] = set()
        for eqn in self.loop:
            reads = _reads([eqn])
            entering = [v for v in reads if kinds[v] != CARRIED and check.is_inexact(v.aval)]
            going_on = eqn.primitive.name in STRUCTURAL and not self.front.isdisjoint(reads)
            if entering or going_on:
                self.front.update(eqn.outvars)
        self.front.update(v for v in _variables(self.carry) if kinds[v] != CARRIED)
        leaving = [*_variables(self.carry), *self.extras]
        leaving += _reads(eqn for eqn in self.loop if self.front.isdisjoint(eqn.outvars))
        leaving = [v for v in dict.fromkeys(leaving) if v in self.front]
        self.cut = [v for v in leaving if check.is_inexact(v.aval)]
        costly = {v for eqn in self.loop if eqn.primitive.name in COSTLY for v in eqn.outvars}
        worth = [v for v in made if v in costly or v in self.cut]
        self.worth = [v for v in worth if check.is_inexact(v.aval)]
        self.kept = [v for v in self.worth if v not in self.carry and v not in self.extras]

    def given(self, w, z):
        """What (1) and (2) made, by its variable."""
        return dict(zip(self.same + self.stepwise, w[0] + z[0], strict=True))

    def handed_on(self, pair):
        """What a pair holds, by its variable."""
        outs = zip(self.carry + self.extras, jax.tree.leaves(pair), strict=True)
        return {v: x for v, x in outs if not isinstance(v, Literal)}

    def known(self, seen):
        """What is worth remembering, by its variable."""
        worth = {v: x for v, x in self.handed_on(seen.carry).items() if v in self.worth}
        return worth | dict(zip(self.kept, seen.saved, strict=True))

    def played(self, w, z, carry_tm1, known, across):
        """The pair of (3) and all variables; what is known is not made again, across takes F."""
        turned = dict(zip(self.turned, w[1], strict=False))  # there on the way back alone
        carry_tm1 = jax.tree.leaves(carry_tm1)
        env = self.given(w, z) | dict(zip(self.carried, carry_tm1, strict=True))

        def crossing(v):
            return across(v, env[v]) if v in self.cut else _value(env, v)

        for eqn in self.loop:
            # On the way to F its slopes go on: what has none could not be differentiated again.
            entering = not self.front.isdisjoint(eqn.outvars)
            values = [_value(env, v) if entering else crossing(v) for v in eqn.invars]
            if eqn.primitive.name in SLOPES and eqn.outvars[0] in known:
                made = [SLOPES[eqn.primitive.name](known[eqn.outvars[0]]) * values[0]]
            elif _is_product(eqn) and eqn.invars[1] in turned:
                made = [_turned_product(eqn, values[0], turned[eqn.invars[1]])]
            else:
                made = _evaluated(eqn, values)
            pairs = zip(eqn.outvars, made, strict=True)
            env |= {v: _known(x, known[v]) if v in known else x for v, x in pairs}
        carry = self.carry_form.unflatten([crossing(v) for v in self.carry])
        return (carry, [crossing(v) for v in self.extras]), env

    def advance(self, w, pair_tm1, z):
        """The pair of (3), and what is kept of the step."""
        pair, env = self.played((w[0], ()), z, pair_tm1[0], {}, lambda v, x: x)
        return pair, [env[v] for v in self.kept]

    def adjoint(self, w, seen_t, d_pair_t):
        """λ_{t-1} and δ_t of (5)."""

        def moved(carry_tm1, moves):
            def across(v, x):
                return x + moves[self.cut.index(v)]

            return self.played(w, seen_t.z, carry_tm1, self.known(seen_t), across)[0]

        moves = [_zeros(v) for v in self.cut]
        pull = tree.pullback(moved, seen_t.carry_tm1[0], moves)
        ((d_carry_tm1, deltas),) = pull(d_pair_t)
        return (d_carry_tm1, tree.zeros(seen_t.carry_tm1[1])), deltas  # (5)

    def gather(self, w, seen, deltas):
        """(6), and None for the weights that are there transposed."""

        def fronts(same, z, seen_t):
            found = {}

            def across(v, x):
                found[v] = x
                return _known(jnp.zeros_like(x), x)  # no slope here, but one of second order

            self.played((same, ()), z, seen_t.carry_tm1[0], self.known(seen_t), across)
            return [found[v] for v in self.cut]

        over_time = jax.vmap(fronts, in_axes=(None, 0, 0))
        pull = tree.pullback(lambda same, zs: over_time(same, zs, seen), w[0], seen.z)
        ((d_same, d_zs),) = pull(deltas)  # (6)
        return (d_same, [None] * len(w[1])), d_zs

    def outputs(self, w, zs, pairs):
        """All outputs of all pairs, (4)."""

        def at_t(z, pair):
            env = _run(self.late, self.given(w, z) | self.handed_on(pair))
            return self.y_form.unflatten([_value(env, v) for v in self.ys])

        return jax.vmap(at_t)(zs, pairs)


Parts = tuple[Recurrence, PyTree, PyTree, PyTree]  # and w of (1), the first pair, zs of (2)


def parted(step: Step, params: Params, carry: Carry, xs: PyTree) -> Parts:
    """The parts of a step, which may close over traced values: they count as parameters."""
    jaxpr, constants, form = _flat(step, params, carry, check.at_one_step(xs))
    parts = Recurrence(jaxpr, len(constants), form)
    env = _run(parts.once, dict(zip(parts.own, constants, strict=True)))
    w = [env[v] for v in parts.same], [env[v].T for v in parts.turned]

    def projected(*x):
        at_t = _run(parts.ahead, env | dict(zip(parts.inputs, x, strict=True)))
        return [at_t[v] for v in parts.stepwise]

    # The number of a step makes a sequence of them where nothing of the input is needed.
    steps = check.length(xs)
    zs = jax.vmap(projected, axis_size=steps)(*jax.tree.leaves(xs)), jnp.arange(steps)
    extras = [_zeros(v) for v in parts.extras]
    return parts, w, (carry, extras), zs


def closed(step: Step, params: Params, carry: Carry, xs: PyTree) -> tuple[Step, Params]:
    """The step as a function of its arguments alone, and its params: yours, and all it closed over.

    These are of any dtype, in one list.
    """
    jaxpr, own, form = _flat(step, params, carry, check.at_one_step(xs))

    def pure(own, carry, x):
        return form.unflatten(_applied(jaxpr, [*own, *jax.tree.leaves((carry, x))]))

    return pure, own


def _leading_to(outs: list[Any], eqns: Any, stays: Any = lambda _: False) -> list[Any]:
    """The equations that stay, and those that make what is wanted by `outs` or by others."""
    wanted, found = set(_variables(outs)), []
    for eqn in reversed(list(eqns)):
        if stays(eqn) or not wanted.isdisjoint(eqn.outvars):
            found.append(eqn)
            wanted.update(_reads([eqn]))
    return found[::-1]


def _zeros(v: Any) -> jax.Array:
    zero = jnp.zeros(v.aval.shape, v.aval.dtype, out_sharding=v.aval.sharding)
    return tree.varying(zero, v.aval.manual_axis_type.varying)


def _variables(atoms: Iterable[Any]) -> list[Any]:
    return [v for v in atoms if not isinstance(v, Literal)]


def _reads(eqns: Iterable[Any]) -> list[Any]:
    return [v for eqn in eqns for v in _variables(eqn.invars)]


def _flat(step: Step, params: Params, carry: Carry, x: PyTree) -> tuple[Any, list[Any], Any]:
    """The step's jaxpr with calls of jit written out, its parameters, and what tree it returns.

    A custom_vjp must not close over traced values, so all constants become parameters.
    """
    closed, shapes = jax.make_jaxpr(step, return_shape=True)(params, carry, x)
    leaves = [*closed.consts, *jax.tree.leaves((params, carry, x))]
    flat = jax.make_jaxpr(lambda *leaves: _applied(closed.jaxpr, leaves))(*leaves)
    own = [*flat.consts, *closed.consts, *jax.tree.leaves(params)]
    return flat.jaxpr, own, jax.tree.structure(shapes)


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
    if eqn.primitive.name != "dot_general":
        return False
    (_, contracted), batch = eqn.params["dimension_numbers"]
    return contracted == (0,) and batch == ((), ()) and eqn.invars[1].aval.ndim == 2


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
