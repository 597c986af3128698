"""Transformations of the adjoint, against a Python loop over steps and rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DerivedBackward, assert_interchangeable, with_functions
from reference import distance

import jaxrnn
from jaxrnn import LSTMCarry, truncated
from jaxrnn.transforms import (
    ProbeInputs,
    clip_adjoint,
    detach_adjoint,
    probe_adjoint,
    scale_adjoint,
)

T, B, I, H = 6, 3, 2, 4
CELLS = {"lstm": jaxrnn.lstm(H), "gru": jaxrnn.gru(H), "lru": jaxrnn.lru(H)}
LOOPS = {"bptt": jaxrnn.bptt, "scan": jaxrnn.scan, "truncated": truncated(4)}


def plain(cell):
    return lambda params, carry, x: cell(params, carry, x)


def one(size):
    """The factor that changes nothing."""
    return 1.0


def plain_gru(params, carry, x):
    return jaxrnn.gru(3)(params, carry, x)


def underived(cell):
    return DerivedBackward(cell)


FORMS = {"cell": lambda cell: cell, "underived": underived, "plain": plain}


@functools.cache
def problem(cell):
    rng = np.random.default_rng(0)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    carry = cell.initial_carry((B,), jnp.float64)
    return params, carry, jnp.asarray(rng.standard_normal((T, B, I)))


def value(ys):
    weight = jnp.exp(jnp.arange(1.0, len(ys) + 1))[:, None, None]  # so that adjoints differ widely
    return jnp.sum(jnp.sin(ys) * weight)


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradient(loop, step, params, carry, xs):
    return jax.grad(lambda params: value(loop(step, params, carry, xs)[1]))(params)


@functools.partial(jax.jit, static_argnums=0)
def outputs_back(cell, params, carries):
    """What the outputs send to params and to every carry."""

    def of_outputs(params, carries):
        return value(jnp.stack([cell.output(params, c) for c in carries]))

    return jax.grad(of_outputs, argnums=(0, 1))(params, carries)


@functools.partial(jax.jit, static_argnums=0)
def step_back(cell, params, carry, x, d_carry):
    return jax.vjp(lambda p, c: cell(p, c, x)[0], params, carry)[1](d_carry)


def judge(cell, params, carry, xs, control, cut_before=lambda t: False):
    """∂L/∂params by (3) and (4) of DESIGN, one step and row at a time; also all λ_t."""
    carries = [carry]
    for x in xs:
        carries.append(jax.jit(cell)(params, carries[-1], x)[0])
    total, of_outputs = outputs_back(cell, params, carries[1:])
    future, adjoints = jax.tree.map(jnp.zeros_like, carry), []
    for t in reversed(range(len(xs))):
        whole = jax.tree.map(jnp.add, future, of_outputs[t])
        adjoints.append(whole)
        rows = [control([np.asarray(d)[b] for d in jax.tree.leaves(whole)]) for b in range(B)]
        leaves = [jnp.asarray(np.stack(leaf)) for leaf in zip(*rows, strict=True)]
        d_carry = jax.tree.unflatten(jax.tree.structure(whole), leaves)
        term, future = step_back(cell, params, carries[t], xs[t], d_carry)
        total = jax.tree.map(jnp.add, total, term)
        future = jax.tree.map(jnp.zeros_like, future) if cut_before(t) else future
    return total, adjoints[::-1]


def norm(row):
    return np.sqrt(sum(np.sum(np.abs(d) ** 2) for d in row))


CONTROLS = {
    "clip": (
        lambda s: clip_adjoint(s, 2.0),
        lambda row: [d * min(1, 2.0 / norm(row)) for d in row],
    ),
    "clip each": (
        lambda s: clip_adjoint(s, 0.5, elementwise=True),
        lambda row: [np.where(np.abs(d) > 0.5, d / (np.abs(d) + 1e-99) * 0.5, d) for d in row],
    ),
    "normalise": (
        lambda s: scale_adjoint(s, lambda size: 1 / size),
        lambda row: [d / norm(row) for d in row],
    ),
}


@pytest.mark.parametrize(
    ("control_name", "cell_name", "loop_name"),
    [
        ("clip", "lstm", "bptt"),
        ("clip", "gru", "scan"),
        ("clip", "gru", "truncated"),
        ("clip each", "lru", "bptt"),
        ("normalise", "gru", "bptt"),
    ],
)
def test_every_control_equals_a_python_loop(control_name, cell_name, loop_name):
    wrap, control = CONTROLS[control_name]
    cut_before = (lambda t: t == 4) if loop_name == "truncated" else lambda t: False
    cell, loop = CELLS[cell_name], LOOPS[loop_name]
    args = problem(cell)
    wanted, _ = judge(cell, *args, control, cut_before)
    got = gradient(loop, wrap(cell), *args)
    assert distance(got, wanted) < 1e-12
    assert distance(got, gradient(loop, cell, *args)) > 1e-3


@pytest.mark.parametrize("form", ["underived", "plain"])
def test_steps_without_an_adjoint_are_clipped_alike(form):
    cell, loop = CELLS["gru"], jaxrnn.scan if form == "plain" else jaxrnn.bptt
    args = problem(cell)
    wanted = gradient(jaxrnn.bptt, clip_adjoint(cell, 2.0), *args)
    assert distance(gradient(loop, clip_adjoint(FORMS[form](cell), 2.0), *args), wanted) < 1e-12


def test_a_readout_inside_a_plain_step_belongs_to_the_loss_of_its_step():
    cell = CELLS["lstm"]
    params, carry, xs = problem(cell)
    w = jnp.asarray(np.random.default_rng(1).standard_normal((H, 2)))

    def inside(params, carry, x):
        carry, h = cell(params, carry, x)
        return carry, jnp.tanh(h @ w) + h[..., :2] * carry.c[..., :2]

    outside = with_functions(
        cell, output=lambda params, c: jnp.tanh(c.h @ w) + c.h[..., :2] * c.c[..., :2]
    )
    wanted = gradient(jaxrnn.bptt, clip_adjoint(outside, 0.5), params, carry, xs)
    for step in (inside, jax.jit(inside)):
        got = gradient(jaxrnn.bptt, clip_adjoint(step, 0.5), params, carry, xs)
        assert distance(got, wanted) < 1e-12
    assert distance(wanted, gradient(jaxrnn.bptt, outside, params, carry, xs)) > 1e-3


@pytest.mark.parametrize("form", ["cell", "plain"])
def test_what_is_inactive_changes_nothing(form):
    cell = CELLS["gru"]
    step, args = FORMS[form](cell), problem(cell)
    run = jax.jit(jaxrnn.bptt, static_argnums=0)
    for inactive in (scale_adjoint(step, one), clip_adjoint(step, 1e9)):
        assert (
            distance(gradient(jaxrnn.bptt, inactive, *args), gradient(jaxrnn.bptt, step, *args))
            == 0
        )
        assert distance(run(inactive, *args), run(step, *args)) == 0


def test_zero_and_extreme_adjoints_are_normalised():
    step = scale_adjoint(lambda p, c, x: (p * c, p * c), lambda size: 1 / size)

    def slope(scale):
        carry, xs = jnp.zeros((2, 3), jnp.float32) + 1, jnp.zeros((3, 2), jnp.float32)
        p = jnp.asarray(1, jnp.float32)

        def loss(p):
            return jnp.sum(jaxrnn.bptt(step, p, carry, xs)[0][0] * jnp.asarray(scale, jnp.float32))

        return float(jax.grad(loss)(p))

    assert slope(0.0) == 0
    for scale in (1e-30, 1.0, 1e30):  # whose squares are no float32
        assert slope(scale) == pytest.approx(3 * np.sqrt(3), rel=1e-6)


def test_h_detach_stops_the_gradient_of_h_alone():
    cell = CELLS["lstm"]
    params, carry, xs = problem(cell)
    detached = detach_adjoint(cell, LSTMCarry(h=0.5, c=0.0))
    key = jax.random.key(3)
    weights = jnp.exp(jnp.arange(1.0, T + 1))[:, None, None]

    def loss(params, run):
        return jnp.sum(jnp.sin(run(params)) * weights)

    def unrolled(loop):
        return lambda params: jaxrnn.unroll(detached, params, xs, carry=carry, loop=loop, key=key)[
            1
        ]

    noise = detached.draw_noise(key, params, carry, xs)[1][0]
    assert noise.c.all()
    assert 0 < noise.h.sum() < noise.h.size

    def handwritten(params):
        c, ys = carry, []
        for x, keep in zip(xs, noise.h, strict=True):
            h = jnp.where(keep[:, None], c.h, jax.lax.stop_gradient(c.h))
            c, y = cell(params, c._replace(h=h), x)
            ys.append(y)
        return jnp.stack(ys)

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    wanted = grad(params, handwritten)
    for loop in (jaxrnn.bptt, jaxrnn.scan):
        assert distance(grad(params, unrolled(loop)), wanted) < 1e-12
    assert distance(gradient(jaxrnn.bptt, cell, params, carry, xs), wanted) > 1e-3
    without_key = grad(params, lambda p: jaxrnn.unroll(detached, p, xs, carry=carry)[1])
    assert distance(without_key, gradient(jaxrnn.bptt, cell, params, carry, xs)) < 1e-14


@pytest.mark.parametrize(
    ("cell_name", "form"),
    [("lstm", "cell"), ("lru", "cell"), ("lru", "plain"), ("gru", "underived")],
)
def test_a_probe_reads_the_adjoint(cell_name, form):
    cell = CELLS[cell_name]
    params, carry, xs = args = problem(cell)
    _, adjoints = judge(cell, *args, lambda row: row)
    norms = [
        [norm([np.asarray(d)[b] for d in jax.tree.leaves(a)]) for b in range(B)] for a in adjoints
    ]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *adjoints)
    step = FORMS[form](cell)

    def read(probes):
        results = [
            jaxrnn.bptt(
                probe_adjoint(step, whole=bool(whole)), params, carry, ProbeInputs(xs, probe)
            )[1]
            for whole, probe in enumerate(probes)
        ]
        return sum(map(value, results))

    zeros = jnp.zeros((T, B)), jax.tree.map(jnp.zeros_like, stacked)
    got = jax.jit(jax.grad(read))(zeros)
    assert distance(got, (jnp.asarray(norms), stacked)) < 1e-12


def test_rows_are_told_apart_under_vmap_masks_and_resets():
    cell = CELLS["gru"]
    params, _, xs = problem(cell)
    rng = np.random.default_rng(2)
    mask, reset = (jnp.asarray(rng.random((T, B)) < p) for p in (0.7, 0.3))
    wrap = clip_adjoint(cell, 0.3)

    def loss(params, xs, mask, reset, loop=jaxrnn.bptt):
        return value(jaxrnn.unroll(wrap, params, xs, mask=mask, reset=reset, loop=loop)[1])

    grad = jax.jit(jax.grad(loss), static_argnums=4)
    whole = grad(params, xs, mask, reset)
    assert distance(grad(params, xs, mask, reset, jaxrnn.scan), whole) < 1e-12
    alone = jax.vmap(lambda x, m, r: grad(params, *(a[:, None] for a in (x, m, r))), in_axes=1)
    rows = alone(xs, mask, reset)
    assert distance(jax.tree.map(lambda g: g.sum(0), rows), whole) < 1e-12


def test_a_clipped_cell_can_stand_in_a_network_and_be_masked_outside():
    net = jaxrnn.stacked(
        clip_adjoint(jaxrnn.elman(H), 0.1), jaxrnn.residual(clip_adjoint(jaxrnn.elman(H), 0.1))
    )
    params = net.init(jax.random.key(0), I, jnp.float64)
    xs = problem(CELLS["gru"])[2]
    lengths = jnp.array([6, 2, 0])

    def loss(params, loop):
        return value(jaxrnn.unroll(net, params, xs, lengths=lengths, loop=loop)[1])

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    grads = [grad(params, loop) for loop in (jaxrnn.bptt, jaxrnn.scan)]
    assert distance(*grads) < 1e-12


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("form", ["cell", "plain"])
def test_short_sequences(form, steps):
    cell = jaxrnn.elman(H)
    params, carry, xs = problem(cell)
    got = gradient(jaxrnn.bptt, clip_adjoint(FORMS[form](cell), 1e9), params, carry, xs[:steps])
    assert distance(got, gradient(jaxrnn.scan, cell, params, carry, xs[:steps])) < 1e-12


def test_equal_arguments_give_equal_cells():
    cell = jaxrnn.gru(3)
    assert_interchangeable(clip_adjoint(cell, 1.0), clip_adjoint(jaxrnn.gru(3), 1.0))
    assert clip_adjoint(cell, 1.0) != clip_adjoint(cell, 1.0, elementwise=True)
    assert clip_adjoint(cell, 1.0) != clip_adjoint(cell, 2.0)
    assert_interchangeable(scale_adjoint(cell, one), scale_adjoint(jaxrnn.gru(3), one))
    assert_interchangeable(probe_adjoint(cell), probe_adjoint(cell))
    assert probe_adjoint(cell) != probe_adjoint(cell, whole=True)
    for rate in (0.1, LSTMCarry(0.1, 0.0)):
        first, second = (detach_adjoint(jaxrnn.lstm(3), rate) for _ in range(2))
        assert_interchangeable(first, second)
    assert detach_adjoint(cell, 0.1) != detach_adjoint(cell, 0.2)


@pytest.mark.parametrize("transform", [clip_adjoint, detach_adjoint, probe_adjoint, scale_adjoint])
def test_equal_steps_give_equal_steps(transform):
    """A plain Step, or one that draws, is a dataclass around the function, too."""
    arguments = {clip_adjoint: (1.0,), detach_adjoint: (0.1,), scale_adjoint: (one,)}
    step = jaxrnn.gru(3) if transform is detach_adjoint else plain_gru
    first, second = (transform(step, *arguments.get(transform, ())) for _ in range(2))
    assert_interchangeable(first, second)


@pytest.mark.usefixtures("own_messages")
def test_wrong_arguments_are_named():
    cell = jaxrnn.gru(3)
    with pytest.raises(ValueError, match=r"limit: got 0, expected a number above 0"):
        clip_adjoint(cell, 0)
    with pytest.raises(TypeError, match=r"factor: got 0.5 .* expected a function"):
        scale_adjoint(cell, 0.5)
    with pytest.raises(ValueError, match=r"rate: got 1.0, expected a rate"):
        detach_adjoint(cell, 1.0)
    with pytest.raises(TypeError, match=r"cell: got function, expected a Cell"):
        detach_adjoint(plain(cell), 0.5)
    with pytest.raises(TypeError, match=r"step: got 3 .* expected a function"):
        clip_adjoint(3, 1.0)
    with pytest.raises(TypeError, match=r"rate: got the tree"):
        detach_adjoint(cell, LSTMCarry(0.1, 0.2))


def with_rule(decorate):
    """A step whose backward pass is a rule of the user's own: half the true λ, and 7 λ for w."""

    def step(w, h, x):
        h = jnp.tanh(w * h + x)
        return h, 2 * h

    if decorate is jax.custom_jvp:
        ruled = jax.custom_jvp(step)

        @ruled.defjvp
        def _(primals, tangents):
            (w, h, x), (dw, dh, dx) = primals, tangents
            d = 7 * dw + 0.5 * dh + dx
            return step(w, h, x), (d, 2 * d)

        return ruled
    ruled = jax.custom_vjp(step)

    def backward(_, cotangents):
        d = cotangents[0] + 2 * cotangents[1]
        return 7 * d, 0.5 * d, d

    ruled.defvjp(lambda *args: (step(*args), None), backward)
    return ruled


def decorated(step):
    @functools.wraps(step)
    def around(w, h, x):
        return step(3 * w, h, x)

    return around


RULED = {
    "custom_vjp": with_rule(jax.custom_vjp),
    "custom_jvp": with_rule(jax.custom_jvp),
    "jit": jax.jit(with_rule(jax.custom_vjp)),
    "partial": functools.partial(with_rule(jax.custom_vjp)),
    "checkpoint": jax.checkpoint(with_rule(jax.custom_vjp)),
    "wraps": decorated(with_rule(jax.custom_vjp)),
    "jit of wraps": jax.jit(decorated(jax.jit(with_rule(jax.custom_vjp)))),
}
LOOSE = {
    "clip_adjoint": lambda step: clip_adjoint(step, 1e9),
    "scale_adjoint": lambda step: scale_adjoint(step, one),
    "probe_adjoint": probe_adjoint,
    "scale_carry_gradient": jaxrnn.transforms.scale_carry_gradient,
}


@pytest.mark.parametrize(
    ("rule", "wrap"),
    [
        pytest.param(rule, wrap, marks=[] if i == 0 or j == i % 4 else pytest.mark.thorough)
        for i, rule in enumerate(RULED)
        for j, wrap in enumerate(LOOSE)
    ],
)
def test_a_rule_of_the_users_own_is_kept(rule, wrap):
    """Under every loop; that of a step that is not wrapped, by `scan`, is the judge."""
    step, xs = RULED[rule], jnp.arange(1.0, 6.0) / 3
    more = {
        "probe_adjoint": ProbeInputs(xs, jnp.zeros(5)),
        "scale_carry_gradient": jaxrnn.transforms.ScaledInputs(xs, jnp.ones(5)),
    }

    def gradient(loop, step, xs):
        def value(w, h):
            h, ys = loop(step, w, h, xs)
            return h + jnp.vdot(jnp.arange(5.0), ys)

        return jax.jit(jax.grad(value, argnums=(0, 1)))(0.4, 0.3)

    wanted = gradient(jaxrnn.scan, step, xs)
    assert abs(wanted[0]) > 1
    for loop in (jaxrnn.scan, jaxrnn.bptt, jaxrnn.checkpointed(), truncated(5)):
        assert distance(gradient(loop, LOOSE[wrap](step), more.get(wrap, xs)), wanted) < 1e-12


def test_a_rule_that_does_not_scale_runs_once_a_step():
    def step(w, h, x):
        return h + w * x, w * x

    seven = jax.custom_vjp(step)
    seven.defvjp(lambda *args: (step(*args), None), lambda _, d: (jnp.array(7.0), d[0], d[0]))
    for wrapped in (seven, clip_adjoint(seven, 1e9), scale_adjoint(seven, one)):

        def value(w, step=wrapped):
            h, ys = jaxrnn.scan(step, w, jnp.array(0.3), jnp.arange(3.0))
            return h + ys.sum()

        assert jax.grad(value)(0.4) == 21


def test_a_cell_under_jit_is_clipped_as_a_plain_step():
    cell = CELLS["lstm"]
    args = problem(cell)
    wanted = gradient(jaxrnn.bptt, clip_adjoint(cell, 2.0), *args)
    for step in (jax.jit(cell), lambda *args: jax.jit(cell)(*args), jax.checkpoint(plain(cell))):
        assert distance(gradient(jaxrnn.scan, clip_adjoint(step, 2.0), *args), wanted) < 1e-12
