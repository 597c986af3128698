"""The laws that every cell and every loop obeys (DESIGN), in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import distance, inner, noise, python_loop, run

import jaxrnn
from jaxrnn.types import reach_of

VALUES, GRADIENTS, DIFFERENCES = 1e-13, 1e-12, 1e-6

CELLS, LOOPS = dict(jaxrnn.CELLS), dict(jaxrnn.LOOPS)
every_cell = pytest.mark.parametrize("cell_name", CELLS)
# Loops know nothing of cells: what is neither the default loop nor one of these is left to
# `pytest -m thorough` and to `jaxrnn certify`.
SOME_CELLS = ("elman", "gru", "lstm", "lru")


def pairs(loops):
    """Every loop with every cell, those marked as thorough that need not be run each time."""
    return pytest.mark.parametrize(
        ("loop_name", "cell_name"),
        [
            pytest.param(loop, cell, marks=[] if often else pytest.mark.thorough)
            for loop in loops
            for cell in CELLS
            for often in [loop == "bptt" or cell in SOME_CELLS]
        ],
    )


every_pair = pairs(LOOPS)
every_judged_pair = pairs([name for name in LOOPS if name != "scan"])


@functools.cache
def problem(cell_name, length=7, batch=(3,), inputs=4, hidden=5, seed=0):
    """A cell, arguments in general position, and random cotangents of its outputs."""
    cell = CELLS[cell_name](hidden)
    rng = np.random.default_rng(seed)

    with jax.enable_x64(True):
        params = cell.init(jax.random.key(seed), inputs, jnp.float64)
        params = jax.tree.map(lambda p, n: p + 0.1 * n, params, noise(rng, params))
        carry = noise(rng, cell.carry(batch, jnp.float64))
        xs = noise(rng, jax.ShapeDtypeStruct((length, *batch, inputs), jnp.float64))
        v = noise(rng, jax.eval_shape(functools.partial(jaxrnn.scan, cell), params, carry, xs))
    return cell, (params, carry, xs), v


def gradient(loop, cell, args, v):
    return jax.grad(lambda args: inner(v, loop(cell, *args)))(args)


def judge_of(loop):
    """`scan`, or for a loop that cuts a Python loop over windows of the same reach."""
    reach = reach_of(loop)
    return jaxrnn.scan if reach is None else functools.partial(python_loop, reach=reach)


@every_cell
def test_forward_equals_the_equations_in_numpy(cell_name):
    cell, args, _ = problem(cell_name)
    assert distance(jaxrnn.scan(cell, *args), run(cell_name, *args)) < VALUES


@every_judged_pair
def test_values_equal_scan(cell_name, loop_name):
    cell, args, _ = problem(cell_name)
    assert distance(LOOPS[loop_name](cell, *args), jaxrnn.scan(cell, *args)) < VALUES


@every_judged_pair
def test_gradient_equals_autodiff(cell_name, loop_name):
    cell, args, v = problem(cell_name)
    loop = LOOPS[loop_name]
    wanted = gradient(judge_of(loop), cell, args, v)
    assert distance(gradient(loop, cell, args, v), wanted) < GRADIENTS
    jitted = jax.jit(functools.partial(gradient, loop, cell))
    assert distance(jitted(args, v), wanted) < GRADIENTS


@every_pair
def test_gradient_of_a_vmap_equals_the_gradients_of_its_rows(cell_name, loop_name):
    cell, (params, carry, xs), v = problem(cell_name)
    loop = LOOPS[loop_name]
    # Rows are unbatched here: the batch axis is mapped over, first in carries, second in series.
    rows = ((None, 0, 1), (0, 1))
    mapped = jax.vmap(functools.partial(gradient, loop, cell), in_axes=rows)
    got = mapped((params, carry, xs), v)
    for row in range(xs.shape[1]):
        at_row = jax.tree.map(lambda c, row=row: c[row], carry), xs[:, row]
        v_row = jax.tree.map(lambda x, row=row: x[row], v[0]), v[1][:, row]
        wanted = gradient(judge_of(loop), cell, (params, *at_row), v_row)
        assert distance(jax.tree.map(lambda g, row=row: g[row], got), wanted) < GRADIENTS


@every_judged_pair
def test_gradient_of_a_gradient_equals_autodiff(cell_name, loop_name):
    cell, args, v = problem(cell_name, length=5, batch=(2,), inputs=2, hidden=3)
    direction = jax.tree.map(jnp.cos, args)

    def slope(args, loop):
        return inner(direction, gradient(loop, cell, args, v))

    second = jax.jit(jax.grad(slope), static_argnums=1)
    loop = LOOPS[loop_name]
    assert distance(second(args, loop), second(args, judge_of(loop))) < GRADIENTS


@every_cell
def test_gradient_equals_finite_differences(cell_name):
    cell, args, v = problem(cell_name)
    got = gradient(jaxrnn.bptt, cell, args, v)
    value = jax.jit(lambda args: inner(v, jaxrnn.scan(cell, *args)))
    rng = np.random.default_rng(1)
    for _ in range(4):
        u = noise(rng, args)
        slope = sum(  # of fourth order
            weight * value(jax.tree.map(lambda x, d, e=e: x + e * d, args, u)) / 1e-6
            for e, weight in ((1e-6, 2 / 3), (-1e-6, -2 / 3), (2e-6, -1 / 12), (-2e-6, 1 / 12))
        )
        assert distance(inner(got, u), slope) < DIFFERENCES


@every_pair
def test_two_halves_equal_the_whole(cell_name, loop_name):
    cell, (params, carry, xs), _ = problem(cell_name)
    loop = LOOPS[loop_name]
    middle, first = loop(cell, params, carry, xs[:3])
    last, second = loop(cell, params, middle, xs[3:])
    whole = loop(cell, params, carry, xs)
    assert distance((last, jnp.concatenate([first, second])), whole) < VALUES


@every_pair
def test_no_steps(cell_name, loop_name):
    cell, (params, carry, xs), v = problem(cell_name)
    loop, none = LOOPS[loop_name], xs[:0]
    last, ys = loop(cell, params, carry, none)
    assert distance(last, carry) == 0
    assert ys.shape == (0, *v[1].shape[1:])
    got = gradient(loop, cell, (params, carry, none), (v[0], ys))
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert distance(got, (zeros, v[0], none)) == 0


@every_pair
def test_a_second_call_compiles_nothing(cell_name, loop_name):
    cell, args, v = problem(cell_name)
    make, loop = CELLS[cell_name], LOOPS[loop_name]
    jitted = jax.jit(gradient, static_argnums=(0, 1))
    jitted(loop, cell, args, v)
    programs = jitted._cache_size()
    jitted(loop, make(5), jax.tree.map(lambda x: x + 1, args), v)
    assert jitted._cache_size() == programs


@every_cell
def test_truncation_beyond_the_end_is_exact(cell_name):
    cell, args, v = problem(cell_name)
    wanted = gradient(jaxrnn.scan, cell, args, v)
    for k1 in (7, 8, 100):
        assert distance(gradient(jaxrnn.truncated(k1), cell, args, v), wanted) < GRADIENTS
    assert distance(gradient(jaxrnn.truncated(6), cell, args, v), wanted) > 1e-4


@every_cell
def test_contributions_of_single_steps_sum_to_the_gradient(cell_name):
    cell, (params, carry, xs), v = problem(cell_name)
    each = jax.tree.map(lambda p: jnp.broadcast_to(p, (7, *p.shape)), params)

    def step(_, carry, at_t):
        params_t, x = at_t
        return cell(params_t, carry, x)

    def value(each):
        return inner(v, jaxrnn.bptt(step, (), carry, (each, xs)))

    summed = jax.tree.map(lambda g: jnp.sum(g, axis=0), jax.grad(value)(each))
    assert distance(summed, gradient(jaxrnn.bptt, cell, (params, carry, xs), v)[0]) < GRADIENTS


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    cell_name=st.sampled_from(list(CELLS)),
    k1=st.none() | st.integers(1, 9),
    length=st.integers(0, 12),
    batch=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    inputs=st.integers(1, 4),
    hidden=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_drawn_shapes(cell_name, k1, length, batch, inputs, hidden, seed):
    cell, args, v = problem(cell_name, length, batch, inputs, hidden, seed)
    loop = jaxrnn.bptt if k1 is None else jaxrnn.truncated(k1)
    judge = jaxrnn.scan if k1 is None else jaxrnn.truncated(k1, loop=jaxrnn.scan)
    for step in (cell, lambda params, carry, x: cell(params, carry, x)):
        assert distance(loop(step, *args), jaxrnn.scan(cell, *args)) < VALUES
        wanted = jax.jit(functools.partial(gradient, judge, cell))(args, v)
        got = jax.jit(functools.partial(gradient, loop, step))(args, v)
        assert distance(got, wanted) < GRADIENTS


@every_cell
def test_strict_dtypes_are_kept(cell_name):
    cell, args, v = problem(cell_name)
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        kept = cell.carry((), dtype)
        params, xs, v_ys = jax.tree.map(lambda x, d=dtype: x.astype(d), (args[0], args[2], v[1]))
        carry, v_carry = (
            jax.tree.map(lambda x, k: x.astype(k.dtype), c, kept) for c in (args[1], v[0])
        )
        last, ys = jaxrnn.bptt(cell, params, carry, xs)
        d_params, d_carry, d_xs = gradient(jaxrnn.bptt, cell, (params, carry, xs), (v_carry, v_ys))
        narrow = jax.tree.leaves((ys, d_params, d_xs))
        assert {leaf.dtype for leaf in narrow} == {jnp.dtype(dtype)}
        for state in (last, d_carry):
            jax.tree.map(lambda x, k: np.testing.assert_equal(x.dtype, k.dtype), state, kept)
