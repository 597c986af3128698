"""Checkpointed loops: exact whatever the plan, in memory that does not grow with T."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_interchangeable
from reference import distance, inner, noise, often

import jaxrnn
from jaxrnn.loops.checkpointed import _plan_within_budget, _plan_without_budget

B, I, H = 2, 3, 4


def problem(cell, length, seed=0):
    rng = np.random.default_rng(seed)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    carry = noise(rng, cell.initial_carry((B,), jnp.float64))
    xs = noise(rng, jax.ShapeDtypeStruct((length, B, I), jnp.float64))
    v = noise(rng, jax.eval_shape(functools.partial(jaxrnn.scan, cell), params, carry, xs))
    return (params, carry, xs), v


def gradient(loop, step, args, v):
    return jax.grad(lambda args: inner(v, loop(step, *args)))(args)


LOOPS = {
    "levels=1": jaxrnn.checkpointed(),
    "levels=3": jaxrnn.checkpointed(levels=3),
    "one state": jaxrnn.checkpointed(num_states=1, segment_length=1),
    "three states": jaxrnn.checkpointed(num_states=3, segment_length=2),
    "budget": jaxrnn.checkpointed(budget=2000),
    "a segment longer than T": jaxrnn.checkpointed(segment_length=100),
    "scan inside": jaxrnn.checkpointed(loop=jaxrnn.scan),
}


@pytest.mark.parametrize("length", [1, 13, 16])
def test_gradient_is_exact_for_any_length(length):
    cell = jaxrnn.gru(H)
    args, v = problem(cell, length)
    wanted = jax.jit(functools.partial(gradient, jaxrnn.scan, cell))(args, v)
    for loop in LOOPS.values():
        assert distance(jax.jit(functools.partial(gradient, loop, cell))(args, v), wanted) < 1e-12


def test_a_plain_step_with_closures_counters_and_several_outputs():
    args, scale = problem(jaxrnn.elman(H), 11)[0], jnp.asarray(0.7)

    def loss(args, scale, loop):
        params, h, xs = args

        def step(params, carry, x):
            h = jnp.tanh(x["x"] @ params["w_x"] + scale * carry["h"] @ params["w_h"])
            return {"h": h, "count": carry["count"] + x["by"]}, (h, carry["count"])

        inputs = {"x": xs, "by": jnp.arange(11)}
        carry, (hs, counts) = loop(step, params, {"h": h, "count": jnp.asarray(3)}, inputs)
        return jnp.sum(jnp.sin(hs) * (1 + counts).astype(float)[:, None, None]) + jnp.sum(
            carry["h"] ** 3
        )

    both = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    for loop in (LOOPS["levels=1"], LOOPS["one state"]):
        assert distance(both(args, scale, loop), both(args, scale, jaxrnn.scan)) < 1e-12


@functools.cache
def temporary(loop, cell, length):
    """Bytes that the gradient of a many-to-one loss takes beside arguments and results."""
    params, carry = cell.init(jax.random.key(0), 8), cell.initial_carry((4,))
    xs = jax.ShapeDtypeStruct((length, 4, 8), jnp.float32)

    def loss(params, xs):
        last, _ = loop(cell, params, carry, xs)
        return jnp.mean(cell.output(params, last) ** 2)

    compiled = jax.jit(jax.grad(loss)).lower(params, xs).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.optimized
@pytest.mark.parametrize("cell_name", often(["gru", "lstm"], ["lstm"]))
def test_memory_grows_like_the_square_root_or_the_logarithm(cell_name):
    cell = dict(jaxrnn.CELLS)[cell_name](16)
    # 16 times the steps: 4 times the memory and the fixed part; bptt takes 16 times as much.
    root = jaxrnn.checkpointed()
    assert temporary(root, cell, 4096) < 5 * temporary(root, cell, 256)
    assert temporary(jaxrnn.bptt, cell, 4096) > 10 * temporary(jaxrnn.bptt, cell, 256)
    assert temporary(root, cell, 4096) < 0.05 * temporary(jaxrnn.bptt, cell, 4096)
    # States are log₂ T, steps in a segment 8 and 16, which divide it.
    log = temporary(jaxrnn.checkpointed(num_states=8), cell, 256)
    assert temporary(jaxrnn.checkpointed(num_states=12), cell, 4096) < 2.2 * log


def test_program_does_not_grow_with_time():
    cell = jaxrnn.lstm(H)
    params, carry = cell.init(jax.random.key(0), I), cell.initial_carry((B,))

    def size(length, loop):
        def loss(params, xs):
            return jnp.sum(loop(cell, params, carry, xs)[1])

        xs = jax.ShapeDtypeStruct((length, B, I), jnp.float32)
        text = jax.jit(jax.grad(loss)).lower(params, xs).as_text()
        # The schedule itself is a table that grows: it stands in constants.
        return len(text.splitlines())

    for loop in (
        jaxrnn.checkpointed(segment_length=4),
        jaxrnn.checkpointed(num_states=3, segment_length=4),
    ):
        assert size(4 * 10007 + 1, loop) == size(4 * 11 + 1, loop)


def test_a_budget_is_kept_to_and_used():
    for steps in (7, 1000, 4096):
        for budget in (150, 1_000, 20_000):
            plan = _plan_within_budget(budget, steps, state_bytes=50, step_bytes=100)
            assert plan.head + plan.length * plan.segments == steps
            assert plan.states * 50 + plan.length * 100 <= budget
    # Room for everything: one segment, nothing is run anew but that.
    assert _plan_within_budget(10**6, 1000, 50, 100).segments == 1


def test_no_segment_runs_more_often_than_levels_allow():
    for steps in (1, 2, 30, 97, 1000, 12345):
        for levels in (1, 2, 3):
            plan = _plan_without_budget(steps, levels, None, None)
            assert plan.head + plan.length * plan.segments == steps
            runs = np.bincount(jaxrnn.loops.schedule.binomial(plan.segments, plan.states).segment)
            assert runs.max() <= levels + 1  # the last of them is its turn
            assert plan.states <= 3 * levels * steps ** (1 / (levels + 1)) + 1


def test_equal_arguments_give_equal_loops():
    checkpointed = jaxrnn.checkpointed
    assert_interchangeable(checkpointed(), checkpointed(levels=1, loop=jaxrnn.bptt))
    assert_interchangeable(checkpointed(budget="1KiB"), checkpointed(budget=1024))
    assert_interchangeable(checkpointed(levels=2), checkpointed(levels=2))
    assert jaxrnn.checkpointed(num_states=3) != jaxrnn.checkpointed(num_states=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, r"levels: got 0, expected an int of at least 1"),
        ({"num_states": 2.0}, r"num_states: got 2.0 of type float, expected a Python int"),
        (
            {"levels": 2, "num_states": 3},
            r"levels, num_states: got 2 of them, expected at most one",
        ),
        ({"budget": "64 apples"}, r"budget: got '64 apples', expected bytes"),
        ({"budget": 0}, r"budget: got 0, expected an int of at least 1"),
        ({"budget": 64, "segment_length": 2}, r"segment_length: got a length and a budget"),
        ({"loop": jaxrnn.truncated(3)}, r"loop: got truncated\(3\), whose gradient is truncated"),
        ({"loop": 3}, r"loop: got 3 of type int, expected a function"),
    ],
)
def test_what_makes_no_plan_is_refused(own_messages, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        jaxrnn.checkpointed(**options)


def test_a_budget_too_small_says_the_least_that_works():
    cell = jaxrnn.gru(H)
    args, v = problem(cell, 9)
    with pytest.raises(ValueError, match=r"budget: got 10 bytes, expected at least \d+") as caught:
        jaxrnn.checkpointed(budget=10)(cell, *args)
    least = int(str(caught.value).split("at least ")[1].split(",")[0])
    with pytest.raises(ValueError, match=f"expected at least {least}"):
        jaxrnn.checkpointed(budget=least - 1)(cell, *args)
    got = gradient(jaxrnn.checkpointed(budget=least), cell, args, v)
    assert distance(got, gradient(jaxrnn.scan, cell, args, v)) < 1e-12


def test_so_few_states_that_there_is_no_end_to_it_are_refused():
    cell = jaxrnn.elman(2)
    xs = jax.ShapeDtypeStruct((10**6, I), jnp.float32)
    loop = jaxrnn.checkpointed(num_states=1, segment_length=1)
    with pytest.raises(ValueError, match=r"num_states: got 1 for 1000000 segments"):
        jax.eval_shape(
            functools.partial(loop, cell), cell.init(jax.random.key(0), I), cell.initial_carry(), xs
        )


def test_forward_mode_names_the_loop_that_has_it():
    cell = jaxrnn.elman(2)
    params = cell.init(jax.random.key(0), I)
    with pytest.raises(TypeError, match=r"loop: got checkpointed under forward-mode.*jaxrnn.scan"):
        jax.jvp(
            lambda p: jaxrnn.checkpointed()(
                cell, p, cell.initial_carry(), jnp.ones((4, I), jnp.float32)
            )[1],
            (params,),
            (params,),
        )
