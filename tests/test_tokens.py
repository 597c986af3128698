"""Networks that begin with an embedding: tokens in, everywhere that features go in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import with_functions
from jax import lax
from reference import distance
from test_networks import with_gradient

import jaxrnn
from jaxrnn import bidirectional, dropout, embedding, gru, linear, lstm, residual, stacked, unroll

VALUES, GRADIENTS = 1e-13, 1e-12
T, B, V, I, H = 6, 3, 7, 4, 5
LOOPS = dict(jaxrnn.LOOPS)

NET = stacked(embedding(I), gru(H), linear(V))
NETWORKS = {
    "stacked": NET,
    "nested": stacked(stacked(embedding(I), gru(H)), linear(V)),
    "both ways": bidirectional(stacked(embedding(I), gru(H))),
    "both ways inside": stacked(bidirectional(stacked(embedding(I), lstm(H))), linear(V)),
    "deep": stacked(embedding(I), dropout(0.5), residual(gru(I)), lstm(H)),
    "projected": stacked(embedding(I), linear(3), gru(H)),
    "both tables": stacked(bidirectional(embedding(I)), gru(H)),
    "table": stacked(embedding(I)),
    "Layer": embedding(I),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def tokens_of(*shape, dtype=None):
    return jnp.asarray(np.random.default_rng(1).integers(0, V, shape), dtype)


@functools.cache
def params_of(net):
    with jax.enable_x64(True):
        params = net.init(jax.random.key(0), V, jnp.float64)
        return jax.tree.map(
            lambda p: p + 0.1 * jnp.cos(jnp.arange(1.0 * p.size)).reshape(p.shape), params
        )


def zero(net, batch=(B,)):
    return net.initial_carry(batch, jnp.float64)


def handwritten(params, carry, tokens):
    """NET, by an index, `lax.scan` over the cell and one product."""

    def step(h, token):
        h, y = gru(H)(params[1], h, params[0]["w_e"][token])
        return h, y @ params[2]["w_o"] + params[2]["b_o"][(None,) * (y.ndim - 1)]

    h, logits = lax.scan(step, carry[1], tokens)
    return ((), h, ()), logits


def as_features(net, params, tokens):
    """The same without its table: the parts behind it, and the vectors of the tokens."""
    behind, table = stacked(*net.parts[1:]), params[0]["w_e"]
    return behind, params[1:], table[tokens]


@pytest.mark.parametrize(
    ("loop_name", "batch"),
    [
        *(("bptt", batch) for batch in ((), (B,), (2, 3), (B, 1))),
        *((name, (B,)) for name in ("scan", "truncated:4", "checkpointed")),
    ],
)
def test_tokens_go_in_and_logits_come_out(loop_name, batch):
    loop, tokens = LOOPS[loop_name], tokens_of(T, *batch)
    params, carry = params_of(NET), jax.tree.map(lambda c: c + 0.3, zero(NET, batch))

    def judge(params, carry):
        if loop_name != "truncated:4":
            return handwritten(params, carry, tokens)
        carry, first = handwritten(params, carry, tokens[:4])
        carry, second = handwritten(params, jax.tree.map(lax.stop_gradient, carry), tokens[4:])
        return carry, jnp.concatenate([first, second])

    got = with_gradient(lambda p, c: unroll(NET, p, tokens, carry=c, loop=loop), params, carry)
    wanted = with_gradient(judge, params, carry)
    assert got[1][1].shape == (T, *batch, V)
    assert distance(got[1], wanted[1]) < VALUES
    assert distance(got[0], wanted[0]) < GRADIENTS


@every_network
@pytest.mark.parametrize("batch", [(), (B,), (2, 3)], ids=str)
def test_every_network_starts_from_its_zero_state(name, batch):
    net, tokens = NETWORKS[name], tokens_of(T, *batch)
    assert net.num_feature_axes == 0
    params = params_of(net)
    carry, ys = unroll(net, params, tokens)
    assert jax.tree.map(jnp.shape, carry) == jax.tree.map(jnp.shape, zero(net, batch))
    assert ys.shape[:-1] == (T, *batch)
    with_carry = unroll(net, params, tokens, carry=zero(net, batch))
    assert distance((carry, ys), with_carry) == 0


@pytest.mark.parametrize("name", ["stacked", "nested", "deep", "table", "Layer"])
@pytest.mark.parametrize("batch", [(), (B,)], ids=str)
def test_streaming_equals_the_sequence(name, batch):
    net, tokens = NETWORKS[name], tokens_of(T, *batch)
    params, carry = params_of(net), zero(net, batch)
    last, ys = unroll(net, params, tokens)
    for token, y in zip(tokens, ys, strict=True):
        carry, streamed = net(params, carry, token)
        assert distance(streamed, y) < VALUES
    assert distance(carry, last) < VALUES


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "uint32", "int64"])
def test_tokens_of_every_integer_dtype(dtype):
    tokens = tokens_of(T, B)
    for xs in (tokens.astype(dtype), np.asarray(tokens, dtype)):
        assert distance(unroll(NET, params_of(NET), xs), unroll(NET, params_of(NET), tokens)) == 0


@pytest.mark.parametrize("steps", [0, 1])
def test_few_steps(steps):
    carry, logits = unroll(NET, params_of(NET), tokens_of(steps, B))
    assert logits.shape == (steps, B, V)
    assert jax.tree.map(jnp.shape, carry) == ((), (B, H), ())


@every_network
def test_ragged_rows_are_each_row_alone(name):
    """Whatever stands in the padding, a token that does not exist too."""
    net, lengths = NETWORKS[name], np.array([T, 0, 2])
    params, tokens = params_of(net), tokens_of(T, B)
    padding = jaxrnn.lengths_to_mask(lengths, T)

    def row(b, params):
        carry, ys = unroll(net, params, tokens[: lengths[b], b])
        return carry, jnp.concatenate([ys, jnp.zeros((T - lengths[b], ys.shape[-1]))])

    def alone(params):
        rows = [row(b, params) for b in range(B)]
        carry = jax.tree.map(lambda *c: jnp.stack(c), *(carry for carry, _ in rows))
        return carry, jnp.stack([ys for _, ys in rows], 1)

    def value(params, tokens):
        # Put in the place of a token, this fill would be one that does not exist.
        outputs = unroll(net, params, tokens, lengths=lengths, fill_value=-1.0)
        leaves = jax.tree.leaves(outputs)
        return sum(jnp.vdot(jnp.cos(jnp.arange(y.size * 1.0)), y.ravel()) for y in leaves), outputs

    gradient, wanted = jax.jit(jax.grad(value, has_aux=True)), with_gradient(alone, params)
    for elsewhere in (0, V - 1, V, -1):
        got = gradient(params, jnp.where(padding, tokens, elsewhere))
        assert distance(got, (wanted[0][0], wanted[1])) < GRADIENTS


def test_any_mask_and_resets_are_those_of_the_vectors():
    rng, net = np.random.default_rng(2), stacked(embedding(I), gru(H), lstm(3))
    mask, reset = (jnp.asarray(rng.random((T, B)) < chance) for chance in (0.6, 0.3))
    params, tokens = params_of(net), tokens_of(T, B)
    start = jax.tree.map(lambda c: c + 0.3, zero(net))
    said = {"mask": mask, "reset": reset, "reverse": True}

    def with_vectors(params, start):
        behind, own, xs = as_features(net, params, tokens)
        carry, ys = unroll(behind, own, xs, reset_carry=start[1:], **said)
        return ((), *carry), ys

    def ours(params, start):
        padded = jnp.where(mask, tokens, V + 3)
        return unroll(net, params, padded, reset_carry=start, **said)

    assert (
        distance(with_gradient(ours, params, start), with_gradient(with_vectors, params, start))
        < GRADIENTS
    )


def test_noise_is_drawn_behind_the_table():
    net, key = NETWORKS["deep"], jax.random.key(3)
    tokens = tokens_of(T, B)
    _, noisy = unroll(net, params_of(net), tokens, key=key)
    _, again = unroll(net, params_of(net), tokens, key=key, loop=jaxrnn.checkpointed())
    assert distance(noisy, again) < VALUES
    assert distance(noisy, unroll(net, params_of(net), tokens)[1]) > 0.1


def test_a_token_that_does_not_exist_is_seen():
    tokens = tokens_of(T, B).at[2, 1].set(V)
    _, logits = unroll(NET, params_of(NET), tokens)
    assert np.isnan(logits).any(-1).tolist() == [
        [b == 1 and t >= 2 for b in range(B)] for t in range(T)
    ]


def test_many_to_one():
    lengths = np.array([T, 1, 2])
    carry, logits = unroll(NET, params_of(NET), tokens_of(T, B), lengths=lengths)
    last = NET.output(params_of(NET), carry)
    assert distance(last, logits[lengths - 1, np.arange(B)]) < VALUES


def test_a_cell_may_take_tokens_itself():
    """A cell of one's own, with masks, resets, transformations and a loss inside the loop."""
    inner = gru(H)

    def project(params, tokens):
        return inner.project(params["cell"], embedding(I).apply(params["table"], tokens))

    cell = with_functions(
        inner,
        init=lambda key, size, dtype: {
            "table": embedding(I).init(key, size, dtype),
            "cell": inner.init(key, I, dtype),
        },
        project=project,
        output=lambda params, carry: inner.output(params["cell"], carry),
        prepare=lambda params: inner.prepare(params["cell"]),
        num_feature_axes=0,
    )
    assert jaxrnn.certify(cell).ok
    net = stacked(embedding(I), inner)
    params, tokens = params_of(net), tokens_of(T, B)
    said = {"lengths": np.array([T, 0, 2]), "reset": tokens == 3}

    def ours(params):
        own = {"table": params[0], "cell": params[1]}
        carry, ys = unroll(cell, own, tokens, **said)
        return ((), carry), ys

    wanted = with_gradient(lambda params: unroll(net, params, tokens, **said), params)
    assert distance(with_gradient(ours, params), wanted) < GRADIENTS
    own = cell.init(jax.random.key(0), V, jnp.float64)
    for wrapped in (
        jaxrnn.transforms.zoneout(cell, 0.1),
        jaxrnn.transforms.variational_dropout(cell, state_rate=0.3),
    ):
        _, ys = unroll(wrapped, own, tokens, key=jax.random.key(0), lengths=np.array([T, 0, 2]))
        assert ys.shape == (T, B, H)
    nats = optax.softmax_cross_entropy_with_integer_labels
    with_loss = jaxrnn.transforms.step_loss(cell, linear(V), nats)
    xs = jaxrnn.transforms.StepLossInputs(tokens, tokens.astype(jnp.int32))
    _, losses = unroll(with_loss, with_loss.init(jax.random.key(0), V, jnp.float64), xs)
    assert losses.shape == (T, B)


def test_history_shows_every_state():
    tokens, net = tokens_of(T, B), stacked(embedding(I), lstm(H))
    behind, params, xs = as_features(net, params_of(net), tokens)
    states, ys = jaxrnn.history(net, params_of(net), tokens)
    wanted, same = jaxrnn.history(behind, params, xs)
    assert distance((states[1], ys), (wanted[0], same)) < VALUES
    assert states[0] == ()


@pytest.mark.parametrize(
    "net", [NET, embedding(I), stacked(embedding(I), lstm(H))], ids=["GRU", "Layer", "LSTM"]
)
def test_the_certificate_draws_tokens(net):
    certificate = jaxrnn.certify(net)
    assert certificate.ok, str(certificate)
    judged = {row.array for row in certificate.rows if row.reference == "autodiff"}
    assert any(array.endswith("['w_e']") for array in judged)
    assert "xs" not in judged


def test_a_file_gives_it_back(tmp_path):
    files = pytest.importorskip("jaxrnn.interop.safetensors")
    for name, net in NETWORKS.items():
        files.save(tmp_path / "net", net, params_of(net))
        loaded, params = files.load(tmp_path / "net")
        assert loaded == net, name
        assert distance(params, params_of(net)) == 0


def mean_loss(params, tokens, targets, loop=jaxrnn.bptt):
    _, logits = unroll(NET, params, tokens, loop=loop)
    nats = optax.softmax_cross_entropy_with_integer_labels
    return jaxrnn.masked_mean(nats, logits, targets)


def test_a_loss_over_tokens_is_looked_at_and_planned():
    params, tokens = params_of(NET), tokens_of(T, 4)
    targets = jnp.roll(tokens, -1, 0)
    value, grads = jax.value_and_grad(mean_loss)(params, tokens, targets)
    flow = jaxrnn.diagnostics.gradient_flow(mean_loss, params, tokens, targets)
    assert distance((flow.value, flow.grads), (value, grads)) < GRADIENTS
    assert flow.norms[0].shape == (T, 4)
    (terms,) = jaxrnn.diagnostics.per_step_gradients(mean_loss, params, tokens, targets)
    assert distance(jax.tree.map(lambda x: x.sum(0), terms), grads[1]) < GRADIENTS
    assert jaxrnn.diagnostics.locate_nonfinite(mean_loss, params, tokens, targets) is None
    found = jaxrnn.diagnostics.locate_nonfinite(mean_loss, params, tokens.at[2, 1].set(V), targets)
    assert (found.quantity, found.step, found.position) == ("inputs", 2, (1,))
    loops = (("bptt", jaxrnn.bptt),)
    plan = jaxrnn.diagnostics.memory_plan(mean_loss, params, tokens, targets, loops=loops)
    assert plan.best.name == "bptt"
    split = jaxrnn.training.data_parallel(mean_loss, in_axes=(None, 1, 1))
    assert distance(jax.grad(split)(params, tokens, targets), grads) < GRADIENTS


def test_a_loss_inside_the_loop():
    params, tokens = params_of(NET), tokens_of(T, B)
    targets = jnp.roll(tokens, -1, 0)
    nats = optax.softmax_cross_entropy_with_integer_labels
    step = jaxrnn.transforms.step_loss(stacked(embedding(I), gru(H)), linear(V), nats)

    def inside(params):
        own = (params[:2], params[2])
        xs = jaxrnn.transforms.StepLossInputs(tokens, targets)
        return unroll(step, own, xs, carry=((), jnp.zeros((B, H))), loop=jaxrnn.checkpointed())[1]

    wanted = with_gradient(lambda params: nats(unroll(NET, params, tokens)[1], targets), params)
    assert distance(with_gradient(inside, params), wanted) < GRADIENTS


def test_it_is_trained_and_writes_on():
    def loss(params, carry, batch, key):
        carry, logits = unroll(NET, params, batch[:-1], carry=carry)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1:])
        return nats.mean(), (carry, {})

    trainer = jaxrnn.training.trainer(loss, optax.adam(0.05))
    params = NET.init(jax.random.key(0), V)
    state, update = (
        trainer.init(params, jax.random.key(0), NET.initial_carry((1,))),
        jax.jit(trainer.update),
    )
    said = jnp.arange(15)[:, None] % 5  # 0 1 2 3 4 0 …
    with jax.numpy_dtype_promotion("standard"):  # as optax's Adam wants it
        for _ in range(150):
            state, metrics = update(state, said)
    assert metrics["loss"] < 0.05
    write = jaxrnn.transforms.autoregressive(NET, lambda logits, _: jnp.argmax(logits, -1))
    first = (NET.initial_carry((1,)), jnp.array([2]))
    _, written = unroll(write, state.params, jnp.arange(8), carry=first)
    assert written.next_x[:, 0].tolist() == [3, 4, 0, 1, 2, 3, 4, 0]
    carry, streamed = first, []
    for s in range(8):
        carry, generated = write(state.params, carry, s)
        streamed.append(int(generated.next_x[0]))
    assert streamed == written.next_x[:, 0].tolist()


def test_sizes_chain_behind_a_table():
    params = NETWORKS["both ways inside"].init(jax.random.key(0), 11, jnp.bfloat16)
    assert params[0].forward[0]["w_e"].shape == (11, I)
    assert params[0].backward[1]["w_x"].shape == (I, 4 * H)
    assert params[1]["w_o"].shape == (2 * H, V)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


def test_a_layer_of_tokens_hands_their_number_on():
    class shift(jaxrnn.Layer):
        num_feature_axes = 0

        def init(self, key, input_size, dtype=jnp.float32):
            return ()

        def apply(self, params, inputs):
            return (inputs + 1) % V

    net = stacked(shift(), embedding(I), gru(H))
    params, tokens = net.init(jax.random.key(0), V), tokens_of(T, B)
    assert params[1]["w_e"].shape == (V, I)
    wanted = unroll(stacked(*net.parts[1:]), params[1:], (tokens + 1) % V)
    assert distance(unroll(net, params, tokens)[1], wanted[1]) == 0
