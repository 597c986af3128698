"""Steps with derivative rules of their own: the states ignore them, the gradient uses them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance, often

import jaxrnn
from jaxrnn import parallel, transforms
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.parallel.structure import components

VALUES, GRADIENTS = 1e-13, 1e-12
T, B, H = 11, 3, 4
MIXING = jnp.cos(jnp.arange(H * H, dtype=jnp.float32)).reshape(H, H)


def function_with_rule(function, cotangent):
    """A function whose cotangent is `cotangent(d)`, whatever its derivative is."""

    @jax.custom_vjp
    def ruled(x):
        return function(x)

    ruled.defvjp(lambda x: (function(x), None), lambda _, d: (cotangent(d),))
    return ruled


def norm_limited(d, limit=2.0):
    size = jnp.sqrt(jnp.sum(d * d, axis=-1, keepdims=True))
    return jnp.where(size > limit, d * (limit / jnp.where(size == 0, 1, size)), d)


def identity(x):
    return x


RULES = {
    "straight-through": function_with_rule(jnp.round, identity),
    "scaled": function_with_rule(identity, lambda d: 0.7 * d),
    "clipped": function_with_rule(identity, lambda d: jnp.clip(d, -1, 1)),
    "norm clipped": function_with_rule(identity, norm_limited),
    "mixed": function_with_rule(identity, lambda d: d @ MIXING.astype(d.dtype)),
    "sign": function_with_rule(jnp.tanh, jnp.sign),
    "nested": function_with_rule(
        lambda x: jax.jit(RULES["scaled"])(jnp.tanh(x)), lambda d: RULES["clipped"](3 * d)
    ),
    "checkpointed": jax.checkpoint(function_with_rule(identity, lambda d: 0.7 * d)),
}


def halved_twice(x):
    return jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] / 2), (0, x))[1]


LOOPED = function_with_rule(halved_twice, lambda d: d / 4)


@jax.custom_jvp
def rounded(x):
    return jnp.round(x)


rounded.defjvp(lambda x, dx: (jnp.round(x[0]), 2 * dx[0]))
RULES["forward rule"] = rounded


def arguments(steps=T):
    rng = np.random.default_rng(0)
    params = {"a": rng.uniform(0.5, 1.1, (B, H)), "v": rng.standard_normal((H, 2))}
    return jax.tree.map(
        jnp.asarray, (params, rng.standard_normal((B, H)), rng.standard_normal((steps, B, H)))
    )


def result(loop, step, *args):
    """The outputs, and the gradient of a weighted sum of squares."""

    def loss(args):
        outputs = loop(step, *args)
        squares = [jnp.real(x * x) for x in jax.tree.leaves(outputs)]
        return sum(
            jnp.vdot(jnp.cos(jnp.arange(s.size)).astype(s.dtype), s) for s in squares
        ), outputs

    (_, outputs), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(args)
    return outputs, grads


def compare(loop, step, *args, judge=jaxrnn.scan):
    (outputs, grads), (wanted_outputs, wanted) = (result(f, step, *args) for f in (loop, judge))
    assert distance(outputs, wanted_outputs) < VALUES
    assert distance(grads, wanted) < GRADIENTS


def step_with(rule, place):
    """A step, linear without its rule, in which the rule stands at one of several places."""

    def step(params, h, x):
        a, v = params["a"], params["v"]
        match place:
            case "state":
                h = rule(a * h + x)
            case "memory":
                h = a * rule(h) + x
            case "input":
                h = a * h + rule(x)
            case "parameter":
                h = rule(a) * h + x
            case "output":
                h = a * h + x
                return h, rule(h) @ v
        return h, h @ v

    return step


def pairs(chosen):
    """Every rule at every place, those that are not chosen left to `pytest -m thorough`."""
    every = itertools.product(RULES, ("state", "memory", "input", "parameter", "output"))
    return [
        pytest.param(*pair, marks=[] if pair in chosen else pytest.mark.thorough) for pair in every
    ]


CHOSEN = {
    *((name, "state") for name in RULES),
    *(("norm clipped", place) for place in ("memory", "input", "parameter", "output")),
    ("clipped", "parameter"),
}


@pytest.mark.parametrize(("name", "place"), pairs(CHOSEN))
def test_a_rule_anywhere_in_an_elementwise_step(name, place):
    compare(parallel(), step_with(RULES[name], place), *arguments())


@pytest.mark.parametrize("place", ["state", "input", "parameter", "output"])
@pytest.mark.parametrize("name", ["norm clipped", "checkpointed"])
def test_a_rule_under_bptt(name, place):
    compare(jaxrnn.bptt, step_with(RULES[name], place), *arguments())


@pytest.mark.parametrize("loop", [jaxrnn.bptt, parallel()])
def test_a_rule_of_a_parameter_inside_another_equation(loop):
    """It acts on the cotangent of each step, and not on the sum of all."""
    clip = jax.checkpoint(lambda a, h: RULES["norm clipped"](a) * h)

    def step(params, h, x):
        h = clip(params["a"], h) + clip(params["a"], x)
        return h, clip(params["a"], h)

    compare(loop, step, *arguments())


@pytest.mark.parametrize("jacobian", ["dense", "quasi_diagonal"])
@pytest.mark.parametrize("name", ["straight-through", "norm clipped", "clipped", "mixed"])
def test_a_rule_in_a_step_that_mixes_its_units(name, jacobian):
    def step(params, h, x):
        h = RULES[name](jnp.tanh(h @ params["w"] + x))
        return h, h @ params["v"]

    params, h, xs = arguments()
    params["w"] = MIXING / 3
    compare(parallel(jacobian=jacobian), step, jaxrnn.tree.cast(params, float), h, xs)


def test_the_rule_gets_the_sum_of_the_cotangents_of_state_and_output():
    """In a clipped step, that is not the sum of two clipped cotangents."""

    def step(params, h, x):
        h = RULES["norm clipped"](jnp.tanh(params["a"] * h + x))
        return h, h @ params["v"]

    for loop in (parallel(), parallel(chunk=3), parallel(jacobian="dense")):
        compare(loop, step, *arguments())


# Transformations of the library.

TRANSFORMED = {
    "scaled": lambda step: transforms.scale_adjoint(step, lambda size: 0.9),
    "normalised": lambda step: transforms.scale_adjoint(step, lambda size: 1 / size),
    "clipped": lambda step: transforms.clip_adjoint(step, 0.3),
    "clipped elementwise": lambda step: transforms.clip_adjoint(step, 0.1, elementwise=True),
}


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("name", often(TRANSFORMED, ("scaled", "clipped")))
@pytest.mark.parametrize("cell_name", often(("lru", "indrnn_tanh", "gru"), ("lru", "gru")))
def test_adjoint_transformations(cell_name, name, is_plain):
    cell = dict(jaxrnn.CELLS)[cell_name](H)
    rng = np.random.default_rng(0)
    params = cell.init(jax.random.key(0), 2, float)
    carry = jax.tree.map(
        lambda c: jnp.asarray(rng.standard_normal(c.shape), c.dtype),
        cell.initial_carry((B,), float),
    )
    xs = jnp.asarray(rng.standard_normal((T, B, 2)))
    # A plain step has its rows guessed, so it is compared with the same plain step.
    step = TRANSFORMED[name](cell.__call__ if is_plain else cell)
    jacobian = "dense" if cell_name == "gru" else "diagonal"
    compare(parallel(jacobian=jacobian), step, params, carry, xs)


def test_masks_and_resets_around_a_clipped_cell():
    cell = transforms.clip_adjoint(jaxrnn.lru(H), 0.3)
    rng = np.random.default_rng(1)
    params = cell.init(jax.random.key(0), 2, float)
    carry = cell.initial_carry((B,), float)
    mask, reset = jnp.asarray(rng.random((T, B)) < 0.7), jnp.asarray(rng.random((T, B)) < 0.2)
    xs = jnp.where(mask[..., None], rng.standard_normal((T, B, 2)), jnp.nan)

    def unrolled(loop):
        def run(step, params, carry):
            options = {"carry": carry, "mask": mask, "reset": reset, "loop": loop}
            return jaxrnn.unroll(step, params, xs, **options)

        return run

    compare(unrolled(parallel()), cell, params, carry, judge=unrolled(jaxrnn.scan))


def test_no_loop_over_time_where_the_rule_is_linear():
    for name, has_loop in (("scaled", False), ("norm clipped", True)):
        step = step_with(RULES[name], "state")
        program = jax.make_jaxpr(functools.partial(result, parallel(), step))(*arguments(64))
        names = {e.primitive.name for eqn in program.jaxpr.eqns for e in jaxprs.with_inner(eqn)}
        assert names.isdisjoint({"scan", "while"}) != has_loop


def test_newtons_method_uses_the_derivative_of_the_function():
    """A rule of another slope would not converge here."""
    rule = function_with_rule(jnp.tanh, lambda d: -9 * d)

    def step(params, h, x):
        h = rule(params["a"] * h + x)
        return h, h

    (effort,) = jaxrnn.diagnostics.newton_effort(step, *arguments(200), loop=parallel())
    assert effort.iterations < 10
    assert effort.steps_in_order == 0


@pytest.mark.parametrize("name", ["straight-through", "forward rule"])
def test_a_gradient_of_a_gradient_with_a_rule(name):
    step, args = step_with(RULES[name], "input"), arguments(5)

    def slope(args, loop):
        return sum(jnp.sum(jnp.sin(g)) for g in jax.tree.leaves(result(loop, step, *args)[1]))

    got, wanted = (
        jax.jit(jax.grad(slope), static_argnums=1)(args, f) for f in (parallel(), jaxrnn.scan)
    )
    assert distance(got, wanted) < GRADIENTS


# Steps that JAX cannot differentiate.


def halved_until_small(h):
    return jax.lax.while_loop(lambda h: jnp.any(jnp.abs(h) > 1), lambda h: h / 2, h)


@pytest.mark.parametrize("jacobian", ["diagonal", "dense", "quasi_diagonal"])
def test_a_while_loop_over_the_carry_runs_in_order(jacobian):
    def step(params, carry, x):
        h, total = carry
        h = halved_until_small(params["a"] * h + x)
        return (h, params["a"] * total + h), h

    params, h, xs = arguments()
    loop = parallel(jacobian=jacobian)
    got, wanted = (f(step, params, (h, h), xs) for f in (loop, jaxrnn.scan))
    assert distance(got, wanted) < VALUES
    assert jaxrnn.diagnostics.newton_effort(step, params, (h, h), xs, loop=loop) == []


def test_a_while_loop_with_a_rule_has_the_slopes_of_the_rule():
    params, h, xs = arguments()

    def step(params, h, x):
        h = LOOPED(params["a"] * h + x)
        return h, h @ params["v"]

    compare(parallel(jacobian="dense"), step, params, h, xs)
    with pytest.raises(ValueError, match="jacobian: got 'diagonal' for step, in which a unit"):
        parallel()(step, params, h, xs)


def test_a_callback_over_the_carry_runs_in_order():
    def step(params, h, x):
        like = jax.ShapeDtypeStruct(h.shape, h.dtype)
        h = jax.pure_callback(np.tanh, like, params["a"] * h + x, vmap_method="sequential")
        return h, h

    got, wanted = (f(step, *arguments()) for f in (parallel(), jaxrnn.scan))
    assert distance(got, wanted) < VALUES


# What is not a number.


def test_nan_stays_in_the_units_of_scan_where_matrices_are_multiplied():
    """Units 0 and 1 read each other, and so do 2 and 3."""
    w = jnp.array([[0.5, -0.4], [0.3, 0.6]])

    def step(w, h, x):
        h = jnp.concatenate([h[..., :2] @ w, h[..., 2:] @ w], axis=-1) + x
        return h, h

    _, h, xs = arguments()
    xs = xs.at[4, 1, 2].set(jnp.nan).at[6, 0, 0].set(jnp.inf)
    _, got = parallel(jacobian="dense")(step, w, h, xs)
    _, wanted = jaxrnn.scan(step, w, h, xs)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert jnp.isnan(wanted[5, 1]).sum() == 2


def test_what_is_left_of_the_rules():
    """A rule stays where its function has no derivative; the structure then knows nothing of it."""
    for rule, is_affine in (
        (RULES["scaled"], True),
        (RULES["checkpointed"], True),
        (LOOPED, False),
    ):
        step = jaxprs.primal(lambda h, x, rule=rule: [2 * rule(h[0])], [jnp.ones(3)], None)
        (component,) = components(step, [jnp.ones(3)], None)
        assert component.is_affine == is_affine
        assert component.is_differentiable
