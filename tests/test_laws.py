"""The laws that every cell and every loop obeys (DESIGN), in float64.

Compiling is what they cost, so what several of them need is one program: `run_and_differentiate`
for the judge and the judged, each once for each pair of a loop and a cell.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import SOME_LOOPS, distance, inner, noise, often, run, windowed_scan

import jaxrnn
from jaxrnn.types import window_start_of

VALUES, GRADIENTS, DIFFERENCES = 1e-13, 1e-12, 1e-6

CELLS = dict(jaxrnn.CELLS)
LOOPS = dict(jaxrnn.LOOPS) | {"fused": jaxrnn.fused(interpret=True)}
# A kernel has no complex numbers.
COMPLEX = ("lru", "s5")
# Loops know nothing of cells: what is neither the default loop nor one of these is left to
# `pytest -m thorough` and to `jaxrnn certify`. These differ in their carries: real and complex; the
# LSTM's two arrays are met where gradients are differentiated or mapped, and in tests/loops.
SOME_CELLS = ("elman", "lru")


every_cell = pytest.mark.parametrize("cell_name", CELLS)
few_cells = pytest.mark.parametrize("cell_name", often(CELLS, ("gru", "lstm", "indrnn", "lru")))
some_cells = pytest.mark.parametrize("cell_name", often(CELLS, SOME_CELLS))


def pairs(loops, some=SOME_CELLS, under_bptt=CELLS):
    """Every loop with every cell, those marked as thorough that need not be run each time."""
    return pytest.mark.parametrize(
        ("loop_name", "cell_name"),
        [
            pytest.param(loop, cell, marks=[] if each_time else pytest.mark.thorough)
            for loop in loops
            for cell in CELLS
            if loop != "fused" or cell not in COMPLEX
            for each_time in [cell in (under_bptt if loop == "bptt" else some)]
        ],
    )


JUDGED = [name for name in LOOPS if name != "scan"]
every_pair = pairs(LOOPS)
every_judged_pair = pairs(JUDGED)
# Where the judge is JAX's own: its loop with one cell, every cell with ours.
every_pair_once = pairs(LOOPS, some=("lstm",))
# What a cell has by hand is differentiated by JAX where it is differentiated again.
COSTLY = ("elman", "gru", "lstm", "layer_norm_gru", "lru")
pairs_mapped = pairs(LOOPS, some=("lstm",), under_bptt=COSTLY)
pairs_twice_differentiated = pairs(JUDGED, some=("elman",), under_bptt=COSTLY)


@functools.cache
def problem(cell_name, length=7, batch=(3,), inputs=4, hidden=6, seed=0):
    """A cell, arguments in general position, and random cotangents of its outputs."""
    cell = CELLS[cell_name](hidden)
    rng = np.random.default_rng(seed)

    with jax.enable_x64(True):
        init = jax.jit(cell.init, static_argnums=(1, 2))
        params = init(jax.random.key(seed), inputs, jnp.float64)
        params = jax.tree.map(lambda p, n: p + 0.1 * n, params, noise(rng, params))
        carry = noise(rng, cell.initial_carry(batch, jnp.float64))
        xs = noise(
            rng, jax.ShapeDtypeStruct((length, *batch, *cell.feature_shape(inputs)), jnp.float64)
        )
        v = noise(rng, jax.eval_shape(functools.partial(jaxrnn.scan, cell), params, carry, xs))
    return cell, (params, carry, xs), v


def gradient(loop, cell, args, v):
    return jax.grad(lambda args: inner(v, loop(cell, *args)))(args)


compiled_gradient = jax.jit(gradient, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1))
def run_and_differentiate(loop, cell, args, v):
    """The outputs of the whole and, handed over after three steps, of two halves; the gradient."""
    params, carry, xs = args
    middle, first = loop(cell, params, carry, xs[:3])
    last, second = loop(cell, params, middle, xs[3:])
    halves = last, jnp.concatenate([first, second])
    return loop(cell, *args), halves, gradient(loop, cell, args, v)


@functools.cache
def judge_of(loop):
    """`scan`, or for a loop that cuts a `scan` for each window, of the same reach."""
    reach = window_start_of(loop)
    return jaxrnn.scan if reach is None else functools.partial(windowed_scan, reach=reach)


@every_cell
def test_forward_equals_the_equations_in_numpy(cell_name):
    """Step by step, and with the inputs of all steps multiplied beforehand."""
    cell, args, v = problem(cell_name)
    wanted = run(cell_name, *args)
    for loop in (jaxrnn.scan, jaxrnn.bptt):
        outputs, _, _ = run_and_differentiate(loop, cell, args, v)
        assert distance(outputs, wanted) < VALUES


@every_judged_pair
def test_values_and_gradient_equal_autodiff(cell_name, loop_name):
    cell, args, v = problem(cell_name)
    outputs, halves, got = run_and_differentiate(LOOPS[loop_name], cell, args, v)
    wanted_outputs, _, _ = run_and_differentiate(jaxrnn.scan, cell, args, v)
    assert distance(outputs, wanted_outputs) < VALUES
    assert distance(halves, wanted_outputs) < VALUES
    judge = judge_of(LOOPS[loop_name])
    assert distance(got, run_and_differentiate(judge, cell, args, v)[2]) < GRADIENTS


@pytest.mark.parametrize("loop_name", often(LOOPS, SOME_LOOPS))
def test_it_is_the_same_without_jit(loop_name):
    cell, args, v = problem("lstm")
    loop = LOOPS[loop_name]
    outputs, _, wanted = run_and_differentiate(loop, cell, args, v)
    assert distance(loop(cell, *args), outputs) < VALUES
    assert distance(gradient(loop, cell, args, v), wanted) < GRADIENTS


@pairs_mapped
def test_gradient_of_a_vmap_equals_the_gradients_of_its_rows(cell_name, loop_name):
    cell, (params, carry, xs), v = problem(cell_name)
    loop = LOOPS[loop_name]
    # Rows are unbatched here: the batch axis is mapped over, first in carries, second in series.
    rows = ((None, 0, 1), (0, 1))
    mapped = jax.jit(jax.vmap(functools.partial(gradient, loop, cell), in_axes=rows))
    got = mapped((params, carry, xs), v)
    for row in range(xs.shape[1]):
        at_row = jax.tree.map(lambda c, row=row: c[row], carry), xs[:, row]
        v_row = jax.tree.map(lambda x, row=row: x[row], v[0]), v[1][:, row]
        wanted = compiled_gradient(judge_of(loop), cell, (params, *at_row), v_row)
        assert distance(jax.tree.map(lambda g, row=row: g[row], got), wanted) < GRADIENTS


@pairs_twice_differentiated
def test_gradient_of_a_gradient_equals_autodiff(cell_name, loop_name):
    cell, args, v = problem(cell_name, length=5, batch=(2,), inputs=2, hidden=3)
    direction = jax.tree.map(jnp.cos, args)

    def slope(args, loop):
        return inner(direction, gradient(loop, cell, args, v))

    second = jax.jit(jax.grad(slope), static_argnums=1)
    loop = LOOPS[loop_name]
    assert distance(second(args, loop), second(args, judge_of(loop))) < GRADIENTS


@few_cells  # the others have their certificate
def test_gradient_equals_finite_differences(cell_name):
    cell, args, v = problem(cell_name)
    _, _, got = run_and_differentiate(jaxrnn.bptt, cell, args, v)
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
def test_no_steps(cell_name, loop_name):
    cell, (params, carry, xs), v = problem(cell_name)
    loop, none = LOOPS[loop_name], xs[:0]
    last, ys = loop(cell, params, carry, none)
    assert distance(last, carry) == 0
    assert ys.shape == (0, *v[1].shape[1:])
    got = gradient(loop, cell, (params, carry, none), (v[0], ys))
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert distance(got, (zeros, v[0], none)) == 0


@every_pair_once
def test_a_second_call_compiles_nothing(cell_name, loop_name):
    cell, args, v = problem(cell_name)
    make, loop = CELLS[cell_name], LOOPS[loop_name]
    jitted = jax.jit(gradient, static_argnums=(0, 1))
    jitted(loop, cell, args, v)
    programs = jitted._cache_size()
    jitted(loop, make(6), jax.tree.map(lambda x: x + 1, args), v)
    assert jitted._cache_size() == programs


@some_cells
def test_truncation_beyond_the_end_is_exact(cell_name):
    cell, args, v = problem(cell_name)
    _, _, wanted = run_and_differentiate(jaxrnn.scan, cell, args, v)
    for k1 in (7, 8, 100):
        got = compiled_gradient(jaxrnn.truncated(k1), cell, args, v)
        assert distance(got, wanted) < GRADIENTS
    assert distance(compiled_gradient(jaxrnn.truncated(6), cell, args, v), wanted) > 1e-4


@some_cells
def test_contributions_of_single_steps_sum_to_the_gradient(cell_name):
    cell, (params, carry, xs), v = problem(cell_name)
    each = jax.tree.map(lambda p: jnp.broadcast_to(p, (7, *p.shape)), params)

    def step(_, carry, at_t):
        params_t, x = at_t
        return cell(params_t, carry, x)

    def value(each):
        return inner(v, jaxrnn.bptt(step, (), carry, (each, xs)))

    summed = jax.tree.map(lambda g: jnp.sum(g, axis=0), jax.jit(jax.grad(value))(each))
    _, _, (d_params, _, _) = run_and_differentiate(jaxrnn.bptt, cell, (params, carry, xs), v)
    assert distance(summed, d_params) < GRADIENTS


@settings(max_examples=6, deadline=None, derandomize=True)
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
    # Of one or two units a norm leaves signs, and gradients that are rounding.
    assume(hidden > 2 or not cell_name.startswith("layer_norm"))
    cell, args, v = problem(cell_name, length, batch, inputs, hidden, seed)
    loop = jaxrnn.bptt if k1 is None else jaxrnn.truncated(k1)
    judge = jaxrnn.scan if k1 is None else jaxrnn.truncated(k1, loop=jaxrnn.scan)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def result(loop, step, args, v):
        return loop(step, *args), gradient(loop, step, args, v)

    outputs, wanted = result(judge, cell, args, v)
    for step in (cell, lambda params, carry, x: cell(params, carry, x)):
        got_outputs, got = result(loop, step, args, v)
        assert distance(got_outputs, outputs) < VALUES
        assert distance(got, wanted) < GRADIENTS


@every_cell
def test_strict_dtypes_are_kept(cell_name):
    """Types are known without running anything; the first error would be one of promotion."""
    cell, args, v = problem(cell_name)
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        kept = jax.eval_shape(lambda dtype=dtype: cell.initial_carry((3,), dtype))
        of_dtype = functools.partial(jax.tree.map, lambda x, d=dtype: like(x, d))
        params, xs, v_ys = of_dtype((args[0], args[2], v[1]))
        outputs = jax.eval_shape(functools.partial(jaxrnn.bptt, cell), params, kept, xs)
        of_bptt = functools.partial(gradient, jaxrnn.bptt, cell)
        grads = jax.eval_shape(of_bptt, (params, kept, xs), (kept, v_ys))
        assert grads == (params, kept, xs)
        assert outputs == (kept, v_ys)


def like(x, dtype):
    return jax.ShapeDtypeStruct(x.shape, dtype)
