"""Masks, resets and directions against a Python loop over single rows without padding, float64."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from reference import distance, inner, often
from reference import noise as drawn

import jaxrnn
from jaxrnn.types import window_start_of

VALUES, GRADIENTS = 1e-13, 1e-12
T, B, I, H = 6, 3, 2, 4

CELLS, LOOPS = dict(jaxrnn.CELLS), dict(jaxrnn.LOOPS)


class Options(NamedTuple):
    """What is asked of `unroll` beside the arrays."""

    masked: bool = True
    resets: bool = True
    learned: bool = False
    reverse: bool = False


def plain(params, carry, x):
    """No Cell: a leaky sum of inputs, whose carry is a dict."""
    total = params["decay"] * carry["total"] + jnp.tanh(x @ params["w"])
    return {"total": total}, total**2


@functools.cache
def problem(name, batch=(B,)):
    """A step, (params, carry, xs, reset_carry), and random cotangents of its outputs."""
    noise = functools.partial(drawn, np.random.default_rng(0))
    with jax.enable_x64(True):
        if name == "plain":
            step, carry = plain, {"total": jnp.zeros((*batch, H))}
            params = {"decay": jnp.asarray(0.8), "w": noise(jnp.zeros((I, H)))}
        else:
            step = CELLS[name](H)
            carry = step.initial_carry(batch, jnp.float64)
            params = step.init(jax.random.key(0), I, jnp.float64)
            params = jax.tree.map(lambda p, n: p + 0.1 * n, params, noise(params))
        xs = noise(jnp.zeros((T, *batch, *getattr(step, "feature_shape", lambda n: (n,))(I))))
        args = params, noise(carry), xs, noise(carry)
        last, y = jax.eval_shape(step, params, carry, args[2][0])
        v = noise((last, jax.ShapeDtypeStruct((T, *y.shape), y.dtype)))
    return step, args, v


def row_by_row(step, args, mask, reset, *, options, reach=lambda s: 0):
    """What `unroll` has to give: every row alone, its masked steps left out, its resets obeyed.

    The output of step s sees no gradient before step `reach(s)`; s counts the steps of the array as
    they run. Each row is run once for every step that is the beginning of a window.
    """
    params, carry, xs, start = args
    if not options.learned:
        start = jax.tree.map(jnp.zeros_like, carry)
    lasts, rows = [], []
    times = range(T)[::-1] if options.reverse else range(T)

    def one(row, begin):
        """The last carry and the outputs of a row, all before step `begin` held constant."""
        c = jax.tree.map(lambda x: x[row], carry)
        zero = jax.tree.map(lambda x: x[row], start)
        ys = {}
        for s, t in enumerate(times):
            c = jax.tree.map(lax.stop_gradient, c) if s == begin > 0 else c
            border = t + 1 if options.reverse else t
            if options.resets and border < T and reset[border, row]:
                c = zero
            if mask[t, row] or not options.masked:
                c, ys[s] = step(params, c, xs[t, row])
            else:
                like = jax.eval_shape(step, params, c, xs[t, row])[1]
                ys[s] = jnp.zeros(like.shape, like.dtype)
        return c, ys

    for row in range(xs.shape[1]):
        windows = {begin: one(row, begin) for begin in sorted({reach(s) for s in range(T)})}
        lasts.append(windows[reach(T - 1)][0])
        in_order = [windows[reach(s)][1][s] for s in range(T)]
        rows.append(jnp.stack(in_order[::-1] if options.reverse else in_order))
    return jax.tree.map(lambda *cs: jnp.stack(cs), *lasts), jnp.stack(rows, axis=1)


def unrolled(step, args, mask, reset, *, options, loop):
    """`unroll`, with NaN in the padding."""
    params, carry, xs, start = args
    keywords = {}
    if options.masked:
        keywords["mask"] = mask
        xs = jnp.where(mask[..., None], xs, jnp.nan)
    if options.resets:
        keywords["reset"] = reset
        if options.learned:
            keywords["reset_carry"] = start
        elif step is plain:
            keywords["reset_carry"] = jax.tree.map(jnp.zeros_like, carry)
    return jaxrnn.unroll(
        step, params, xs, carry=carry, loop=loop, reverse=options.reverse, **keywords
    )


def with_gradient(run, v):
    """Outputs, and the gradient of their product with v for all arguments."""

    def value(args, mask, reset):
        outputs = run(args, mask, reset)
        return inner(v, outputs), outputs

    return jax.grad(value, has_aux=True)


@functools.cache
def ours(name, loop_name, options):
    """Compiled once for all patterns."""
    step, _, v = problem(name)
    run = functools.partial(unrolled, step, options=options, loop=LOOPS[loop_name])
    return jax.jit(with_gradient(run, v))


def assert_equal_to_rows(name, loop_name, options, mask, reset):
    step, args, v = problem(name)
    reach = window_start_of(LOOPS[loop_name]) or (lambda s: 0)
    reference = functools.partial(row_by_row, step, options=options, reach=reach)
    wanted, outputs = with_gradient(reference, v)(args, mask, reset)
    got, got_outputs = ours(name, loop_name, options)(args, mask, reset)
    assert distance(got_outputs, outputs) < VALUES
    assert distance(got, wanted) < GRADIENTS
    silent = np.asarray(~mask) if options.masked else np.zeros((T, B), bool)
    assert not np.any(np.asarray(got_outputs[1])[silent])
    assert not np.any(np.asarray(got[2])[silent])


def pattern(chance, seed=0):
    return np.random.default_rng(seed).random((T, B)) < chance


ALL = [
    Options(resets=False),
    Options(masked=False),
    Options(),
    Options(learned=True),
    Options(reverse=True),
    Options(learned=True, reverse=True),
]


def title(options):
    return "-".join(name for name, on in options._asdict().items() if on)


# The others put marks around the same steps: of them what has everything on.
OFTEN = ("bptt",)


@pytest.mark.parametrize(
    ("loop_name", "options"),
    [
        pytest.param(
            loop,
            options,
            id=f"{loop}-{title(options)}",
            marks=[] if loop in OFTEN or options.learned else pytest.mark.thorough,
        )
        for loop in LOOPS
        for options in ALL
    ],
)
def test_rows_of_every_loop_equal_rows_alone(loop_name, options):
    assert_equal_to_rows("lstm", loop_name, options, pattern(0.6), pattern(0.3, seed=1))


SOME_CELLS = ("elman", "gru", "layer_norm_lstm", "lru", "plain")


@pytest.mark.parametrize("name", often([*CELLS, "plain"], SOME_CELLS))
def test_rows_of_every_cell_equal_rows_alone(name):
    assert_equal_to_rows(name, "bptt", Options(learned=True), pattern(0.6), pattern(0.3, seed=1))


patterns = st.lists(st.booleans(), min_size=T * B, max_size=T * B).map(
    lambda marks: np.reshape(marks, (T, B))
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    mask=patterns,
    reset=patterns,
    name=st.sampled_from(["gru", "plain"]),
    loop_name=st.sampled_from(["bptt", "truncated:4"]),
    reverse=st.booleans(),
)
def test_drawn_patterns(mask, reset, name, loop_name, reverse):
    options = Options(learned=name == "plain", reverse=reverse)
    assert_equal_to_rows(name, loop_name, options, mask, reset)


@pytest.mark.parametrize("options", [Options(), Options(reverse=True)], ids=title)
def test_rows_that_are_all_padding_hand_their_carry_on(options):
    mask = pattern(0.6) & np.array([True, False, True])
    step, args, _ = problem("lstm")
    last, ys = unrolled(
        step, args, mask, None, options=options._replace(resets=False), loop=jaxrnn.bptt
    )
    assert distance(last.h[1], args[1].h[1]) == 0
    assert not np.any(ys[:, 1])
    assert_equal_to_rows("lstm", "bptt", options, mask, pattern(0.3))


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_any_number_of_batch_axes(batch):
    step, (params, carry, xs, start), _ = problem("gru", batch)
    rng = np.random.default_rng(0)
    mask, reset = (jnp.asarray(rng.random((T, *batch)) < chance) for chance in (0.6, 0.3))
    flat = (np.reshape(x, (T, -1, *x.shape[1 + len(batch) :])) for x in (xs, mask, reset))
    flat_xs, flat_mask, flat_reset = flat
    last, ys = jaxrnn.unroll(
        step, params, xs, carry=carry, mask=mask, reset=reset, reset_carry=start
    )
    flat_last, flat_ys = jaxrnn.unroll(
        step,
        params,
        flat_xs,
        carry=np.reshape(carry, (-1, H)),
        mask=flat_mask,
        reset=flat_reset,
        reset_carry=np.reshape(start, (-1, H)),
    )
    assert distance(last, np.reshape(flat_last, last.shape)) < VALUES
    assert distance(ys, np.reshape(flat_ys, ys.shape)) < VALUES


def test_what_fills_the_padding_can_be_chosen():
    """A plain Step may have no slope at zero."""

    def step(params, h, x):
        h = 0.9 * h + jnp.log(params * x)
        return h, h

    xs = jnp.asarray(np.random.default_rng(0).random((T, B))) + 0.5
    mask = jnp.asarray(pattern(0.6))

    def gradient(padding, **keywords):
        def value(params, xs):
            padded = jnp.where(mask, xs, padding)
            h, ys = jaxrnn.unroll(step, params, padded, carry=xs[0], mask=mask, **keywords)
            return jnp.sum(h) + jnp.sum(ys)

        return jax.grad(value, argnums=(0, 1))(jnp.asarray(0.9), xs)

    assert distance(gradient(jnp.nan, fill_value=1.0), gradient(1.0, fill_value=2.0)) < VALUES
    assert not np.isfinite(gradient(jnp.nan)[0])


def test_lengths_are_a_mask():
    step, (params, carry, xs, _), _ = problem("lstm")
    lengths = np.array([0, 4, T], np.uint8)
    mask = np.arange(T)[:, None] < lengths
    assert np.array_equal(jaxrnn.lengths_to_mask(lengths, T), mask)
    by_lengths = jaxrnn.unroll(step, params, xs, carry=carry, lengths=lengths)
    assert distance(by_lengths, jaxrnn.unroll(step, params, xs, carry=carry, mask=mask)) == 0
    last = step.output(params, by_lengths[0])
    assert (
        distance(last[1:], np.stack([by_lengths[1][n - 1, row] for row, n in ((1, 4), (2, T))]))
        == 0
    )


def test_lengths_in_bytes_reach_beyond_255_steps():
    mask = jaxrnn.lengths_to_mask(np.array([3, 255], np.uint8), 300)
    assert np.sum(mask, axis=0).tolist() == [3, 255]


def test_traced_lengths_are_clipped():
    mask = jax.jit(jaxrnn.lengths_to_mask, static_argnums=1)(jnp.array([-3, 2, 99]), T)
    assert np.array_equal(mask, np.arange(T)[:, None] < np.array([0, 2, T]))


def test_a_reset_is_the_beginning_of_another_sequence():
    step, (params, carry, xs, _), _ = problem("lstm")
    reset = np.zeros((T, B), bool)
    reset[4] = True
    last, ys = jaxrnn.unroll(step, params, xs, carry=carry, reset=reset)
    _, first = jaxrnn.unroll(step, params, xs[:4], carry=carry)
    second = jaxrnn.unroll(step, params, xs[4:])
    assert distance((last, ys), (second[0], jnp.concatenate([first, second[1]]))) < VALUES


@pytest.mark.parametrize("name", ["gru", "plain"])
def test_nothing_of_a_nan_crosses_a_reset(name):
    step, (params, carry, xs, start), _ = problem(name)
    reset = np.zeros((T, B), bool)
    reset[0] = True

    def value(params, xs, carry):
        keywords = {"reset": reset, "reset_carry": start}
        return jnp.sum(jaxrnn.unroll(step, params, xs, carry=carry, **keywords)[1])

    nan = jax.tree.map(lambda c: c * jnp.nan, carry)
    total, grads = jax.value_and_grad(value, argnums=(0, 1, 2))(params, xs, nan)
    assert np.isfinite(total)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    assert not any(np.any(g) for g in jax.tree.leaves(grads[2]))


@pytest.mark.parametrize("loop_name", LOOPS)
def test_two_halves_equal_the_whole_with_masks_and_resets(loop_name):
    step, (params, carry, xs, start), _ = problem("lstm")
    mask, reset = jnp.asarray(pattern(0.6)), jnp.asarray(pattern(0.3, seed=1)).at[3].set(True)
    run = jax.jit(
        lambda xs, carry, mask, reset: jaxrnn.unroll(
            step,
            params,
            xs,
            carry=carry,
            mask=mask,
            reset=reset,
            reset_carry=start,
            loop=LOOPS[loop_name],
        )
    )
    middle, first = run(xs[:3], carry, mask[:3], reset[:3])
    last, second = run(xs[3:], middle, mask[3:], reset[3:])
    assert distance((last, jnp.concatenate([first, second])), run(xs, carry, mask, reset)) < VALUES


@pytest.mark.parametrize("loop_name", often(LOOPS, ("bptt", "checkpointed")))
def test_gradient_of_a_gradient_and_vmap_under_masks_and_resets(loop_name):
    """Against `scan`, whose way through the masks is checked above."""
    step, (params, carry, xs, start), _ = problem("lstm")
    mask, reset = jnp.asarray(pattern(0.6)), jnp.asarray(pattern(0.3, seed=1))
    judge = jaxrnn.scan
    if window_start_of(LOOPS[loop_name]) is not None:
        judge = jaxrnn.truncated(*map(int, re.findall(r"\d+", loop_name)), loop=jaxrnn.scan)

    def of_a_row(loop, args, mask, reset):
        def value(args):
            params, carry, xs, start = args
            last, ys = jaxrnn.unroll(
                step, params, xs, carry=carry, mask=mask, reset=reset, reset_carry=start, loop=loop
            )
            return jnp.sum(jnp.sin(ys)) + jnp.sum(last.c**3)

        def slope(args):
            pairs = zip(jax.tree.leaves(jax.grad(value)(args)), jax.tree.leaves(args), strict=True)
            return sum(jnp.vdot(g, jnp.cos(x)) for g, x in pairs)

        return jax.grad(value)(args), jax.grad(slope)(args)

    def mapped(loop):
        rows = jax.vmap(functools.partial(of_a_row, loop), in_axes=((None, 0, 1, 0), 1, 1))
        return jax.jit(rows)((params, carry, xs, start), mask, reset)

    assert distance(mapped(LOOPS[loop_name]), mapped(judge)) < GRADIENTS


@pytest.mark.parametrize("length", [0, 1])
def test_no_step_and_one(length):
    step, (params, carry, xs, start), _ = problem("lstm")
    mask, reset = pattern(0.5)[:length], pattern(0.5, seed=1)[:length]

    def outputs(loop, reverse):
        def value(args):
            params, carry, xs, start = args
            keywords = {"mask": mask, "reset": reset, "reset_carry": start, "reverse": reverse}
            last, ys = jaxrnn.unroll(step, params, xs, carry=carry, loop=loop, **keywords)
            return jnp.sum(last.h) + jnp.sum(ys), (last, ys)

        return jax.grad(value, has_aux=True)((params, carry, xs[:length], start))

    for reverse in (False, True):
        grads, (last, ys) = outputs(jaxrnn.bptt, reverse)
        assert ys.shape == (length, B, H)
        assert distance((grads, last, ys), outputs(jaxrnn.scan, reverse)) < GRADIENTS


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtypes_are_kept_under_masks_and_resets(dtype):
    step, args, _ = problem("gru")
    params, carry, xs, start = jax.tree.map(lambda x: x.astype(dtype), args)

    def value(params, xs):
        keywords = {"mask": pattern(0.6), "reset": pattern(0.3), "reset_carry": start}
        last, ys = jaxrnn.unroll(step, params, xs, carry=carry, **keywords)
        return jnp.sum(ys) + jnp.sum(last)

    result = jax.value_and_grad(value, argnums=(0, 1))(params, xs)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype(dtype)}


def test_patterns_are_data_and_compile_nothing_anew():
    step, args, _ = problem("gru")
    run = jax.jit(
        functools.partial(unrolled, step, options=Options(learned=True), loop=jaxrnn.bptt)
    )
    for seed in range(3):
        run(args, jnp.asarray(pattern(0.6, seed)), jnp.asarray(pattern(0.3, seed)))
    assert run._cache_size() == 1
