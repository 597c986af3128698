"""The mean of per-step losses: optax's losses as they are, against plain loops."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import distance

import jaxrnn
from jaxrnn import masked_mean

T, B, OUTPUT = 5, 3, 4


def log_softmax(o):
    return o - np.log(np.sum(np.exp(o)))


def huber(o, y):
    error = np.abs(o - y)
    return np.where(error <= 1, 0.5 * error**2, error - 0.5)


def binary_cross_entropy(o, y):
    return y * np.log1p(np.exp(-o)) + (1 - y) * np.log1p(np.exp(o))


# optax's loss, the same of one step in NumPy, what the targets of that step are.
LOSSES = {
    "l2": (optax.l2_loss, lambda o, y: 0.5 * (o - y) ** 2, "numbers"),
    "huber": (optax.huber_loss, huber, "numbers"),
    "binary": (optax.sigmoid_binary_cross_entropy, binary_cross_entropy, "probabilities"),
    "softmax": (
        optax.softmax_cross_entropy,
        lambda o, y: -np.sum(y * log_softmax(o)),
        "probabilities",
    ),
    "labels": (
        optax.softmax_cross_entropy_with_integer_labels,
        lambda o, y: -log_softmax(o)[y],
        "labels",
    ),
}
# Shapes of what comes before the features, and of a mask that begins them.
SHAPES = [((T,), (T,)), ((T, B), (T,)), ((T, B, 2), (T, B))]

every_loss = pytest.mark.parametrize("name", LOSSES)
every_shape = pytest.mark.parametrize(("lead", "mask_shape"), SHAPES, ids=str)


def drawn(lead, kind, seed=0):
    rng = np.random.default_rng(seed)
    outputs = 2 * rng.standard_normal((*lead, OUTPUT))
    targets = {
        "numbers": rng.standard_normal((*lead, OUTPUT)),
        "probabilities": rng.dirichlet(np.ones(OUTPUT), lead),
        "labels": rng.integers(0, OUTPUT, lead),
    }[kind]
    return outputs, targets


def drawn_mask(shape, seed=1):
    """Neither all True nor all False."""
    mask = np.random.default_rng(seed).random(shape) < 0.5
    mask[0], mask[1] = True, False
    return mask


def by_loops(loss, outputs, targets, mask):
    """(1) of `masked_mean`, step by step and row by row."""
    total, count = 0.0, 0
    for place in np.ndindex(outputs.shape[:-1]):
        if mask[place[: mask.ndim]]:
            losses = np.atleast_1d(loss(outputs[place], targets[place]))
            total, count = total + losses.sum(), count + losses.size
    return total / max(1, count)


@every_loss
@every_shape
def test_mean_equals_plain_loops(name, lead, mask_shape):
    loss, in_numpy, kind = LOSSES[name]
    outputs, targets = drawn(lead, kind)
    everywhere, mask = np.ones(lead, bool), drawn_mask(mask_shape)

    @jax.jit
    def means(outputs, targets):
        return [masked_mean(loss, outputs, targets, mask=m) for m in (None, everywhere, mask)]

    expected = [by_loops(in_numpy, outputs, targets, m) for m in (everywhere, everywhere, mask)]
    means = means(outputs, targets)
    np.testing.assert_allclose(means, expected, rtol=1e-13)


@pytest.mark.parametrize("name", ["l2", "softmax", "labels"])
@every_shape
def test_padding_reaches_neither_value_nor_gradient(name, lead, mask_shape):
    """Both are those of the valid steps alone, whatever the padding contains."""
    loss, _, kind = LOSSES[name]
    outputs, targets = drawn(lead, kind)
    mask = drawn_mask(mask_shape)
    valid = np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(lead) - mask.ndim)), lead)
    outputs[~valid] = np.nan
    targets[~valid] = np.resize([-1, 10**6], targets[~valid].shape) if kind == "labels" else np.nan

    @jax.jit
    def with_and_without(outputs, targets):
        value_and_grad = jax.value_and_grad(masked_mean, argnums=1)
        padded = value_and_grad(loss, outputs, targets, mask=mask)
        return padded, value_and_grad(loss, outputs[valid], targets[valid])

    (value, gradient), (alone, gradient_alone) = with_and_without(outputs, targets)
    np.testing.assert_allclose(value, alone, rtol=1e-13)
    chex.assert_trees_all_close(gradient[valid], gradient_alone, rtol=1e-12, atol=1e-15)
    assert not np.any(gradient[~valid])


@pytest.mark.parametrize("lead", [(T, B), (0, B)], ids=["all padding", "no time"])
def test_where_nothing_counts_the_mean_and_its_gradient_are_zero(lead):
    nothing = np.zeros(lead, bool)
    cases = {name: (loss, *drawn(lead, kind)) for name, (loss, _, kind) in LOSSES.items()}

    def mean(scale, name, mask):
        loss, outputs, targets = cases[name]
        return masked_mean(loss, scale * outputs, targets, mask=mask)

    @jax.jit
    def of_all(scale):
        masks = (nothing,) if lead[0] else (nothing, None)
        return [jax.value_and_grad(mean)(scale, name, mask) for name in cases for mask in masks]

    assert all(value == gradient == 0 for value, gradient in of_all(2.0))


@pytest.mark.parametrize("mask", [None, np.ones((T, B), bool)], ids=["no mask", "mask"])
def test_gradient_is_the_mean_of_the_steps(mask):
    outputs, targets = drawn((T, B), "numbers")
    gradient = jax.grad(masked_mean, argnums=1)(optax.l2_loss, outputs, targets, mask=mask)
    np.testing.assert_allclose(gradient, (outputs - targets) / outputs.size, rtol=1e-12)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((B, B, 1), (B, B)), ((4, 4), (4,)), ((1, 1, 4), (1, 1)), ((T, 1), (T,))],
)
@pytest.mark.parametrize("loss", [optax.l2_loss, lambda o, y: (o - y) ** 2], ids=["l2", "own"])
def test_a_loss_that_would_broadcast_is_refused(loss, outputs, targets):
    """Targets without a last axis beside an elementwise loss, which would pair t with t'."""
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match=r"got .*\d"):
        masked_mean(loss, jnp.zeros(outputs), jnp.zeros(targets))


def test_a_mean_of_truths_is_a_rate():
    """Accuracy is a mean over time too."""
    outputs, targets = drawn((T, B), "labels")
    right, mask = np.argmax(outputs, -1) == targets, drawn_mask((T, B))

    def is_right(outputs, targets):
        return jnp.argmax(outputs, -1) == targets

    assert masked_mean(is_right, outputs, targets) == right.mean()
    assert masked_mean(is_right, outputs, targets, mask=mask) == right[mask].mean()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_long_mean_keeps_its_dtype_and_stays_finite(dtype, masked):
    """float16 ends at 65504: neither the sum nor the count of a long sequence fits."""
    outputs = jnp.full((70_000, 1), 2, dtype)
    mask = jnp.ones(70_000, bool) if masked else None
    mean = masked_mean(optax.l2_loss, outputs, jnp.zeros_like(outputs), mask=mask)
    assert mean.dtype == outputs.dtype
    assert mean == 2


def inside_and_stacked(cell):
    """A per-step loss inside the loop, and the same of the outputs of the whole sequence."""
    steps, batch, inputs, classes = 9, 2, 3, 5
    nats, readout = optax.softmax_cross_entropy_with_integer_labels, jaxrnn.linear(classes)
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.standard_normal((steps, batch, inputs)))
    targets = jnp.asarray(rng.integers(0, classes, (steps, batch)), jnp.int32)
    inside, net = jaxrnn.transforms.step_loss(cell, readout, nats), jaxrnn.stacked(cell, readout)
    params = inside.init(jax.random.key(0), inputs, jnp.float64)
    plain = jaxrnn.transforms.step_loss(lambda p, carry, x: cell(p, carry, x), readout, nats)

    def within(params, xs, loop, mask=None, step=inside):
        carry = None if step is inside else cell.initial_carry((batch,), jnp.float64)
        _, losses = jaxrnn.unroll(
            step,
            params,
            jaxrnn.transforms.StepLossInputs(xs, targets),
            carry=carry,
            loop=loop,
            mask=mask,
        )
        return jnp.sum(losses)

    def outside(params, xs, mask=None):
        _, outputs = jaxrnn.unroll(net, params, xs, mask=mask)
        losses = nats(outputs, targets)
        return jnp.sum(losses if mask is None else jnp.where(mask, losses, 0))

    return (params, xs), within, outside, plain


@pytest.mark.parametrize("cell", [jaxrnn.gru(4), jaxrnn.lstm(4)], ids=["gru", "lstm"])
def test_a_loss_inside_the_loop_is_the_loss_of_the_outputs(cell):
    args, within, outside, plain = inside_and_stacked(cell)
    mask = jnp.asarray(np.random.default_rng(1).random((9, 2)) < 0.7)
    with jax.numpy_dtype_promotion("standard"):  # optax's losses need it
        wanted = jax.jit(jax.value_and_grad(outside, argnums=(0, 1)))
        got = jax.jit(jax.value_and_grad(within, argnums=(0, 1)), static_argnames=("loop", "step"))
        for loop in (jaxrnn.bptt, jaxrnn.checkpointed()):
            assert distance(got(*args, loop=loop), wanted(*args)) < 1e-12
            assert distance(got(*args, loop=loop, mask=mask), wanted(*args, mask=mask)) < 1e-12
        assert distance(got(*args, loop=jaxrnn.bptt, step=plain), wanted(*args)) < 1e-12


def test_targets_that_are_floats_have_a_gradient():
    cell, readout, rng = jaxrnn.elman(4), jaxrnn.linear(3), np.random.default_rng(0)
    xs, targets = jnp.asarray(rng.standard_normal((5, 2, 3))), jnp.asarray(rng.random((5, 2, 3)))

    def squared(outputs, targets):
        return jnp.sum((outputs - targets) ** 2, axis=-1)

    one = jax.ShapeDtypeStruct((3,), jnp.float64)
    inside = jaxrnn.transforms.step_loss(cell, readout, squared, target=one)
    params = inside.init(jax.random.key(0), 3, jnp.float64)

    def within(params, xs, targets, loop):
        return jnp.sum(
            jaxrnn.unroll(inside, params, jaxrnn.transforms.StepLossInputs(xs, targets), loop=loop)[
                1
            ]
        )

    def outside(params, xs, targets):
        _, outputs = jaxrnn.unroll(jaxrnn.stacked(cell, readout), params, xs)
        return jnp.sum(squared(outputs, targets))

    wanted = jax.grad(outside, argnums=(0, 1, 2))(params, xs, targets)
    for loop in (jaxrnn.bptt, jaxrnn.checkpointed()):
        got = jax.grad(within, argnums=(0, 1, 2))(params, xs, targets, loop)
        assert distance(got, wanted) < 1e-12


@pytest.mark.optimized
def test_logits_of_the_whole_sequence_never_stand_in_memory():
    steps, batch, classes = 400, 4, 512
    cell, readout = jaxrnn.gru(8), jaxrnn.linear(classes)
    nats = optax.softmax_cross_entropy_with_integer_labels
    inside = jaxrnn.transforms.step_loss(cell, readout, nats)
    params = inside.init(jax.random.key(0), 8)
    xs = jax.ShapeDtypeStruct((steps, batch, 8), jnp.float32)
    targets = jax.ShapeDtypeStruct((steps, batch), jnp.int32)

    def temporary(loop):
        def loss(params, xs, targets):
            _, losses = jaxrnn.unroll(
                inside, params, jaxrnn.transforms.StepLossInputs(xs, targets), loop=loop
            )
            return jnp.mean(losses)

        with jax.numpy_dtype_promotion("standard"):
            compiled = jax.jit(jax.grad(loss)).lower(params, xs, targets).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4 * steps * batch * classes
    assert temporary(jaxrnn.bptt) > logits
    assert temporary(jaxrnn.checkpointed()) < 0.5 * logits


def test_a_cell_that_draws_noise_has_no_loss_inside_it():
    with pytest.raises(ValueError, match="step: got one that draws noise, expected one without"):
        jaxrnn.transforms.step_loss(
            jaxrnn.transforms.zoneout(jaxrnn.gru(2), 0.1), jaxrnn.linear(2), optax.l2_loss
        )
