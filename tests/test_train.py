"""Training: an update is the one written by hand, the carry goes on, the state is one pytree."""

import functools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import jaxrnn

T, B, I, H, OUTPUT = 4, 3, 2, 5, 2
CELL, READOUT = jaxrnn.elman(H), jaxrnn.linear(OUTPUT)

close = partial(chex.assert_trees_all_close, rtol=1e-12, atol=1e-13)


@pytest.fixture(autouse=True)
def _promotion():
    """optax counts its steps in int32 and multiplies them with floats: it needs promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def initial_params(cell=CELL):
    key, rng = jax.random.key(0), np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda: {
            "cell": cell.init(key, I, jnp.float64),
            "readout": READOUT.init(key, H, jnp.float64),
        }
    )
    return jax.tree.map(lambda x: jnp.asarray(0.4 * rng.standard_normal(x.shape)), shapes)


def segments(count, seed=0):
    """Batches `(xs, targets)` that follow each other in time, stacked."""
    rng = np.random.default_rng(seed)
    shapes = (count, T, B, I), (count, T, B, OUTPUT)
    return tuple(jnp.asarray(rng.standard_normal(shape)) for shape in shapes)


def nth(batches, s):
    return jax.tree.map(lambda x: x[s], batches)


def loss(params, carry, batch, key, cell=CELL):
    xs, targets = batch
    carry, hs = jaxrnn.unroll(cell, params["cell"], xs, carry=carry)
    outputs = READOUT.apply(params["readout"], hs)
    value = jaxrnn.masked_mean(optax.l2_loss, outputs, targets)
    return value, (carry, {"largest": jnp.max(outputs), "noise": jax.random.uniform(key)})


def accumulated():
    """An optimizer that updates nothing and whose state is the sum of all gradients."""

    def zeros(params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(grads, state, params=None):
        return zeros(grads), jax.tree.map(jnp.add, state, grads)

    return optax.GradientTransformation(zeros, update)


OPTIMIZERS = {
    "adamw": optax.chain(optax.clip_by_global_norm(1e-3), optax.adamw(0.1)),
    "every other": optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
    "masked": optax.chain(
        optax.clip_by_global_norm(1e-3),
        optax.sgd(0.1, momentum=0.9),
        optax.masked(optax.set_to_zero(), {"cell": True, "readout": False}),
    ),
    "summing": accumulated(),
}


@functools.cache
def compiled(name, cell=CELL):
    """A trainer whose update is compiled, once for all tests."""
    trainer = jaxrnn.training.trainer(partial(loss, cell=cell), OPTIMIZERS[name])
    return trainer._replace(update=jax.jit(trainer.update))


def started(name="masked", seed=1, cell=CELL):
    """That trainer and its first state."""
    trainer, carry = compiled(name, cell), cell.initial_carry((B,), jnp.float64)
    return trainer, trainer.init(initial_params(cell), jax.random.key(seed), carry)


def handwritten(optimizer, batches):
    """Params and carry after one optax update a segment, written out."""
    params, carry = initial_params(), CELL.initial_carry((B,), jnp.float64)
    opt_state = optimizer.init(params)

    @jax.jit
    def update(params, opt_state, carry, batch):
        grads, (carry, _) = jax.grad(loss, has_aux=True)(params, carry, batch, jax.random.key(0))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, carry

    for s in range(len(batches[0])):
        params, opt_state, carry = update(params, opt_state, carry, nth(batches, s))
    return params, carry


@pytest.mark.parametrize("name", ["adamw", "every other", "masked"])
def test_updates_equal_those_handwritten(name):
    batches = segments(3)
    trainer, state = started(name)
    first = state.params
    for s in range(3):
        state, _ = trainer.update(state, nth(batches, s))
    close((state.params, state.carry), handwritten(OPTIMIZERS[name], batches))
    trained = {
        part: not jax.tree.all(jax.tree.map(jnp.array_equal, state.params[part], first[part]))
        for part in first
    }
    assert trained == {"cell": name != "masked", "readout": True}


def test_the_carry_goes_on_and_no_gradient_comes_back_through_it():
    batches = segments(2)
    trainer, state = started("summing")
    for s in range(2):
        state, _ = trainer.update(state, nth(batches, s))

    def of_both(params, kept, crossing):
        """The losses of both segments, run as one; 0 or 1: is the carry kept, is it cut."""
        carry, total = CELL.initial_carry((B,), jnp.float64), 0.0
        for s in range(2):
            value, (carry, _) = loss(params, carry, nth(batches, s), jax.random.key(0))
            carry = crossing * carry + (kept - crossing) * lax.stop_gradient(carry)
            total += value
        return total

    @jax.jit
    def distance(kept, crossing):
        wanted = jax.grad(of_both)(initial_params(), kept, crossing)
        apart = jax.tree.map(jnp.subtract, state.opt_state, wanted)
        return optax.tree.norm(apart) / optax.tree.norm(wanted)

    assert distance(kept=1.0, crossing=0.0) < 1e-12
    # The test tells them apart: neither a gradient across nor a carry reset is the same.
    assert distance(kept=1.0, crossing=1.0) > 1e-3
    assert distance(kept=0.0, crossing=0.0) > 1e-3


def test_a_loss_without_memory_needs_no_carry():
    def many_to_one(params, carry, batch, key):
        xs, targets = batch
        last, _ = jaxrnn.unroll(CELL, params["cell"], xs)
        output = READOUT.apply(params["readout"], CELL.output(params["cell"], last))
        return jnp.mean((output - targets[-1]) ** 2), (carry, {})

    trainer = jaxrnn.training.trainer(many_to_one, optax.adam(0.1))
    state = trainer.init(initial_params(), jax.random.key(0))
    update, batch = jax.jit(trainer.update), nth(segments(1), 0)
    state, first = update(state, batch)
    state, second = update(state, batch)
    assert state.carry is None
    assert second["loss"] < first["loss"]


def test_steps_are_counted_and_every_step_has_a_key_of_its_own():
    def run(seed):
        trainer, state = started(seed=seed)
        batch, states, noises = nth(segments(1), 0), [state], []
        for _ in range(3):
            state, metrics = trainer.update(state, batch)
            states.append(state)
            noises.append(float(metrics["noise"]))
        return states, noises

    states, noises = run(seed=1)
    assert [state.step for state in states] == [0, 1, 2, 3]
    assert all(state.step.dtype == jnp.int32 for state in states)
    kept = {float(jax.random.uniform(state.key)) for state in states}
    assert len(kept | set(noises)) == 4 + 3, "a key was used twice"
    assert run(seed=1)[1] == noises
    assert not set(run(seed=2)[1]) & set(noises)


def test_metrics_are_arrays_with_the_loss_and_the_norm_before_clipping():
    trainer, state = started()
    batch = nth(segments(1), 0)
    (value, _), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        state.params, state.carry, batch, state.key
    )
    _, metrics = trainer.update(state, batch)
    assert set(metrics) == {"loss", "grad_norm", "largest", "noise"}
    assert all(isinstance(m, jax.Array) and m.shape == () for m in metrics.values())
    close(metrics["loss"], value)
    close(metrics["grad_norm"], jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))))


@pytest.mark.parametrize("cell", [CELL, jaxrnn.lstm(H)], ids=["elman", "lstm"])
def test_donated_buffers_are_used_and_change_nothing(cell):
    """Also where the first carry is two arrays of zeros: a buffer may be donated only once."""
    batches = segments(2)
    trainer, state = started(cell=cell)
    _, kept = started(cell=cell)
    donating = jax.jit(trainer.update, donate_argnums=0)
    for s in range(2):
        given = state
        state, _ = donating(state, nth(batches, s))
        kept, _ = trainer.update(kept, nth(batches, s))
        donated = jax.tree.leaves((given.params, given.opt_state, given.carry))
        assert all(leaf.is_deleted() for leaf in donated)
    close((state.params, state.carry), (kept.params, kept.carry))


def test_the_state_is_one_pytree_that_scan_carries_over_batches():
    batches = segments(3)
    trainer, state = started()
    state = jax.tree.map(lambda leaf: leaf, state)
    scanned, metrics = lax.scan(trainer.update, state, batches)
    losses = []
    for s in range(3):
        state, one = trainer.update(state, nth(batches, s))
        losses.append(one["loss"])
    assert isinstance(scanned, jaxrnn.training.TrainState)
    assert scanned.step == 3
    close((scanned.params, scanned.carry), (state.params, state.carry))
    close(metrics["loss"], jnp.stack(losses))


def test_a_plain_optax_loop_around_unroll_learns():
    """To give back what came two steps before, without `trainer`."""
    cell, readout, optimizer = jaxrnn.elman(8), jaxrnn.linear(1), optax.adam(0.03)
    params = cell.init(jax.random.key(0), 1), readout.init(jax.random.key(1), 8)
    opt_state = optimizer.init(params)

    def loss(params, xs):
        _, hs = jaxrnn.unroll(cell, params[0], xs)
        return jnp.mean((readout.apply(params[1], hs[2:]) - xs[:-2]) ** 2)

    @jax.jit
    def update(params, opt_state, xs):
        value, grads = jax.value_and_grad(loss)(params, xs)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    losses = []
    for xs in np.random.default_rng(0).standard_normal((100, 12, 16, 1)).astype(np.float32):
        params, opt_state, value = update(params, opt_state, xs)
        losses.append(float(value))
    assert losses[0] > 0.8
    assert np.mean(losses[-10:]) < 0.2


def handwritten_windows(loss_of, optimizer, params, carry, sequence, k1, k2):
    """BPTT(k2; k1) as a Python loop: parameters, the last carry, and the loss of each update."""
    steps = len(sequence[0])
    opt_state, starts, losses = optimizer.init(params), {0: carry}, []
    for begin in range(0, steps, k1):
        end, first = min(begin + k1, steps), max(0, begin + k1 - k2)

        def objective(params, first=first, begin=begin, end=end):
            carry = starts[first]
            if first < begin:
                carry = loss_of(params, carry, [x[first:begin] for x in sequence])[1]
            return loss_of(params, carry, [x[begin:end] for x in sequence])

        (value, last), grads = jax.value_and_grad(objective, has_aux=True)(params)
        following = max(0, begin + 2 * k1 - k2)
        if first < following <= end:
            between = [x[first:following] for x in sequence]
            starts[following] = loss_of(params, starts[first], between)[1]
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(value)
    return params, last, losses


@pytest.mark.parametrize(
    ("steps", "k1", "k2"), [(12, 4, 4), (12, 2, 6), (11, 2, 6), (5, 2, 8), (3, 4, 4)]
)
def test_truncated_trainer_is_an_update_a_segment_whose_gradient_reaches_back(steps, k1, k2):
    net, rng = jaxrnn.stacked(CELL, READOUT), np.random.default_rng(0)
    sequence = tuple(jnp.asarray(rng.standard_normal((steps, B, n))) for n in (I, OUTPUT))
    params = net.init(jax.random.key(0), I, jnp.float64)
    carry = jax.tree.map(jnp.cos, net.initial_carry((B,), jnp.float64))
    optimizer = optax.sgd(0.1, momentum=0.9)

    def loss_of(params, carry, segment):
        xs, targets = segment
        carry, ys = jaxrnn.unroll(net, params, xs, carry=carry)
        return jnp.mean((ys - targets) ** 2), carry

    def loss(params, carry, segment, key):
        value, carry = loss_of(params, carry, segment)
        return value, (carry, {})

    trainer = jaxrnn.training.truncated_trainer(loss, optimizer, k1, k2)
    state = trainer.init(params, jax.random.key(0), carry)
    state, metrics = jax.jit(trainer.update)(state, sequence)
    wanted = handwritten_windows(loss_of, optimizer, params, carry, sequence, k1, k2)
    close((state.params, state.carry, [*metrics["loss"]]), wanted)
    assert state.step == -(-steps // k1)


def test_truncated_trainer_over_no_steps_changes_nothing():
    def loss(params, carry, segment, key):
        return jnp.sum(params * segment), (carry, {})

    trainer = jaxrnn.training.truncated_trainer(loss, optax.sgd(0.1), 2)
    state = trainer.init(jnp.ones(()), jax.random.key(0), carry=jnp.zeros(3))
    new, metrics = trainer.update(state, jnp.zeros((0,)))
    close((new.params, new.carry), (state.params, state.carry))
    assert metrics["loss"].shape == (0,)


@pytest.mark.optimized
def test_memory_of_truncated_trainer_does_not_grow_with_the_sequence():
    net = jaxrnn.stacked(jaxrnn.gru(8), jaxrnn.linear(2))

    def loss(params, carry, xs, key):
        carry, ys = jaxrnn.unroll(net, params, xs, carry=carry)
        return jnp.mean(ys**2), (carry, {})

    trainer = jaxrnn.training.truncated_trainer(loss, optax.sgd(0.1), 10, 20)
    state = trainer.init(net.init(jax.random.key(0), 2), jax.random.key(1), net.initial_carry((2,)))

    def temporary(steps):
        xs = jax.ShapeDtypeStruct((steps, 2, 2), jnp.float32)
        compiled = jax.jit(trainer.update).lower(state, xs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    metrics = 2 * 4 * 100_000 // 10  # two float32 an update
    assert temporary(100_000) <= temporary(1_000) + 1.1 * metrics


@pytest.mark.parametrize(("k1", "k2"), [(4, 2), (4, 6), (0, None), (2.0, None)])
def test_windows_that_are_none_are_refused(own_messages, k1, k2):
    with pytest.raises((TypeError, ValueError), match=r"k[12]: got .*, expected"):
        jaxrnn.training.truncated_trainer(lambda *_: None, optax.sgd(0.1), k1, k2)
