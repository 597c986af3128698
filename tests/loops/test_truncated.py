"""Truncated backpropagation through time: where the cuts lie, what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_interchangeable
from reference import distance, windowed_scan

import jaxrnn

T, B, I, H = 13, 2, 3, 4


@pytest.fixture
def problem():
    cell = jaxrnn.lstm(H)
    rng = np.random.default_rng(0)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    carry = jax.tree.map(
        lambda x: jnp.asarray(rng.standard_normal(x.shape)), cell.initial_carry((B,), jnp.float64)
    )
    return cell, params, carry, jnp.asarray(rng.standard_normal((T, B, I)))


def loss(loop, cell, params, carry, xs):
    carry, ys = loop(cell, params, carry, xs)
    return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(c * c) for c in jax.tree.leaves(carry))


def first_step_reached(k1, k2):
    """Williams and Peng: the loss of a segment of k1 steps reaches k2 back from its end."""
    return lambda t: max(0, (t // k1 + 1) * k1 - k2)


# (k1, k2): the same; a multiple; less than twice; near, at and beyond T = 13; of one step.
WINDOWS = [
    *[(1, 1), (14, 14), (2, 5), (4, 12), (4, 20)],
    *(pytest.param(*window, marks=pytest.mark.thorough) for window in [(4, 4), (1, 3), (3, 4)]),
]


@pytest.mark.parametrize(("k1", "k2"), WINDOWS)
def test_gradient_equals_a_windowed_scan_over_windows(problem, k1, k2):
    judge = functools.partial(windowed_scan, reach=first_step_reached(k1, k2))
    loops = (judge, jaxrnn.truncated(k1, k2), jaxrnn.truncated(k1, k2, loop=jaxrnn.scan))
    wanted, *found = (
        jax.jit(jax.grad(functools.partial(loss, loop, problem[0]), argnums=(0, 1, 2)))(
            *problem[1:]
        )
        for loop in loops
    )
    for got in found:
        assert distance(got, wanted) < 1e-12


def test_gradient_to_the_first_carry_comes_from_windows_that_begin_there(problem):
    cell, params, carry, xs = problem

    def value(carry, t):
        _, ys = jaxrnn.truncated(2, 5)(cell, params, carry, xs)
        return jnp.sum(ys[t])

    def reaches(t):
        return any(bool(jnp.any(g != 0)) for g in jax.tree.leaves(jax.grad(value)(carry, t)))

    # Segments end after steps 1, 3, 5, …; five steps back from 5 is step 1.
    assert [reaches(t) for t in (0, 1, 2, 3, 4, 5)] == [True, True, True, True, False, False]


@pytest.mark.parametrize(("k1", "k2"), [(2, 1), (0, 3), (2.0, 3), (2, 3.5), (True, 2)])
def test_what_is_no_window_is_refused(own_messages, k1, k2):
    with pytest.raises((TypeError, ValueError), match=r"k[12]: got .*, expected"):
        jaxrnn.truncated(k1, k2)


def test_the_first_carry_is_not_cut(problem):
    cell, params, carry, xs = problem

    def reaches(k1, step_loss):
        def value(carry):
            _, ys = jaxrnn.truncated(k1)(cell, params, carry, xs)
            return jnp.sum(ys[step_loss])

        return any(bool(jnp.any(g != 0)) for g in jax.tree.leaves(jax.grad(value)(carry)))

    assert reaches(4, 3)
    assert not reaches(4, 4)


def test_gradient_reaches_back_to_the_start_of_its_segment_only(problem):
    cell, params, carry, xs = problem

    def value(xs):
        _, ys = jaxrnn.truncated(5)(cell, params, carry, xs)
        return jnp.sum(ys[8])

    touched = jnp.any(jax.grad(value)(xs) != 0, axis=(1, 2))
    assert np.flatnonzero(touched).tolist() == [5, 6, 7, 8]


def test_program_does_not_grow_with_time(problem):
    cell, params, carry, _ = problem

    def size(length):
        xs = jax.ShapeDtypeStruct((length, B, I), jnp.float64)
        grad = jax.grad(functools.partial(loss, jaxrnn.truncated(4), cell))
        return len(jax.jit(grad).lower(params, carry, xs).as_text().splitlines())

    assert size(4 * 1000 + 1) == size(4 * 10 + 1)


def test_segments_keep_no_copy_of_the_weights(problem):
    """Residuals are stacked segment by segment; the parameters must not be among them."""
    cell, params, carry, xs = problem
    grad = jax.grad(functools.partial(loss, jaxrnn.truncated(2), cell))
    text = str(jax.make_jaxpr(grad)(params, carry, xs))
    assert f"f64[6,{H},{4 * H}]" not in text
    assert f"f64[6,{4 * H},{H}]" not in text
    assert f"f64[{H},{4 * H}]" in text


def test_equal_arguments_give_equal_loops():
    assert_interchangeable(jaxrnn.truncated(4), jaxrnn.truncated(4, 4, loop=jaxrnn.bptt))
    assert jaxrnn.truncated(4) != jaxrnn.truncated(4, 5)
    assert jaxrnn.truncated(4) != jaxrnn.truncated(4, loop=jaxrnn.scan)
    assert jaxrnn.truncated(4) != jaxrnn.truncated(5)
