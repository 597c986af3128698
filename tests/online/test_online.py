"""Online algorithms: exact where they say so, and equal to their definitions where they do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import mean_loss, problem, squared_error, steps_of
from reference import distance, often

import jaxrnn
from jaxrnn import online
from jaxrnn.transforms import MaskedInputs, ResetInputs, ResetParams, masked, resettable

CELLS = dict(jaxrnn.CELLS)
ELEMENTWISE = {name: CELLS[name] for name in ("lru", "min_gru", "min_lstm", "indrnn", "s5")}
# The loss of a row of `conv_lstm` needs a sum over places, see `test_a_step_with_several_features`.
every_cell = pytest.mark.parametrize(
    "cell_name",
    often(
        [name for name in CELLS if name != "conv_lstm"],
        ("elman", "gru", "gru_reset_before", "lstm", "lru", "min_gru", "mlstm", "layer_norm_lstm"),
    ),
)


def small(cell_name):
    return CELLS[cell_name](4)


@functools.partial(jax.jit, static_argnums=1)
def mean_gradient(params, step, carry, xs):
    return jax.grad(mean_loss, has_aux=True)(params, step, carry, xs)[0]


def run(learner, step_problem, **options):
    """The gradient of one call, and what comes with it."""
    _, params, carry, xs = step_problem
    key = jax.random.key(7) if learner.needs_key else None
    return learner.update(params, learner.init(params, carry, key=key), xs, **options)


@every_cell
def test_rtrl_equals_bptt_over_two_calls_with_masks_and_resets(cell_name):
    step, params, carry, xs = problem(small(cell_name), length=8, inputs=4)
    # Four steps in a row run in each row, so that an influence passes through several Jacobians.
    mask = jnp.ones((8, 2), bool).at[[5, 7], [0, 1]].set(False)
    reset = jnp.zeros((8, 2), bool).at[[0, 5, 4], [0, 0, 1]].set(True)
    xs = jax.tree.map(lambda x: jnp.where(jaxrnn.tree.expand_mask(mask, x), x, jnp.nan), xs)
    start = jax.tree.map(lambda c: jnp.flip(c, 0), carry)
    options = {"reset_carry": start}

    learner = online.rtrl(step)
    state = learner.init(params, carry, xs)
    total = jax.tree.map(jnp.zeros_like, params)
    for begin, end in ((0, 4), (4, 8)):
        part = {"mask": mask[begin:end], "reset": reset[begin:end], **options}
        grads, state, losses = learner.update(params, state, steps_of(xs, begin, end), **part)
        weight = int(jnp.sum(part["mask"])) / int(jnp.sum(mask))
        total = jax.tree.map(lambda a, g, w=weight: a + g * w, total, grads)
        assert losses.shape == (end - begin, 2)

    def of_unroll(params):
        return mean_loss(params, step, carry, xs, mask, reset=reset, **options)

    (_, last), wanted = jax.jit(jax.value_and_grad(of_unroll, has_aux=True))(params)
    assert distance(total, wanted) < 1e-12
    assert distance(state.carry, last) < 1e-13


NETWORKS = {
    "two layers": jaxrnn.stacked(jaxrnn.lru(3), jaxrnn.gru(4)),
    "two real layers": jaxrnn.stacked(jaxrnn.min_gru(3), jaxrnn.gru(4)),
    "residual": jaxrnn.stacked(jaxrnn.residual(jaxrnn.min_gru(3)), jaxrnn.lstm(2)),
}


@pytest.mark.parametrize("name", ["two layers", "residual"])
def test_rtrl_is_exact_across_layers(name):
    step_problem = problem(NETWORKS[name])
    grads, _, losses = run(online.rtrl(step_problem.step), step_problem)
    wanted = mean_gradient(step_problem.params, step_problem.step, *step_problem[2:])
    assert distance(grads, wanted) < 1e-12
    assert losses.shape == (7, 2)


@pytest.mark.parametrize("cell_name", ELEMENTWISE)
def test_an_elementwise_recurrence_keeps_one_number_for_each_weight(cell_name):
    """A complex unit and a complex weight count as two real ones."""
    step_problem = problem(small(cell_name), inputs=4)
    exact = online.rtrl(step_problem.step)
    state = exact.init(step_problem.params, step_problem.carry, step_problem.xs)
    is_complex = cell_name in ("lru", "s5")
    per_weight = 4 if is_complex else 1
    num_weights = sum(p.size for p in jax.tree.leaves(step_problem.params[0]))
    assert sum(a[0].size for a in jax.tree.leaves(state.influence)) <= per_weight * num_weights
    for other in (online.snap(step_problem.step), online.eprop(step_problem.step)):
        assert distance(run(other, step_problem)[0], run(exact, step_problem)[0]) < 1e-12


@pytest.mark.parametrize("cell_name", ["elman", "gru", "lstm"])
def test_snap_of_full_order_is_rtrl(cell_name):
    step_problem = problem(small(cell_name))
    full, exact = online.snap(step_problem.step, 2), online.rtrl(step_problem.step)
    assert distance(run(full, step_problem)[0], run(exact, step_problem)[0]) < 1e-12
    network = problem(NETWORKS["two layers"])
    full, exact = online.snap(network.step, 2, across_layers=True), online.rtrl(network.step)
    assert distance(run(full, network)[0], run(exact, network)[0]) < 1e-12


def dense_derivatives(step_problem):
    """v, ℓ and the dense D, J, ∂ℓ/∂v and ∂ℓ/∂θ of every step of one row, by `jax.jacobian`."""
    step, params, carry, xs = step_problem
    theta, to_params = jax.flatten_util.ravel_pytree(params)
    _, to_carry = jax.flatten_util.ravel_pytree(carry)

    def flat_step(theta, v, x):
        new, loss = step(to_params(theta), to_carry(v), x)
        return jax.flatten_util.ravel_pytree(new)[0], loss

    jacobians = jax.jit(jax.jacobian(flat_step, argnums=(0, 1)))
    v = jax.flatten_util.ravel_pytree(carry)[0]
    for t in range(xs.targets.shape[0]):
        x = jax.tree.map(lambda a, t=t: a[t], xs)
        (d, j), (d_loss, loss_v) = jacobians(theta, v, x)
        yield np.asarray(d), np.asarray(j), np.asarray(d_loss), np.asarray(loss_v)
        v = flat_step(theta, v, x)[0]


def pattern_within(order, d, j):
    """Which numbers of ∂v/∂θ can differ from zero `order` steps after zero."""
    pattern = d != 0
    for _ in range(order - 1):
        pattern = pattern | (((j != 0).astype(int) @ pattern.astype(int)) > 0)
    return pattern


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "cell_name", ["elman", "gru", "gru_reset_before", "lstm", "two real layers"]
)
def test_snap_equals_its_definition(cell_name, order):
    """In NumPy, with the pattern as a matrix; across layers nothing is dropped here."""
    cell = NETWORKS[cell_name] if cell_name in NETWORKS else small(cell_name)
    step_problem = problem(cell, batch=())
    steps = list(dense_derivatives(step_problem))
    pattern = pattern_within(order, *steps[0][:2])
    s, total = np.zeros_like(steps[0][0]), 0
    for d, j, d_loss, loss_v in steps:
        total = total + d_loss + loss_v @ s
        s = pattern * (j @ s + d)
    learner = online.snap(step_problem.step, order, across_layers=True)
    grads = run(learner, step_problem)[0]
    flat = jax.flatten_util.ravel_pytree(grads)[0]
    np.testing.assert_allclose(flat, total / len(steps), rtol=1e-10, atol=1e-13)


def test_across_layers_snap_keeps_what_acts_within_the_step():
    """The first layer's influence on the second one's units is dropped from step to step."""
    cell = jaxrnn.stacked(jaxrnn.elman(3), jaxrnn.elman(2))
    step_problem = problem(cell, batch=())
    steps = list(dense_derivatives(step_problem))
    pattern = pattern_within(1, *steps[0][:2])
    num_first = sum(p.size for p in jax.tree.leaves(step_problem.params[0][0]))
    pattern[3:, :num_first] = False
    s, total = np.zeros_like(steps[0][0]), 0
    for d, j, d_loss, loss_v in steps:
        total = total + d_loss + loss_v @ s
        s = pattern * (j @ s + d)
    flat = jax.flatten_util.ravel_pytree(run(online.snap(step_problem.step), step_problem)[0])[0]
    np.testing.assert_allclose(flat, total / len(steps), rtol=1e-10, atol=1e-13)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_eprop_of_an_lstm_is_the_factorization_of_its_authors():
    """Bellec 2020: ε_t = f_t ε_{t-1} + ∂c_t/∂W, e_t = (∂h_t/∂c_t) ε_t + ∂h_t/∂W through o_t."""
    step_problem = problem(small("lstm"), batch=())
    (params, readout), ((h, c), _) = step_problem.params, step_problem.carry
    params, readout = jax.tree.map(np.asarray, (params, readout))
    h, c, size = np.asarray(h), np.asarray(c), 4
    names = {"w_x": 3, "w_h": 4, "b": 1}
    trace = {name: np.zeros((rows, 4 * size)) for name, rows in names.items()}
    total = {name: np.zeros((rows, 4 * size)) for name, rows in names.items()}
    for x, y in zip(
        np.asarray(step_problem.xs.xs), np.asarray(step_problem.xs.targets), strict=True
    ):
        a = x @ params["w_x"] + h @ params["w_h"] + params["b"]
        i, f, g, o = (
            act(a[k * size :][:size]) for k, act in enumerate([sigmoid, sigmoid, np.tanh, sigmoid])
        )
        before = {"w_x": x, "w_h": h, "b": np.ones(1)}
        new_c = f * c + i * g
        slopes = [i * (1 - i) * g, f * (1 - f) * c, i * (1 - g**2), np.zeros(size)]
        to_h = np.concatenate([np.zeros(3 * size), o * (1 - o) * np.tanh(new_c)])
        c, h = new_c, o * np.tanh(new_c)
        error = 2 / 2 * (h @ readout["w_o"] + readout["b_o"] - y)
        signal = readout["w_o"] @ error  # ∂ℓ_t/∂h_t
        for name, presynaptic in before.items():
            trace[name] = np.tile(f, 4) * trace[name] + np.outer(
                presynaptic, np.concatenate(slopes)
            )
            eligibility = np.tile(o * (1 - np.tanh(c) ** 2), 4) * trace[name]
            eligibility += np.outer(presynaptic, to_h)
            total[name] += np.tile(signal, 4) * eligibility / 7
    grads = run(online.eprop(step_problem.step), step_problem)[0][0]
    for name, wanted in total.items():
        np.testing.assert_allclose(grads[name], wanted.reshape(grads[name].shape), rtol=1e-10)


@pytest.mark.parametrize("cell_name", ["elman", "gru"])
def test_eprop_follows_a_units_own_memory(cell_name):
    """ε_t = J° ε_{t-1} + D_t, with the diagonal J° of nothing for Elman, of z_t for a GRU."""
    step_problem = problem(small(cell_name), batch=())
    step, params, carry, xs = step_problem
    total, trace, own = 0, 0, 0
    states, _ = jaxrnn.history(small(cell_name), params[0], xs.xs, carry=carry[0], loop=jaxrnn.scan)
    previous = np.concatenate([np.asarray(carry[0])[None], np.asarray(states.carries)])
    theta, to_params = jax.flatten_util.ravel_pytree(params)

    def last(theta, h, x):
        return small(cell_name)(to_params(theta)[0], h, x)[0]

    def loss_of(h, theta, y):
        return squared_error(jaxrnn.linear(2).apply(to_params(theta)[1], h), y)

    for t in range(7):
        h = previous[t]
        d = jax.jacobian(last)(theta, h, xs.xs[t])
        if cell_name == "gru":
            p = params[0]
            a = xs.xs[t] @ p["w_x"] + p["b"] + h @ p["w_h"]
            own = sigmoid(np.asarray(a)[4:8])[:, None]
        trace = own * trace + d
        signal, at_readout = jax.grad(loss_of, argnums=(0, 1))(
            previous[t + 1], theta, xs.targets[t]
        )
        total = total + signal @ trace + at_readout
    flat = jax.flatten_util.ravel_pytree(run(online.eprop(step), step_problem)[0])[0]
    np.testing.assert_allclose(flat, total / 7, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("cell_name", ["elman", "lru", "two layers"])
def test_the_mean_of_uoro_is_rtrl(cell_name):
    cell = NETWORKS[cell_name] if cell_name in NETWORKS else small(cell_name)
    step, params, carry, xs = problem(cell, length=5)
    learner = online.uoro(step)

    @jax.jit
    @jax.vmap
    def estimates(key):
        grads = learner.update(params, learner.init(params, carry, key=key), xs)[0]
        return jax.flatten_util.ravel_pytree(grads)[0]

    found = np.asarray(estimates(jax.random.split(jax.random.key(3), 4000)))
    exact = jax.flatten_util.ravel_pytree(mean_gradient(params, step, carry, xs))[0]
    errors = found.mean(0) - np.asarray(exact)
    deviation = found.std(0)
    assert (deviation > 1e-6).mean() > 0.4  # it is random, but for the readout
    assert (np.abs(errors) <= 5 * deviation / np.sqrt(len(found)) + 1e-12).all()


def learners(step):
    return [online.rtrl(step), online.snap(step), online.eprop(step), online.uoro(step)]


@pytest.mark.parametrize("number", range(4))
def test_calls_in_any_split_give_the_same_sum(number):
    step_problem = problem(small("gru"))
    step, params, carry, xs = step_problem
    learner = learners(step)[number]
    grads, whole, losses = run(learner, step_problem)
    state = learner.init(params, carry, key=jax.random.key(7) if learner.needs_key else None)
    total, found = jax.tree.map(jnp.zeros_like, params), []
    for begin, end in ((0, 1), (1, 1), (1, 6), (6, 7)):
        part, state, of_part = learner.update(params, state, steps_of(xs, begin, end))
        total = jax.tree.map(lambda a, g, n=end - begin: a + g * n / 7, total, part)
        found.append(of_part)
    assert distance(total, grads) < 1e-12
    assert distance(state[:2], whole[:2]) < 1e-12
    assert distance(jnp.concatenate(found), losses) < 1e-13


@pytest.mark.parametrize("number", often(range(4), (1, 3)))
def test_a_state_is_a_pytree_for_jit_vmap_scan_and_donation(number):
    step, params, carry, xs = step_problem = problem(small("gru"))
    learner = learners(step)[number]
    key = jax.random.key(7) if learner.needs_key else None
    wanted, last, _ = run(learner, step_problem)
    state = learner.init(params, carry, xs, key=key)
    donated = jax.tree.map(jnp.copy, state)
    update = jax.jit(learner.update, donate_argnums=1)
    assert distance(update(params, donated, xs)[0], wanted) < 1e-12

    def one(state, x):
        grads, state, loss = learner.update(params, state, jax.tree.map(lambda a: a[None], x))
        return state, (grads, loss)

    scanned, (grads, _) = jax.lax.scan(one, state, xs)
    assert distance(jax.tree.map(lambda g: jnp.mean(g, 0), grads), wanted) < 1e-12
    assert distance(scanned[:2], last[:2]) < 1e-12
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), (state, xs))
    mapped, _, _ = jax.vmap(learner.update, in_axes=(None, 0, 0))(params, *twice)
    assert distance(jax.tree.map(lambda g: g[1], mapped), wanted) < 1e-12


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_any_batch_axes(batch):
    step_problem = problem(small("lstm"), batch=batch)
    wanted = mean_gradient(step_problem.params, step_problem.step, *step_problem[2:])
    grads, state, losses = run(online.rtrl(step_problem.step), step_problem)
    assert distance(grads, wanted) < 1e-12
    assert losses.shape == (7, *batch)
    assert all(a.shape[: len(batch)] == batch for a in jax.tree.leaves(state.influence))


@pytest.mark.parametrize("dtype", often(("float32", "bfloat16"), ("bfloat16",)))
@pytest.mark.parametrize("number", range(4))
def test_narrow_parameters(number, dtype):
    """Gradients have the dtype of the parameters; what is kept is float32."""
    step_problem = problem(small("lstm"), dtype=dtype)
    grads, state, _ = run(learners(step_problem.step)[number], step_problem)
    assert {str(g.dtype) for g in jax.tree.leaves(grads)} == {dtype}
    assert {str(a.dtype) for a in jax.tree.leaves(state.influence)} == {"float32"}
    if number == 0:
        wanted = mean_gradient(step_problem.params, step_problem.step, *step_problem[2:])
        limit = {"float32": 1e-5, "bfloat16": 0.03}[dtype]
        assert distance(grads, wanted) < limit


def test_no_step_at_all():
    step_problem = problem(small("gru"), length=0)
    grads, state, losses = run(online.rtrl(step_problem.step), step_problem)
    assert losses.shape == (0, 2)
    assert all((g == 0).all() for g in jax.tree.leaves(grads))
    assert distance(state.carry, step_problem.carry) == 0


def test_a_plain_step_with_a_counter_and_its_own_gradient():
    """An integer in the carry, a scalar parameter, a constant, and a custom rule."""
    scale = jnp.asarray(0.3)

    @jax.custom_vjp
    def straight_through(x):
        return jnp.round(x)

    straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))

    def step(params, carry, x):
        h, count = carry
        gain = params["gain"] * jax.lax.convert_element_type(count % 2, h.dtype)
        h = jnp.tanh(h @ params["w"] + x + gain) + scale * straight_through(4 * h) / 4
        return (h, count + 1), jnp.sum(h * h, axis=-1)

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 3))), "gain": jnp.asarray(0.2)}
    carry = jnp.asarray(rng.normal(size=(2, 3))), jnp.zeros(2, jnp.int32)

    def add(h, count):
        return h, count

    xs = jnp.asarray(rng.normal(size=(5, 2, 3)))

    def wide(params, carry, x):  # the counter of each row beside its units
        h, count = carry
        (h, count), loss = jax.vmap(step, in_axes=(None, 0, 0))(params, add(h, count), x)
        return (h, count), loss

    learner = online.rtrl(wide)
    grads, state, losses = learner.update(params, learner.init(params, carry), xs)
    wanted = jax.grad(lambda p: jnp.mean(jaxrnn.scan(wide, p, carry, xs)[1]))(params)
    assert distance(grads, wanted) < 1e-12
    assert (state.carry[1] == 5).all()
    assert losses.shape == (5, 2)


def test_masks_and_resets_of_the_step_itself():
    """`masked` and `resettable` around the cell, with a learned first carry."""
    step, params, carry, xs = problem(small("gru"))
    wrapped = resettable(masked(step), learned=True)
    rng = np.random.default_rng(2)
    start = jax.tree.map(lambda c: c[0] * 0.5, carry)
    params = ResetParams(params, start)
    marks = [jnp.asarray(rng.random((7, 2)) < p) for p in (0.7, 0.3)]
    inputs = ResetInputs(MaskedInputs(xs, marks[0]), marks[1])
    learner = online.rtrl(wrapped)
    grads, _, _ = learner.update(params, learner.init(params, carry), inputs)
    wanted = jax.grad(lambda p: jnp.mean(jaxrnn.scan(wrapped, p, carry, inputs)[1]))(params)
    assert distance(grads, wanted) < 1e-12
