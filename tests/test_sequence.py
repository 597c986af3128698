"""The front door: `unroll` is a plain loop over `cell`, whatever the axes, dtypes and direction."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import inner, noise

import jaxrnn
from jaxrnn import CELLS, LOOPS, unroll

T, B, I, H = 5, 3, 2, 4

every_cell = pytest.mark.parametrize("make", [m for _, m in CELLS], ids=[name for name, _ in CELLS])
every_loop = pytest.mark.parametrize("loop", [f for _, f in LOOPS], ids=[name for name, _ in LOOPS])

exactly = chex.assert_trees_all_equal
same_values = partial(chex.assert_trees_all_close, rtol=1e-13, atol=1e-14)
same_gradients = partial(chex.assert_trees_all_close, rtol=1e-12, atol=1e-13)


def drawn(cell, lead=(T, B), dtype=jnp.float64):
    """Params, a carry and xs, from NumPy: nothing to compile."""
    rng, key = np.random.default_rng(0), jax.random.key(0)
    shapes = jax.eval_shape(
        lambda: (
            cell.init(key, I, dtype),
            cell.initial_carry(lead[1:], dtype),
            jnp.zeros((*lead, *cell.feature_shape(I)), dtype),
        )
    )
    return jax.tree.map(lambda x, like: (0.5 * x).astype(like.dtype), noise(rng, shapes), shapes)


def plain_step(params, carry, x):
    """No Cell: a leaky sum of inputs whose carry counts steps as well."""
    total = params["decay"] * carry["total"] + jnp.tanh(x)
    return {"total": total, "count": carry["count"] + 1}, {"y": total, "count": carry["count"]}


def drawn_plain(lead=(T, B)):
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((*lead, I)))
    carry = {"total": jnp.ones(xs.shape[1:]), "count": jnp.asarray(7, jnp.int32)}
    return {"decay": jnp.asarray(0.9)}, carry, xs


def by_steps(cell, params, carry, xs):
    """A Python loop over single steps: streaming."""
    step, ys = jax.jit(cell), []
    for x in xs:
        carry, y = step(params, carry, x)
        ys.append(y)
    return carry, jax.tree.map(lambda *ys: np.stack(ys), *ys)


def unrolled(cell, params, carry, xs, **keywords):
    return jax.jit(partial(unroll, cell, **keywords))(params, xs, carry=carry)


def outputs_and_gradients(loop, cell, params, carry, xs):
    """Outputs of `loop`; gradients of a sum that all inexact among them enter, weighted."""

    def weighted(inexact):
        outputs = loop(cell, *inexact)
        ys = [y for y in jax.tree.leaves(outputs) if jnp.issubdtype(y.dtype, jnp.inexact)]
        vs = [jnp.asarray(np.cos(range(y.size)), y.dtype).reshape(y.shape) for y in ys]
        return inner(vs, ys), outputs

    gradients, outputs = jax.grad(weighted, has_aux=True, allow_int=True)((params, carry, xs))
    return outputs, gradients


def through_unroll(**keywords):
    """`unroll` with its arguments in the order of a Loop."""
    return lambda cell, params, carry, xs: unroll(cell, params, xs, carry=carry, **keywords)


@every_cell
@pytest.mark.parametrize("lead", [(T,), (T, 2, B)], ids=str)
def test_unroll_is_a_plain_loop_over_the_cell(make, lead):
    cell = make(H)
    params, carry, xs = drawn(cell, lead)
    last, ys = unrolled(cell, params, carry, xs)
    same_values((last, ys), by_steps(cell, params, carry, xs))
    # Many-to-one: the last output needs no array of all of them.
    same = same_values if any(map(jnp.iscomplexobj, jax.tree.leaves(last))) else exactly
    same(cell.output(params, last), ys[-1])


@pytest.mark.parametrize("lead", [(T,), (T, B)], ids=str)
def test_unroll_of_a_plain_step_is_a_plain_loop(lead):
    args = drawn_plain(lead)
    same_values(unrolled(plain_step, *args), by_steps(plain_step, *args))


@every_cell
def test_the_default_carry_is_zero(make):
    cell = make(H)
    params, carry, xs = drawn(cell)
    zeros = jax.tree.map(jnp.zeros_like, carry)
    if make is dict(CELLS)["slstm"]:
        zeros = zeros._replace(m=jnp.full_like(zeros.m, -1e30))  # the logarithm of a sum that is 0
    default, explicit = jax.jit(
        lambda params, zeros, xs: (unroll(cell, params, xs), unroll(cell, params, xs, carry=zeros))
    )(params, zeros, xs)
    chex.assert_trees_all_equal(default, explicit)
    chex.assert_trees_all_equal(cell.initial_carry((B,), jnp.float64), zeros)


@every_loop
def test_reverse_runs_from_the_end_and_keeps_each_output_at_its_input(loop):
    def handwritten(step, params, carry, xs):
        carry, ys = loop(step, params, carry, xs[::-1])
        return carry, ys[::-1]

    @jax.jit
    def both(*args):
        reverse = through_unroll(loop=loop, reverse=True)
        return [outputs_and_gradients(f, jaxrnn.elman(H), *args) for f in (reverse, handwritten)]

    reverse, expected = both(*drawn(jaxrnn.elman(H)))
    same_values(reverse[0], expected[0])
    same_gradients(reverse[1], expected[1])


def test_rows_of_a_batch_do_not_know_of_each_other():
    cell, batch = jaxrnn.gru(H), (2, B)
    params, carry, xs = drawn(cell, (T, *batch))
    last, ys = unrolled(cell, params, carry, xs)
    run = jax.jit(partial(unroll, cell))
    for row in np.ndindex(batch):
        alone = run(params, xs[:, *row], carry=carry[row])
        same_values((last[row], ys[:, *row]), alone)


@every_loop
@pytest.mark.parametrize("name", ["lstm", "plain"])
def test_no_steps_give_the_carry_back_and_no_gradient(name, loop):
    if name == "plain":
        cell, (params, carry, xs) = plain_step, drawn_plain((0, B))
    else:
        cell = dict(CELLS)[name](H)
        params, carry, xs = drawn(cell, (0, B))
    run = jax.jit(partial(outputs_and_gradients, through_unroll(loop=loop), cell))
    (last, ys), (d_params, d_carry, d_xs) = run(params, carry, xs)
    _, y = jax.eval_shape(cell, params, carry, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype))
    empty = jax.tree.map(lambda y: jnp.zeros((0, *y.shape), y.dtype), y)
    chex.assert_trees_all_equal((last, ys, d_xs), (carry, empty, jnp.zeros_like(xs)))
    assert not any(np.any(d) for d in jax.tree.leaves(d_params))
    # The carry is its own result, so its gradient is the weight of that.
    assert all(np.all(d) for d in jax.tree.leaves(d_carry) if d.dtype != jax.dtypes.float0)


@every_loop
def test_one_step_is_the_cell(loop):
    cell = jaxrnn.lstm(H)
    params, carry, xs = drawn(cell, (1, B))
    carry_1, y = cell(params, carry, xs[0])
    same_values(unrolled(cell, params, carry, xs, loop=loop), (carry_1, y[None]))


def test_numpy_arrays_do():
    cell = jaxrnn.lstm(H)
    args = drawn(cell)
    params, carry, xs = jax.tree.map(np.asarray, args)
    same_values(unroll(cell, params, xs, carry=carry), unrolled(cell, *args))
    same_values(cell(params, carry, xs[0]), cell(args[0], args[1], args[2][0]))


# What a carry has that sums up: memories and normalisers, positions and velocities.
SUMS = (".c", ".m", ".n", ".s", ".y", ".v")


def assert_dtypes_are_kept(cell, loop, dtype):
    """In 64-bit mode, beside xs in float64."""
    params, carry, _ = drawn(cell, dtype=dtype)
    xs = jnp.ones((T, B, *cell.feature_shape(I)))
    first = jax.eval_shape(partial(unroll, cell, loop=loop), params, xs)
    run = partial(outputs_and_gradients, through_unroll(loop=loop), cell)
    outputs, (d_params, d_carry, d_xs) = jax.eval_shape(run, params, carry, xs)
    # A carry may be wider, if it is complex or sums up: what the cell's zero carry is, it stays.
    for state in (first[0], outputs[0], d_carry):
        jax.tree.map(lambda x, c: np.testing.assert_equal(x.dtype, c.dtype), state, carry)
    narrow = jax.tree.leaves((first[1], outputs[1], d_params))
    assert {x.dtype for x in narrow} == {jnp.dtype(dtype)}
    wide = "float32" if jnp.finfo(dtype).bits < 32 else dtype
    sums_up = cell.expression_name in ("rg_lru", "selective_ssm")
    for path, leaf in jax.tree.leaves_with_path((first[0], outputs[0], d_carry)):
        is_sum = sums_up or jax.tree_util.keystr(path[-1:]) in SUMS
        assert jnp.iscomplexobj(leaf) or leaf.dtype == (wide if is_sum else dtype), path
    assert d_xs.dtype == xs.dtype


@every_cell
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_cell_keeps_the_dtype_of_its_parameters(make, dtype):
    assert_dtypes_are_kept(make(H), jaxrnn.bptt, dtype)


@every_loop
def test_every_loop_keeps_the_dtype_of_the_parameters(loop):
    assert_dtypes_are_kept(jaxrnn.elman(H), loop, "float32")


@pytest.mark.parametrize(("dtype", "error"), [("float16", 3e-3), ("bfloat16", 3e-2)])
def test_half_precision_is_near(dtype, error):
    cell = jaxrnn.gru(H)
    halves = unrolled(cell, *drawn(cell, dtype=dtype))
    near = jax.tree.map(lambda half: half.astype(float), halves)
    chex.assert_trees_all_close(near, unrolled(cell, *drawn(cell)), atol=error)


def test_batch_major_data_goes_in_by_to_time_major():
    cell = jaxrnn.gru(H)
    params, carry, xs = drawn(cell)
    batch_major = np.stack([xs[:, b] for b in range(B)])
    got = unrolled(cell, params, carry, jaxrnn.to_time_major(batch_major))
    chex.assert_trees_all_equal(got, unrolled(cell, params, carry, xs))


@every_loop
def test_vmap_of_grad_is_the_gradient_of_each_row(loop):
    cell = jaxrnn.elman(H)
    params, carry, xs = drawn(cell)
    row = partial(outputs_and_gradients, through_unroll(loop=loop), cell)
    by_vmap = jax.jit(jax.vmap(row, in_axes=(None, 0, 1)))(params, carry, xs)
    alone = [jax.jit(row)(params, carry[b], xs[:, b]) for b in range(B)]
    same_gradients(by_vmap, jax.tree.map(lambda *rows: np.stack(rows), *alone))


def test_an_integer_in_the_carry_has_no_gradient_and_is_in_nobodys_way():
    @jax.jit
    def both(*args):
        return [
            outputs_and_gradients(loop, plain_step, *args) for loop in (jaxrnn.bptt, jaxrnn.scan)
        ]

    (_, (d_params, d_carry, d_xs)), (_, expected) = both(*drawn_plain())
    assert d_carry["count"].dtype == jax.dtypes.float0
    got = d_params, {**d_carry, "count": None}, d_xs
    same_gradients(got, (expected[0], {**expected[1], "count": None}, expected[2]))


@pytest.mark.parametrize("run", [jaxrnn.unroll, jaxrnn.history])
def test_a_carry_may_hold_python_numbers(run):
    def step(params, carry, x):
        h, count = carry
        return (params * h + x, count + 1), h

    xs = jnp.arange(3.0)
    _, ys = run(step, 2.0, xs, carry=(0.0, 0))
    same_values(ys, jnp.array([0.0, 0.0, 1.0]))
    start = (0.0, jnp.zeros(2, int))
    with pytest.raises(ValueError, match=r"reset_carry\[1\]: got int64\[2\], expected int64\[\]"):
        run(step, 2.0, xs, carry=(0.0, 0), reset=jnp.zeros(3, bool), reset_carry=start)
