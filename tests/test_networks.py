"""Stacks, both directions, shortcuts: equal to what one would write by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_interchangeable
from reference import SOME_LOOPS, distance, often

import jaxrnn
from jaxrnn import bidirectional, residual, stacked, unroll

VALUES, GRADIENTS = 1e-13, 1e-12
T, B, I, H = 6, 3, 2, 4

LOOPS = dict(jaxrnn.LOOPS)
ONE_STEP_LOOPS = ("truncated:4", "checkpointed")
some_loops = pytest.mark.parametrize("loop_name", often(LOOPS, SOME_LOOPS))


def marks(chance, seed):
    return jnp.asarray(np.random.default_rng(seed).random((T, B)) < chance)


@functools.cache
def problem(net, batch=(B,)):
    """Params, carry and xs of a network in general position."""
    rng = np.random.default_rng(0)

    def noise(like):
        return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), like)

    with jax.enable_x64(True):
        params = net.init(jax.random.key(0), I, jnp.float64)
        params = jax.tree.map(lambda p, n: p + 0.1 * n, params, noise(params))
        return (
            params,
            noise(net.initial_carry(batch, jnp.float64)),
            noise(jnp.zeros((T, *batch, I))),
        )


def with_gradient(run, *args):
    """Outputs of `run(*args)` and the gradient of a weighted sum of all of them."""

    def value(args):
        outputs = run(*args)
        leaves = jax.tree.leaves(outputs)
        return sum(jnp.vdot(jnp.cos(jnp.arange(y.size * 1.0)), y.ravel()) for y in leaves), outputs

    return jax.jit(jax.grad(value, has_aux=True))(args)


DEEP = stacked(
    jaxrnn.lstm(H), residual(jaxrnn.gru(H)), jaxrnn.dropout(0.5), jaxrnn.elman(3), jaxrnn.linear(2)
)
MARKS = {
    "alone": {},
    "masked": {"mask": marks(0.6, 0)},
    "with resets": {"reset": marks(0.3, 1)},
    "with both": {"mask": marks(0.6, 0), "reset": marks(0.3, 1)},
}
every_mark = pytest.mark.parametrize("keywords", MARKS.values(), ids=MARKS)


def test_a_stack_is_its_parts_one_after_another():
    params, carry, xs = problem(DEEP)

    def handwritten(params, carry, xs):
        first, ys = unroll(jaxrnn.lstm(H), params[0], xs, carry=carry[0])
        second, more = unroll(jaxrnn.gru(H), params[1], ys, carry=carry[1])
        third, last = unroll(jaxrnn.elman(3), params[3], ys + more, carry=carry[3])
        return (first, second, (), third, ()), jaxrnn.linear(2).apply(params[4], last)

    def ours(params, carry, xs):
        return unroll(DEEP, params, xs, carry=carry)

    args = params, carry, xs
    assert distance(with_gradient(ours, *args), with_gradient(handwritten, *args)) < GRADIENTS


@pytest.mark.parametrize(
    ("loop_name", "marked"),
    [
        *(("bptt", name) for name in MARKS),
        # Windows that overlap reach back layer by layer, one after the other.
        *(
            pytest.param(
                name, "with both", marks=[] if name in ONE_STEP_LOOPS else pytest.mark.thorough
            )
            for name in LOOPS
            if name not in ("bptt", "truncated:2:5")
        ),
    ],
)
def test_a_stack_as_one_step_equals_layer_by_layer(loop_name, marked):
    """The step knows nothing of layers: one scan, the carries a tuple, masks around the whole."""
    args, loop, keywords = problem(DEEP), LOOPS[loop_name], MARKS[marked]
    judge = loop if loop_name.startswith("truncated") else jaxrnn.scan

    def step(params, carry, x):
        return DEEP(params, carry, x)

    def as_one_step(params, carry, xs):
        zeros = jax.tree.map(jnp.zeros_like, carry)
        more = {"reset_carry": zeros} if "reset" in keywords else {}
        return unroll(step, params, xs, carry=carry, loop=judge, **keywords, **more)

    def layer_by_layer(params, carry, xs):
        return unroll(DEEP, params, xs, carry=carry, loop=loop, **keywords)

    wanted = with_gradient(as_one_step, *args)
    assert distance(with_gradient(layer_by_layer, *args), wanted) < GRADIENTS


@pytest.mark.thorough  # jaxrnn certify has a stack too
def test_layer_by_layer_is_a_loop_and_has_a_certificate():
    def layer_by_layer(step, params, carry, xs):
        return unroll(step, params, xs, carry=carry)

    certificate = jaxrnn.certify(DEEP, *problem(DEEP), loop=layer_by_layer)
    assert certificate.ok, str(certificate)


def test_streaming_equals_the_sequence():
    params, carry, xs = problem(DEEP)
    last, ys = unroll(DEEP, params, xs, carry=carry)
    for x, y in zip(xs, ys, strict=True):
        carry, streamed = jax.jit(DEEP.__call__)(params, carry, x)
        assert distance(streamed, y) < VALUES
    assert distance(carry, last) < VALUES


@every_mark
@pytest.mark.parametrize("merge", [None, jnp.add], ids=["concatenated", "summed"])
def test_both_directions_equal_two_runs_by_hand(keywords, merge):
    net = bidirectional(jaxrnn.gru(H), jaxrnn.gru(H), merge=merge)
    args = problem(net)

    def handwritten(params, carry, xs):
        forward, ys = unroll(jaxrnn.gru(H), params.forward, xs, carry=carry.forward, **keywords)
        backward, back = unroll(
            jaxrnn.gru(H), params.backward, xs, carry=carry.backward, reverse=True, **keywords
        )
        joined = ys + back if merge else jnp.concatenate([ys, back], axis=-1)
        return jaxrnn.Directions(forward, backward), joined

    def ours(params, carry, xs):
        return unroll(net, params, xs, carry=carry, **keywords)

    assert distance(with_gradient(ours, *args), with_gradient(handwritten, *args)) < GRADIENTS


@some_loops
def test_everything_composes_under_every_loop(loop_name):
    """Against `scan`; for a loop that cuts, against the same with `scan` inside."""
    net = stacked(bidirectional(jaxrnn.lstm(H)), residual(jaxrnn.gru(2 * H)), jaxrnn.linear(2))
    params, carry, xs = problem(net)
    judges = {"bptt": jaxrnn.scan, "truncated:4": jaxrnn.truncated(4, loop=jaxrnn.scan)}
    judges["truncated:5:scan"] = jaxrnn.truncated(5)
    judges["truncated:2:5"] = jaxrnn.truncated(2, 5, loop=jaxrnn.scan)

    def run(loop, params, carry, xs, start):
        return unroll(
            net,
            params,
            xs,
            carry=carry,
            loop=loop,
            **MARKS["with both"],
            reset_carry=start,
            reverse=True,
        )

    args = params, carry, xs, jax.tree.map(jnp.sin, carry)
    got = with_gradient(functools.partial(run, LOOPS[loop_name]), *args)
    judge = judges.get(loop_name, jaxrnn.bptt)
    assert distance(got, with_gradient(functools.partial(run, judge), *args)) < GRADIENTS


def test_nan_in_the_padding_reaches_no_layer():
    """Neither a Layer's weights nor a shortcut."""
    both = bidirectional(jaxrnn.lstm(H))
    net = stacked(residual(jaxrnn.linear(I)), residual(jaxrnn.gru(I)), both)
    params, carry, xs = problem(net)
    mask = marks(0.6, 0)

    def result(padding):
        padded = jnp.where(mask[..., None], xs, padding)
        return with_gradient(lambda p, c: unroll(net, p, padded, carry=c, mask=mask), params, carry)

    assert distance(result(jnp.nan), result(7.0)) < VALUES


@pytest.mark.parametrize("merge", [None, jnp.add], ids=["concatenated", "summed"])
def test_many_to_one_on_ragged_rows(merge):
    both = bidirectional(jaxrnn.gru(H), merge=merge)
    net = stacked(jaxrnn.lstm(H), both, jaxrnn.dropout(0.1), jaxrnn.linear(2))
    params, _, xs = problem(net)
    lengths = np.array([1, 4, T])
    carry, _ = unroll(net, params, xs, lengths=lengths)
    got = net.output(params, carry)
    for row, length in enumerate(lengths):
        alone, _ = unroll(net, params, xs[:length, row])
        assert distance(got[row], net.output(params, alone)) < VALUES
    one_way = stacked(jaxrnn.lstm(H), jaxrnn.linear(2))
    params, _, xs = problem(one_way)
    carry, ys = unroll(one_way, params, xs, lengths=lengths)
    assert distance(one_way.output(params, carry), ys[lengths - 1, np.arange(B)]) < VALUES


def test_sizes_chain_from_part_to_part():
    params = stacked(
        bidirectional(jaxrnn.gru(3), jaxrnn.lstm(5)), jaxrnn.linear(7), residual(jaxrnn.elman(7))
    ).init(jax.random.key(0), I)
    assert params[0].forward["w_x"].shape == (I, 9)
    assert params[0].backward["w_x"].shape == (I, 20)
    assert params[1]["w_o"].shape == (8, 7)
    assert params[2]["w_x"].shape == (7, 7)
    summed = stacked(bidirectional(jaxrnn.gru(3), merge=jnp.add), jaxrnn.elman(4))
    assert summed.init(jax.random.key(0), I)[1]["w_x"].shape == (3, 4)


def test_parts_start_apart():
    params = stacked(jaxrnn.gru(I), bidirectional(jaxrnn.gru(I))).init(jax.random.key(0), I)
    kernels = [params[0]["w_h"], params[1].forward["w_h"], params[1].backward["w_h"]]
    assert len({np.asarray(w).tobytes() for w in kernels}) == 3


def test_a_network_is_equal_to_its_like():
    """Or jit would compile each anew."""
    first, second = (stacked(jaxrnn.gru(3), residual(jaxrnn.lstm(3))) for _ in range(2))
    assert_interchangeable(first, second)


def test_an_error_says_in_which_part():
    net = stacked(jaxrnn.gru(H), jaxrnn.lstm(H))
    params, carry, xs = problem(net)
    with pytest.raises((TypeError, ValueError)) as caught:
        unroll(net, (params[0], params[0]), xs, carry=carry)
    assert "in part 1 of a stack of 2" in caught.value.__notes__


def test_no_steps():
    params, carry, xs = problem(DEEP)
    last, ys = unroll(DEEP, params, xs[:0], carry=carry)
    assert distance(last, carry) == 0
    assert ys.shape == (0, B, 2)
