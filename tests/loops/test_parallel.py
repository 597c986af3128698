"""All steps at once: linear steps by an associative scan, others by Newton's method."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import distance, often

import jaxrnn
from jaxrnn import parallel, transforms
from jaxrnn.certify import draw_arguments
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.parallel.dependence import dependences
from jaxrnn.loops.parallel.structure import components

VALUES, GRADIENTS = 1e-13, 1e-12
T, B, I, H = 11, 3, 2, 4
LINEAR = ("lru", "min_gru", "min_lstm", "rg_lru", "s5", "selective_ssm")
ELEMENTWISE = (*LINEAR, "indrnn", "indrnn_tanh")
CELLS = dict(jaxrnn.CELLS)


def problem(cell, steps=T, batch=(B,), dtype=jnp.float64):
    rng = np.random.default_rng(0)
    params = cell.init(jax.random.key(0), I, dtype)

    def drawn(like):
        numbers = rng.standard_normal(like.shape)
        is_real = jnp.issubdtype(like.dtype, jnp.floating)
        return jnp.asarray(numbers if is_real else numbers * (1 + 1j), like.dtype)

    carry = jax.tree.map(drawn, cell.initial_carry(batch, dtype))
    return params, carry, jnp.asarray(rng.standard_normal((steps, *batch, I)), dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def result(loop, step, *args):
    """The outputs and the gradient of a sum of squares with weights."""

    def loss(inexact):
        outputs = loop(step, *jaxrnn.tree.merge_inexact(inexact, others))
        leaves = [x for x in jax.tree.leaves(outputs) if jaxrnn.check.is_inexact(x)]
        weights = [jnp.cos(jnp.arange(x.size)).reshape(x.shape) for x in leaves]
        squares = [jnp.real(x * x) for x in leaves]
        total = sum(jnp.sum(w.astype(s.dtype) * s) for w, s in zip(weights, squares, strict=True))
        return total, outputs

    inexact, others = jaxrnn.tree.split_inexact(args)
    (_, outputs), grads = jax.value_and_grad(loss, has_aux=True)(inexact)
    return outputs, grads


def compare(loop, step, *args, judge=jaxrnn.scan, values=VALUES, gradients=GRADIENTS):
    outputs, grads = result(loop, step, *args)
    wanted_outputs, wanted = result(judge, step, *args)
    assert distance(outputs, wanted_outputs) < values
    assert distance(grads, wanted) < gradients


# Linear and elementwise cells.


@pytest.mark.parametrize("name", often(ELEMENTWISE, ("lru", "selective_ssm", "indrnn")))
def test_values_and_gradient_equal_those_of_scan(name):
    """As a Cell, and as a plain step, whose structure is read in the same way."""
    cell = CELLS[name](H)
    args = problem(cell)
    compare(parallel(), cell, *args)
    compare(parallel(chunk=4), cell.__call__, *args)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("batch", [(), (2, 0)])
def test_few_steps_and_any_batch(steps, batch):
    for cell in (jaxrnn.lru(H), jaxrnn.indrnn(H)):
        compare(parallel(), cell, *problem(cell, steps, batch))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["lru", "indrnn"])
def test_masks_resets_and_nan_padding(name, reverse):
    rng = np.random.default_rng(1)
    cell = CELLS[name](H)
    params, carry, xs = problem(cell)
    mask = jnp.asarray(rng.random((T, B)) < 0.7)
    reset = jnp.asarray(rng.random((T, B)) < 0.3).at[T - 1 if reverse else 0].set(True)
    xs = jnp.where(mask[..., None], xs, jnp.nan)
    first = jax.tree.map(lambda c: c * (jnp.nan if not reverse else 1), carry)

    def unrolled(loop, _, params, reset_carry):
        return jaxrnn.unroll(
            *(cell, params, xs),
            carry=first,
            loop=loop,
            mask=mask,
            reset=reset,
            reset_carry=reset_carry,
            reverse=reverse,
        )

    @dataclasses.dataclass(frozen=True)
    class through:
        loop: object

        def __call__(self, step, *args):
            return unrolled(self.loop, step, *args)

    compare(through(parallel()), cell, params, carry, judge=through(jaxrnn.scan))


def test_nan_does_not_pass_a_reset():
    """0 · NaN is NaN, so a reset is more than a factor of 0."""
    cell = jaxrnn.lru(H)
    params, carry, xs = problem(cell)
    xs = xs.at[3, 0].set(jnp.nan)
    reset = jnp.zeros((T, B), bool).at[5, 0].set(True)
    for loop in (parallel(), parallel(jacobian="dense")):
        _, ys = jaxrnn.unroll(cell, params, xs, carry=carry, loop=loop, reset=reset)
        finite = jnp.isfinite(ys).all(axis=-1)
        assert not finite[3:5, 0].any()
        assert finite.at[3:5, 0].set(True).all()


def test_a_network_layer_by_layer_and_as_one_step():
    """As one step, the carry of the second layer is solved after that of the first."""
    net = jaxrnn.stacked(jaxrnn.lru(H), jaxrnn.residual(jaxrnn.min_gru(H)))
    params = net.init(jax.random.key(0), I, jnp.float64)
    carry = net.initial_carry((B,), jnp.float64)
    xs = problem(jaxrnn.lru(H))[2]
    compare(parallel(), net, params, carry, xs)
    both = jaxrnn.bidirectional(net, jaxrnn.min_lstm(3))
    params = both.init(jax.random.key(0), I, jnp.float64)
    outputs = [jaxrnn.unroll(both, params, xs, loop=f)[1] for f in (parallel(), jaxrnn.scan)]
    assert distance(*outputs) < VALUES


@pytest.mark.parametrize("name", often(LINEAR, ("lru", "selective_ssm")))
def test_no_loop_over_time_is_in_the_program_of_a_linear_cell(name):
    cell = CELLS[name](H)

    def largest_depth(steps):
        args = problem(cell, steps)
        jaxpr = jax.make_jaxpr(functools.partial(result, parallel(), cell))(*args)
        found = set(names(jaxpr.jaxpr))
        assert "associative_scan" not in found  # it is inlined
        assert found.isdisjoint({"scan", "while"})
        return longest_path(jaxpr.jaxpr)

    short, long = largest_depth(64), largest_depth(64**2)
    assert long < 2.5 * short  # O(log T)


@pytest.mark.optimized
def test_memory_of_a_gradient_and_what_a_chunk_saves():
    cell, shape = jaxrnn.lru(64), (2048, 4, 64)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 64))
    carry = jax.eval_shape(lambda: cell.initial_carry(shape[1:2]))
    xs = jax.ShapeDtypeStruct(shape, jnp.float32)

    def temporary(loop):
        def loss(params, carry, xs):
            return jnp.mean(loop(cell, params, carry, xs)[1] ** 2)

        program = jax.jit(jax.grad(loss)).lower(params, carry, xs).compile()
        return program.memory_analysis().temp_size_in_bytes

    by_bptt = temporary(jaxrnn.bptt)
    assert temporary(parallel()) < 3.5 * by_bptt
    assert temporary(parallel(chunk=128)) < 1.5 * by_bptt


def inner_jaxprs(eqn):
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def names(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner in inner_jaxprs(eqn):
            yield from names(inner)


def longest_path(jaxpr):
    """The largest number of equations of which each reads a result of the one before."""
    depths = {}
    for eqn in jaxpr.eqns:
        own = max([longest_path(inner) for inner in inner_jaxprs(eqn)], default=1)
        before = [depths.get(v, 0) for v in eqn.invars if not hasattr(v, "val")]
        depths |= dict.fromkeys(eqn.outvars, max(before, default=0) + own)
    return max(depths.values(), default=0)


@pytest.mark.optimized
@pytest.mark.parametrize("name", often(("lru", "min_gru"), ("lru",)))
def test_float32_over_100_000_steps_is_as_exact_as_scan(name):
    cell, steps = CELLS[name](4), 100_000
    params, carry, xs = problem(cell, steps, (1,), jnp.float32)
    wide = [jaxrnn.tree.cast(x, jnp.float64) for x in (params, carry, xs)]
    exact = result(jaxrnn.scan, cell, *wide)
    by_scan = result(jaxrnn.scan, cell, params, carry, xs)
    got = result(parallel(), cell, params, carry, xs)
    for ours, theirs, truth in zip(got, by_scan, exact, strict=True):
        ours, theirs = (jaxrnn.tree.cast(x, jnp.float64) for x in (ours, theirs))
        assert distance(ours, truth) <= 2 * distance(theirs, truth)


def test_bfloat16_is_as_exact_as_scan():
    cell = jaxrnn.min_gru(H)
    args = problem(cell, 50, dtype=jnp.bfloat16)
    exact, _ = result(jaxrnn.scan, cell, *jaxrnn.tree.cast(args, jnp.float64))
    errors = []
    for loop in (parallel(), jaxrnn.scan):
        outputs, grads = result(loop, cell, *args)
        assert jax.tree.map(jnp.dtype, jax.tree.map(lambda g: g.dtype, grads)) == jax.tree.map(
            lambda x: x.dtype, args
        )
        errors.append(distance(jaxrnn.tree.cast(outputs, jnp.float64), exact))
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("name", ["lru", "indrnn_tanh"])
def test_a_gradient_of_a_gradient(name):
    cell = CELLS[name](H)
    args = problem(cell, 5)

    def second(loop):
        def slope(args):
            grads = result(loop, cell, *args)[1]
            return sum(jnp.sum(jnp.real(jnp.sin(g))) for g in jax.tree.leaves(grads))

        return jax.jit(jax.grad(slope))(args)

    assert distance(second(parallel()), second(jaxrnn.scan)) < GRADIENTS


def test_a_hessian_of_a_linear_cell():
    """Forward over reverse; at a = 0 the derivative of a product is not that of its zero."""

    def step(params, carry, x):
        carry = params * carry + x
        return carry, carry

    def loss(params, loop):
        return jnp.sum(loop(step, params, jnp.ones(3), jnp.ones((4, 3)))[1] ** 3)

    at = jnp.array([0.0, 0.5, -0.3])
    got, wanted = (jax.hessian(loss)(at, loop) for loop in (parallel(), jaxrnn.scan))
    assert distance(got, wanted) < GRADIENTS


def test_the_adjoint_of_a_transformed_cell_is_the_one_in_use():
    cell = transforms.detach_adjoint(jaxrnn.lru(H), 0.5)
    compare(parallel(), cell, *problem(cell))


# Steps of a user.


def counting(params, carry, x):
    count, h = carry
    h = params["a"] * h + x * jnp.cos(count.astype(x.dtype))
    return (count + 1, h), h


def alternating(params, carry, x):
    state, flag, h = carry
    h = jnp.where(flag, params["a"] * h, h) + x * state.astype(x.dtype)
    return ((3 * state + 1) % 7, ~flag, h), h


def drawing(params, carry, x):
    key, h = carry
    key, this = jax.random.split(key)
    h = params["a"] * h + jax.random.normal(this, x.shape, x.dtype)
    return (key, h), h + x


def triangular(params, carry, x):
    """Like an mLSTM: a largest exponent, a sum that it scales, and what is read from both."""
    m, c, _ = carry
    new_m = jnp.maximum(m - params["a"], x)
    c = jnp.exp(m - new_m) * c + x
    read = jnp.tanh(c @ params["w"]) * jnp.exp(new_m)
    return (new_m, c, read), read


def constant_context(params, carry, x):
    context, h = carry
    h = jnp.tanh(params["a"] * h + context * x)
    return (context, h), h


STEPS = {
    "counting": (counting, lambda h: (jnp.int32(3), h)),
    "alternating": (alternating, lambda h: (jnp.int32(3), jnp.bool_(True), h)),
    "drawing": (drawing, lambda h: (jax.random.key(5), h)),
    "triangular": (triangular, lambda h: (h, h, h)),
    "constant_context": (constant_context, lambda h: (h, h)),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_a_user(name):
    step, carry_of = STEPS[name]
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.random(H)), "w": jnp.asarray(rng.standard_normal((H, H)))}
    xs = jnp.asarray(rng.standard_normal((T, H)))

    def loss(params, h, loop):
        carry, ys = loop(step, params, carry_of(h), xs)
        return jnp.sum(jnp.sin(ys)) + jnp.sum(carry[-1] ** 2), ys

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)
    got, wanted = (run(params, xs[0], loop) for loop in (parallel(), jaxrnn.scan))
    assert distance(got, wanted) < GRADIENTS


def test_a_step_that_closes_over_traced_values():
    def loss(a, loop):
        def step(_, carry, x):
            carry = jnp.tanh(a * carry + x)
            return carry, carry

        return jnp.sum(loop(step, (), jnp.ones(H), jnp.ones((T, H)))[1] ** 2)

    got, wanted = (jax.grad(loss)(jnp.full(H, 0.5), f) for f in (parallel(), jaxrnn.scan))
    assert distance(got, wanted) < GRADIENTS


# Newton's method.


@pytest.mark.parametrize("jacobian", ["dense", "quasi_diagonal"])
@pytest.mark.parametrize("name", ["gru", "projected_lstm"])
def test_steps_that_mix_their_units(name, jacobian):
    cell = CELLS[name](H)
    compare(parallel(jacobian=jacobian), cell, *problem(cell))


def effort(cell, args, loop):
    """The effort of the one part of the carry that takes iterations."""
    (found,) = jaxrnn.diagnostics.newton_effort(cell, *args, loop=loop)
    return found


def test_few_iterations_where_the_method_converges():
    cell = jaxrnn.gru(H)
    args = problem(cell, 200)
    found = effort(cell, args, parallel(jacobian="dense"))
    assert found.iterations <= 8
    assert found.steps_in_order == 0
    assert found.residual < 1e-13


def chaotic(gain):
    """An Elman network far in the chaotic regime, from small random states."""
    cell = jaxrnn.elman(H)
    params, carry, xs = problem(cell, 200)
    return cell, (params | {"w_h": gain * params["w_h"]}, carry, xs)


@pytest.mark.parametrize("jacobian", ["dense", "quasi_diagonal"])
@pytest.mark.parametrize("max_iterations", [0, 3])
def test_what_has_not_converged_runs_in_order(jacobian, max_iterations):
    """The last steps are those of a scan, also where small errors grow without bound."""
    cell, args = chaotic(8.0)
    loop = parallel(jacobian=jacobian, max_iterations=max_iterations)
    found = effort(cell, args, loop)
    assert found.iterations == max_iterations
    assert found.steps_in_order > 0
    params, carry, xs = args
    _, hs = loop(cell, params, carry, xs)
    again = jax.vmap(cell, (None, 0, 0))(params, jaxrnn.shift_right(carry, hs), xs)[0]
    assert jnp.max(jnp.abs(again - hs)) < 1e-13
    if max_iterations == 0:
        assert distance(hs, jaxrnn.scan(cell, params, carry, xs)[1]) < VALUES


def test_a_chaotic_step_holds_everywhere():
    cell, args = chaotic(8.0)
    params, carry, xs = args
    _, hs = parallel(jacobian="dense")(cell, params, carry, xs)
    again = jax.vmap(cell, (None, 0, 0))(params, jaxrnn.shift_right(carry, hs), xs)[0]
    assert jnp.max(jnp.abs(again - hs)) < 1e-13


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_an_exploding_step(damping):
    """The states overflow, as those of scan do; so do iterates of the method on the way."""

    def step(params, carry, x):
        carry = params * carry + jax.nn.relu(carry) * carry + x
        return carry, carry

    args = jnp.full(2, 1.5), jnp.array([1.0, -0.1]), jnp.full((40, 2), 0.1)
    loop = parallel(damping=damping)
    _, got = loop(step, *args)
    _, wanted = jaxrnn.scan(step, *args)
    assert jnp.isinf(wanted).any()
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_nan_in_an_input_is_nan_in_the_states():
    cell = jaxrnn.indrnn(H, activation=jnp.tanh)
    params, carry, xs = problem(cell)
    xs = xs.at[3].set(jnp.nan)
    got, wanted = (loop(cell, params, carry, xs)[1] for loop in (parallel(), jaxrnn.scan))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert jnp.isnan(got[3:]).all()


@pytest.mark.parametrize("jacobian", ["dense", "quasi_diagonal"])
def test_small_losses_and_small_states_are_solved_too(jacobian):
    """The tolerance is relative to the states, and the adjoint is solved by iterations too."""
    scale = 1e-20
    permutation = jnp.array([2, 0, 1, 3])

    def step(params, carry, x):
        carry = jnp.tanh(params * carry[permutation] + x)
        return carry, carry

    def loss(a, loop):
        _, ys = loop(step, a, scale * jnp.ones(H), scale * jnp.ones((T, H)))
        return scale * jnp.sum(ys @ jnp.arange(H, dtype=float))

    got, wanted = (
        jax.value_and_grad(loss)(jnp.float64(0.9), loop)
        for loop in (parallel(jacobian=jacobian), jaxrnn.scan)
    )
    assert distance(got, wanted) < GRADIENTS

    def drifting(params, carry, x):
        carry = carry + x * jnp.cos(carry)
        return carry, carry

    steps = (), jnp.zeros(3, jnp.float32), jnp.full((1000, 3), 3e-6, jnp.float32)
    last, wanted = (loop(drifting, *steps)[0] for loop in (parallel(), jaxrnn.scan))
    np.testing.assert_allclose(last, wanted, rtol=1e-5)


def test_an_overflowing_product_of_slopes_leaves_zeros_alone():
    xs = jnp.zeros((2000, 2)).at[-5:].set(1.0)

    def step(params, carry, x):
        carry = params * carry + x
        return carry, carry

    got, wanted = (
        f(step, jnp.float64(2.0), jnp.zeros(2), xs)[1] for f in (parallel(), jaxrnn.scan)
    )
    np.testing.assert_array_equal(got, wanted)


def test_a_narrow_carry_of_a_nonlinear_cell():
    cell = jaxrnn.lstm(H)
    params, carry, xs = problem(cell, 30, dtype=jnp.bfloat16)
    _, got = parallel(jacobian="dense")(cell, params, carry, xs)
    _, wanted = jaxrnn.scan(cell, params, carry, xs)
    got, wanted = (np.asarray(x, float) for x in (got, wanted))
    np.testing.assert_allclose(got, wanted, atol=0.02 * np.abs(wanted).max())


def test_a_state_machine_that_reads_the_states_runs_in_order():
    def step(params, carry, x):
        h, count = carry
        h = jnp.tanh(0.5 * h + x + (count % 3).astype(h.dtype))
        return (h, count + (h > 0).astype(count.dtype)), h

    start = jnp.ones(H, jnp.float32), jnp.full(H, 30_000_001, jnp.int32)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((T, H)), jnp.float32)
    got, wanted = (f(step, (), start, xs) for f in (parallel(jacobian="dense"), jaxrnn.scan))
    assert distance(got, wanted) < 1e-6


def test_keys_that_draw_otherwise_in_a_batch_are_refused():
    """As inputs, in a closure, and where a step makes its own."""
    keys = jax.random.split(jax.random.key(0, impl="rbg"), T)

    def of_input(params, carry, key):
        return carry + jax.random.normal(key, (2,)), carry

    def of_closure(params, carry, t):
        return of_input(params, carry, jax.random.fold_in(keys[0], t))

    def of_its_own(params, carry, t):
        return of_input(params, carry, jax.random.key(t, impl="rbg"))

    for step, xs in ((of_input, keys), (of_closure, jnp.arange(T)), (of_its_own, jnp.arange(T))):
        with pytest.raises(ValueError, match="step: got a step that draws with keys other"):
            parallel()(step, (), jnp.ones(2), xs)


def test_damping_keeps_the_solution():
    cell = jaxrnn.indrnn(H, activation=jnp.tanh)
    args = problem(cell)
    compare(parallel(damping=0.5), cell, *args)
    plain, damped = (effort(cell, args, parallel(damping=d)) for d in (0.0, 0.5))
    assert damped.iterations > plain.iterations


def test_the_effort_of_each_chunk_and_of_nothing():
    cell = jaxrnn.indrnn(H)
    found = effort(cell, problem(cell), parallel(chunk=4))
    assert found.iterations.shape == (3,)
    linear = jaxrnn.lru(H)
    assert jaxrnn.diagnostics.newton_effort(linear, *problem(linear)) == []


# The structure of a step.


def structure_of(function, *shapes):
    carry = [jax.ShapeDtypeStruct(shape, float) for shape in shapes]
    recurrence = jaxprs.primal(lambda leaves, x: function(*leaves), carry, None)
    return components(recurrence, carry, None)


@pytest.mark.parametrize(
    ("function", "is_affine", "row_axes"),
    [
        (lambda h: 2 * h + 1, True, 2),
        (lambda h: jnp.where(jnp.arange(3) > 1, 2 * h, h), True, 2),
        (lambda h: jnp.where(h > 1, 2 * h, h), False, 2),
        (lambda h: h * h, False, 2),
        (lambda h: 1 / (1 + h), False, 2),
        (lambda h: jax.nn.relu(h), False, 2),
        (lambda h: h @ jnp.ones((3, 3)), True, 1),
        (lambda h: jnp.ones((2, 2)) @ h, True, 0),
        (lambda h: jnp.cumsum(h, -1), True, 1),
        (lambda h: jnp.flip(h, 0), True, 0),
        (lambda h: h.T.reshape(2, 3), True, 0),
        (lambda h: h[:, ::-1], True, 1),
        (lambda h: jnp.roll(h, 1, 1), True, 1),
        (lambda h: jnp.pad(h, ((0, 0), (1, 0)))[:, :-1], True, 1),
        (lambda h: jax.lax.pad(h, 0.0, ((0, 0, 0), (1, -1, 0))), True, 1),
        (lambda h: h - h.mean(-1, keepdims=True), True, 1),
        (lambda h: jnp.sort(h, -1), False, 0),
        (lambda h: jnp.round(h), False, 2),
        (lambda h: h.astype(jnp.float32).astype(float), False, 2),
        (lambda h: h.astype(int).astype(float), False, 2),
        (lambda h: jax.checkpoint(lambda h: 2 * h)(h), True, 2),
        (lambda h: h.T.T, True, 2),
        (lambda h: (h[:, None] * jnp.ones((2, 4, 3))).sum(1), True, 2),
    ],
)
def test_what_is_affine_and_which_axes_are_rows(function, is_affine, row_axes):
    (component,) = structure_of(function, (2, 3))
    assert component.is_affine == is_affine
    assert component.num_row_axes == row_axes
    assert component.is_elementwise == (row_axes == 2)


def test_a_complex_step_without_a_complex_derivative_is_not_elementwise():
    carry = [jax.ShapeDtypeStruct((2,), complex)]
    for function in (
        jnp.conj,
        lambda c: jnp.abs(c).astype(complex),
        lambda c: c.real.astype(complex),
    ):
        (component,) = components(lambda c, x, f=function: [f(c[0])], carry, None)
        assert not component.is_elementwise
    (component,) = components(lambda c, x: [c[0] * c[0] + jnp.tanh(c[0])], carry, None)
    assert component.is_elementwise


def test_arrays_are_solved_after_those_that_they_read():
    found = structure_of(lambda a, b, c, d: (a + c, a, c, d + b + a), *[(2,)] * 4)
    assert [part.leaves for part in found] == [(2,), (0,), (1,), (3,)]
    assert [part.is_recurrent for part in found] == [True, True, False, True]
    (first, second) = structure_of(lambda a, b, c: (b, a, c), *[(2,)] * 3)
    assert {first.leaves, second.leaves} == {(2,), (0, 1)}


def test_a_choice_by_a_flag_of_the_carry_is_not_affine():
    carry = [jax.ShapeDtypeStruct((2,), bool)]
    (component,) = components(lambda c, x: [jnp.where(c[0], False, True)], carry, None)
    assert not component.is_affine


# Bad input.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"jacobian": "sparse"}, ValueError, "jacobian: got 'sparse', expected 'diagonal' or"),
        ({"tolerance": 0}, ValueError, "tolerance: got 0, expected a number above 0"),
        ({"tolerance": math.inf}, ValueError, "tolerance: got inf, expected a finite number"),
        ({"max_iterations": -1}, ValueError, "max_iterations: got -1"),
        ({"max_iterations": 2.5}, TypeError, "max_iterations: got 2.5"),
        ({"damping": 1.0}, ValueError, "damping: got 1.0, expected a rate"),
        ({"chunk": 0}, ValueError, "chunk: got 0"),
        ({"memory_limit": "much"}, ValueError, "memory_limit: got 'much', expected bytes"),
        ({"axis_name": 3}, TypeError, "axis_name: got 3"),
        ({"axis_name": "time", "chunk": 3}, ValueError, "chunk: got 3 and axis_name='time'"),
    ],
)
def test_bad_options(options, error, message, own_messages):
    with pytest.raises(error, match=message):
        parallel(**options)


def test_steps_that_the_options_do_not_fit():
    cell = jaxrnn.gru(H)
    args = problem(cell)
    with pytest.raises(ValueError, match=r"jacobian: got 'diagonal' for gru\(4\), in which a unit"):
        parallel()(cell, *args)
    limited = parallel(jacobian="dense", memory_limit=1000)
    size = T * B * H * H * 8
    message = rf"memory_limit: got 1000 bytes, and {size} for the Jacobians of gru\(4\)"
    with pytest.raises(ValueError, match=message):
        limited(cell, *args)
    with pytest.raises(ValueError, match="axis_name: got 'time', and inputs that are divided over"):
        parallel(axis_name="time")(jaxrnn.lru(H), *problem(jaxrnn.lru(H)))
    with pytest.raises(ValueError, match=r"loop: got parallel.*divides time over devices"):
        jaxrnn.truncated(3, loop=parallel(axis_name="time"))


def test_forward_mode_names_the_loop_to_take():
    cell = jaxrnn.lru(H)
    params, carry, xs = problem(cell)
    with pytest.raises(TypeError, match="parallel under forward-mode differentiation"):
        jax.jvp(lambda p: parallel()(cell, p, carry, xs), (params,), (params,))


def test_dependences_are_known_for_every_equation_of_our_cells():
    """So no cell is taken for one that mixes its rows."""
    for name, make in CELLS.items():
        cell = make(H)
        params, carry, xs = draw_arguments(cell, np.random.default_rng(0))
        leaves, structure = jax.tree.flatten(carry)
        w, zs = cell.prepare(params), cell.project(params, xs)

        def advance(leaves, z, cell=cell, w=w, structure=structure):
            return jax.tree.leaves(cell.advance(w, structure.unflatten(leaves), z)[0])

        z = jaxrnn.check.one_step(zs)
        for part in components(jaxprs.primal(advance, leaves, z), leaves, z):
            assert part.num_row_axes >= 1, name


def test_nothing_depends_on_a_source_that_is_not_read():
    jaxpr = jax.make_jaxpr(lambda a, b: (a, jnp.zeros(2)))(jnp.ones(2), jnp.ones(2)).jaxpr
    assert dependences(jaxpr, [jaxpr.invars[1]]) == [None, None]
