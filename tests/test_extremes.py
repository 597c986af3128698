"""Extreme numbers and sizes: each has one outcome, that of `scan` and of autodiff through it.

Numbers: what is finite under `scan` is finite and equal under every loop, and NaN stands in the
same places, of values and of gradients. Saturated gates have finite values and gradients. Sizes:
no rows have zero gradients, and rows in any number of axes are rows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import SOME_LOOPS, often

import jaxrnn

CELLS, LOOPS = dict(jaxrnn.CELLS), dict(jaxrnn.LOOPS)
T, B, I, H = 4, 2, 2, 3
FEW = ("elman", "gru", "lstm", "lru")
# The adjoint of a norm is another sum than autodiff's, and over- and underflows elsewhere.
# In float16, a rate of decay from the largest number cancels with others. What is cubic overflows,
# and then the order of a sum decides between an infinity and NaN.
NOT_IN_FLOAT16 = ("delta_rule", "selective_ssm")
EQUAL_TO_SCAN = [name for name in CELLS if not name.startswith("layer_norm")]
# Those of `parallel` hold within a tolerance of their own, see tests/loops/test_parallel.py.
EXACT = [name for name in LOOPS if not name.startswith(("scan", "truncated", "parallel"))]
# Products of two projections of an input overflow where each is the largest number.
MULTIPLY_PROJECTIONS = ("mlstm", "delta_rule")
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
some_dtypes = pytest.mark.parametrize("dtype", often(DTYPES, (jnp.float16, jnp.float32)))
some_loops = pytest.mark.parametrize("loop_name", often(LOOPS, ("bptt", "checkpointed")))


def extreme_inputs(dtype, features=(I,)):
    """Inputs by name, in which one number is extreme or all are, and whether that is harmless."""
    limits, plain = jnp.finfo(dtype), np.random.default_rng(0).standard_normal((T, B, *features))

    def with_one(number):
        xs = plain.copy()
        xs[(1, *(0,) * (xs.ndim - 1))] = number
        return xs

    largest = min(1e30, float(limits.max) / 4)
    harmless = {
        "large": with_one(largest),
        "large and negative": with_one(-largest),
        "subnormal": np.full_like(plain, float(limits.smallest_subnormal)),
        "equal": np.full_like(plain, 0.7),
    }
    numbers = {"inf": np.inf, "-inf": -np.inf, "nan": np.nan}
    cases = harmless | {name: with_one(number) for name, number in numbers.items()}
    return list(cases), len(harmless), jnp.asarray(np.stack([*cases.values()]), dtype)


def start(cell, dtype, batch=(B,)):
    params = jax.jit(cell.init, static_argnums=(1, 2))(jax.random.key(0), I, dtype)
    carry = jax.tree.map(lambda c: c + jnp.asarray(0.1, c.dtype), cell.initial_carry(batch, dtype))
    return params, carry


def total(outputs):
    real = [jnp.real(x).astype(float) for x in jax.tree.leaves(outputs)]
    return sum(jnp.sum(x) for x in real)


def ends(loop, step, *args):
    """The outputs, and the gradient of their sum for params, first carry and inputs."""
    grads = jax.grad(lambda *args: total(loop(step, *args)), argnums=(0, 1, 2))(*args)
    return loop(step, *args), grads


compiled = jax.jit(ends, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1))
def ends_of_all(loop, step, params, carry, many_xs):
    return jax.vmap(lambda xs: ends(loop, step, params, carry, xs))(many_xs)


def is_finite(tree):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


def equal(got, wanted, dtype, least=0.0):
    """Equal where finite, within what rounding leaves of a leaf's largest; else the same.

    Gradients that have vanished are all rounding: what is less than `least` is not told apart.
    """
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        wide = np.complex128 if jnp.iscomplexobj(b) else np.float64
        a, b = np.asarray(a, wide), np.asarray(b, wide)
        # Of a complex number that is not finite, which part is NaN is the compiler's choice.
        finite, place = np.isfinite(b), jax.tree_util.keystr(path)
        np.testing.assert_array_equal(np.isfinite(a), finite, err_msg=place)
        if wide == np.float64:
            np.testing.assert_array_equal(a[~finite], b[~finite], err_msg=place)
        limits = jnp.finfo(dtype)
        atol = 20 * float(limits.eps) * np.max(np.abs(b[finite]), initial=least)
        atol += 2 * float(limits.smallest_subnormal)
        np.testing.assert_allclose(a[finite], b[finite], rtol=0, atol=atol, err_msg=place)


def extremes_equal_those_of_scan(cell_name, loop, dtype):
    cell = CELLS[cell_name](H)
    names, harmless, many_xs = extreme_inputs(dtype, cell.feature_shape(I))
    args = *start(cell, dtype), many_xs
    wanted = ends_of_all(jaxrnn.scan, cell, *args)
    for step in (cell, lambda *args: cell(*args)):
        all_ends = ends_of_all(loop, step, *args)
        for n, name in enumerate(names):
            got, of_scan = (jax.tree.map(lambda x, n=n: x[n], e) for e in (all_ends, wanted))
            # What a linear cell makes of the largest numbers can be too large to be summed up.
            is_bounded = dtype != jnp.float16 or cell_name in ("elman", "gru", "lstm")
            # What enters the state of the selective SSM is cubic in its input.
            is_cubic = "large" in name and cell_name == "selective_ssm"
            may_overflow = is_cubic or cell_name in MULTIPLY_PROJECTIONS
            if n < harmless and is_bounded and not may_overflow:
                assert is_finite(got), name
            equal(got, of_scan, dtype)


@pytest.mark.parametrize(
    "case",
    often(
        [
            (cell, dtype)
            for cell in EQUAL_TO_SCAN
            for dtype in DTYPES
            if dtype != jnp.float16 or cell not in NOT_IN_FLOAT16
        ],
        [(cell, jnp.float32) for cell in FEW] + [("elman", dtype) for dtype in DTYPES],
    ),
    ids=lambda case: f"{case[0]}-{case[1].__name__}",
)
def test_extreme_inputs_give_what_scan_gives(case):
    cell_name, dtype = case
    extremes_equal_those_of_scan(cell_name, jaxrnn.bptt, dtype)


@pytest.mark.parametrize("cell_name", often(EQUAL_TO_SCAN, ("lstm",)))
@pytest.mark.parametrize("loop_name", [name for name in EXACT if name != "bptt"])
def test_extreme_inputs_give_what_scan_gives_under_every_exact_loop(loop_name, cell_name):
    extremes_equal_those_of_scan(cell_name, LOOPS[loop_name], jnp.float32)


@pytest.mark.parametrize("name", ["elman", "gru", "lstm"])
def test_an_infinite_input_saturates_and_makes_the_slope_of_its_weights_nan(name):
    """What the outcome is, and not only that it is scan's."""
    cell = CELLS[name](H)
    xs = jnp.ones((T, B, I)).at[1, 0, 0].set(-jnp.inf)
    outputs, (d_params, d_carry, d_xs) = compiled(jaxrnn.bptt, cell, *start(cell, float), xs)
    assert is_finite((outputs, d_carry, d_xs))
    assert np.isnan(d_params["w_x"][0]).all()  # ∞ times a slope of 0
    assert is_finite((d_params["w_x"][1], d_params["w_h"], d_params["b"]))


def factor_of(cell_name, dtype):
    """So large that no gate is nearly saturated, where its slope would be a rounding times weights;
    but what is unbounded stays within float16, and a softplus of itself within what is well-posed.
    """
    if cell_name in ("min_gru", "min_lstm", *MULTIPLY_PROJECTIONS):
        return 30
    if cell_name == "selective_ssm":
        return 2 if dtype == jnp.float16 else 30
    if cell_name == "rg_lru" and dtype == jnp.float16:
        return 30
    if cell_name in ("indrnn", "elman_softplus"):
        return 4 if cell_name == "elman_softplus" or dtype == jnp.float16 else 30
    return 1e4 if dtype == jnp.float16 else 1e8


@some_dtypes
@pytest.mark.parametrize("cell_name", often([n for n in CELLS if n not in ("lru", "s5")], FEW))
def test_saturated_gates_have_finite_values_and_gradients(cell_name, dtype):
    cell = CELLS[cell_name](H)
    params, carry = start(cell, dtype)
    shape = (T, B, *cell.feature_shape(I))
    xs = jnp.asarray(np.random.default_rng(1).standard_normal(shape), dtype)
    size = factor_of(cell_name, dtype)
    for factor in (size, -size):
        large = jax.tree.map(lambda p, f=factor: p * jnp.asarray(f, p.dtype), params)
        got = compiled(jaxrnn.bptt, cell, large, carry, xs)
        assert is_finite(got)
        if cell_name in EQUAL_TO_SCAN:
            equal(got, compiled(jaxrnn.scan, cell, large, carry, xs), dtype, least=1.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("nu_log", [1e4, 20.0, -1e4])
def test_modes_of_lru_that_forget_or_keep_all_have_finite_gradients(nu_log, dtype):
    cell = jaxrnn.lru(H)
    params, carry = start(cell, dtype)
    params["nu_log"] = jnp.full_like(params["nu_log"], nu_log)
    got = compiled(jaxrnn.bptt, cell, params, carry, jnp.ones((T, B, I), dtype))
    assert is_finite(got)
    assert (got[1][0]["nu_log"] == 0).all()
    # Nothing of the first carry is left, or nothing is lost.
    assert bool((got[1][1] == 0).all()) == (nu_log > 0)


@pytest.mark.parametrize("name", ["lambda_re", "log_step"])
def test_modes_of_s5_that_forget_all_have_finite_gradients(name):
    cell = jaxrnn.s5(H, 2 * H)
    params, carry = start(cell, jnp.float32)
    params[name] = jnp.full_like(params[name], {"lambda_re": -1e8, "log_step": 1e4}[name])
    got = compiled(jaxrnn.bptt, cell, params, carry, jnp.ones((T, B, I), jnp.float32))
    assert is_finite(got)
    assert (got[1][1] == 0).all()  # nothing of the first carry is left


@pytest.mark.parametrize("r_max", [1.0, 1e-4, 1e-30])
@every_dtype
def test_lru_starts_finite_on_the_smallest_ring(r_max, dtype):
    cell = jaxrnn.lru(H, r_max=r_max)
    params, carry = start(cell, dtype)
    assert is_finite(params)
    assert is_finite(compiled(jaxrnn.bptt, cell, params, carry, jnp.ones((T, B, I), dtype)))


@pytest.mark.parametrize("form", ["cell", "plain"])
def test_nothing_crosses_where_randomized_cuts_not_even_what_overflowed(form):
    """0 · ∞ would be NaN; here every λ overflows on its way back."""
    cell = jaxrnn.indrnn(1)
    step = cell if form == "cell" else lambda *args: cell(*args)
    loop = jaxrnn.randomized(jax.random.key(0), 1e-9)  # cuts before each step
    one = jnp.ones(1, jnp.float32)
    params = {"w_x": one[:, None] * 1e-30, "u": one * 1e30, "b": one * 0}

    def value(carry, xs):
        return 1e30 * loop(step, params, carry, xs)[0][0]

    d_carry, d_xs = jax.grad(value, argnums=(0, 1))(0 * one, jnp.ones((3, 1), jnp.float32))
    assert d_carry == 0
    np.testing.assert_allclose(d_xs, [[0], [0], [1]], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("loop_name", often(LOOPS, SOME_LOOPS))
@pytest.mark.parametrize("cell_name", often(CELLS, ("lstm", "lru")))
def test_one_unit_and_few_steps(cell_name, loop_name, steps):
    if cell_name.startswith("layer_norm"):
        pytest.skip("of one unit a norm leaves nothing: gradients are rounding")
    cell = CELLS[cell_name](1)
    args = *start(cell, float), jnp.ones((steps, B, *cell.feature_shape(I)))
    judge = jaxrnn.truncated(4, loop=jaxrnn.scan)  # beyond the end, so exact
    equal(compiled(LOOPS[loop_name], cell, *args), compiled(judge, cell, *args), float)


def unrolled(cell, loop, params, carry, xs, mask, reset):
    def value(params, carry, xs):
        outputs = jaxrnn.unroll(cell, params, xs, carry=carry, loop=loop, mask=mask, reset=reset)
        return total(outputs), outputs

    return jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)(params, carry, xs)


@pytest.mark.parametrize("loop_name", often(LOOPS, ("bptt", "truncated:2:5")))
@pytest.mark.parametrize("cell_name", often(CELLS, ("lstm",)))
def test_ten_batch_axes_are_one(cell_name, loop_name):
    cell, axes, rng = CELLS[cell_name](H), (1, 2, 1, 1, 1, 2, 1, 1, 1, 1), np.random.default_rng(0)
    features = cell.feature_shape(I)
    params, carry = start(cell, float, (4,))
    carry = jax.tree.map(lambda c: c * jnp.asarray(rng.standard_normal(c.shape), c.dtype), carry)
    marks = rng.random((2, T, 4)) < 0.7
    rows = carry, jnp.asarray(rng.standard_normal((T, 4, *features))), *map(jnp.asarray, marks)

    def spread(x, lead):
        return x.reshape(*x.shape[:lead], *axes, *x.shape[lead + 1 :])

    many = jax.tree.map(lambda c: spread(c, 0), carry), *(spread(x, 1) for x in rows[1:])
    run = jax.jit(unrolled, static_argnums=(0, 1))
    got, wanted = (run(cell, LOOPS[loop_name], params, *r) for r in (many, rows))
    flat = jax.tree.map(lambda a, b: a.reshape(b.shape), got, wanted)
    assert jax.tree.leaves(got)[-1].shape == (T, *axes, *features)
    equal(flat, wanted, float)


@pytest.mark.parametrize(("steps", "batch"), [(0, (0,)), (5, (2, 0))], ids=str)
@some_loops
@pytest.mark.parametrize("cell_name", often(CELLS, ("gru", "lru")))
def test_no_rows_have_no_gradient(cell_name, loop_name, batch, steps):
    cell, mask = CELLS[cell_name](H), jnp.ones((steps, *batch), bool)
    params, carry = start(cell, float, batch)
    args = params, carry, jnp.ones((steps, *batch, *cell.feature_shape(I))), mask, mask
    (value, (last, ys)), grads = unrolled(cell, LOOPS[loop_name], *args)
    assert value == 0
    outputs = cell.feature_shape(H // 2 if cell_name == "projected_lstm" else H)
    assert ys.shape == (steps, *batch, *outputs)
    forms = [jax.tree.map(jnp.shape, tree) for tree in ((last, *grads), (carry, *args[:3]))]
    assert forms[0] == forms[1]
    assert all((g == 0).all() for g in jax.tree.leaves(grads[0]))


def test_an_update_on_no_rows_changes_nothing():
    cell = jaxrnn.gru(H)

    def loss(params, carry, xs, key):
        carry, hs = jaxrnn.unroll(cell, params, xs, carry=carry)
        return jaxrnn.masked_mean(optax.l2_loss, hs, jnp.zeros_like(hs)), (carry, {})

    trainer = jaxrnn.training.trainer(loss, optax.sgd(0.1))
    state = trainer.init(
        cell.init(jax.random.key(0), I), jax.random.key(1), cell.initial_carry((0,))
    )
    new, metrics = trainer.update(state, jnp.zeros((T, 0, I), jnp.float32))
    equal(new.params, state.params, jnp.float32)
    assert (metrics["loss"], metrics["grad_norm"]) == (0, 0)
