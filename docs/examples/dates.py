"""Dates: an encoder and a decoder with attention rewrite dates, character by character.

"Sunday, May 3, 1998" and "3 May 1998" become "3.5.1998". Rows are ragged on both sides. D.
Bahdanau, K. Cho, Y. Bengio, "Neural machine translation by jointly learning to align and
translate", ICLR 2015, is the model. No date of the test is in the training part.
"""

import argparse
import datetime

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxrnn

FORMATS = ("{d} {b} {y}", "{b} {d}, {y}", "{a}, {b} {d}, {y}", "{y}-{m:02}-{d:02}")
END, ENCODER = 0, jaxrnn.bidirectional(jaxrnn.gru(64))
EMBEDDING, DECODER = jaxrnn.embedding(32), jaxrnn.gru(64)


def load():
    """Returns sources and targets of all dates of two centuries, padded, and the characters."""
    days = [datetime.date(1900, 1, 1) + datetime.timedelta(i) for i in range(73_000)]
    sources, targets = [], []
    for i, day in enumerate(days):
        names = {"d": day.day, "m": day.month, "y": day.year}
        sources.append(FORMATS[i % len(FORMATS)].format(**names, a=f"{day:%A}", b=f"{day:%B}"))
        targets.append(f"{day.day}.{day.month}.{day.year}")
    characters = ["", *sorted({*"".join(sources + targets)})]
    number = {character: i for i, character in enumerate(characters)}

    def table(texts):
        rows = np.zeros((len(texts), max(map(len, texts)) + 1), np.int32)  # at least one END
        for row, text in zip(rows, texts, strict=True):
            row[: len(text)] = [number[character] for character in text]
        return rows

    return table(sources), table(targets), characters


def decode(params, h, token):
    """A Step that reads all of the encoder's outputs, weighted by attention."""
    weights, memory, is_source = params
    scores = jnp.tanh(memory @ weights["memory"] + h @ weights["query"]) @ weights["score"]
    attention = jax.nn.softmax(jnp.where(is_source, scores, -jnp.inf), axis=0)
    context = jnp.sum(attention[..., None] * memory, axis=0)
    vector = EMBEDDING.apply(weights["embedding"], token)
    h, _ = DECODER(weights["gru"], h, jnp.concatenate([vector, context], axis=-1))
    return h, (jnp.concatenate([h, context], axis=-1) @ weights["readout"], attention)


def init(key, num_characters):
    """Draws all parameters."""
    keys = iter(jax.random.split(key, 8))
    draw = jax.nn.initializers.lecun_normal()
    decoder = {
        "memory": draw(next(keys), (128, 64)),
        "query": draw(next(keys), (64, 64)),
        "score": draw(next(keys), (64, 1))[:, 0],
        "embedding": EMBEDDING.init(next(keys), num_characters),
        "gru": DECODER.init(next(keys), 32 + 128),
        "readout": draw(next(keys), (64 + 128, num_characters)),
    }
    characters = EMBEDDING.init(next(keys), num_characters)
    return {"characters": characters, "encoder": ENCODER.init(next(keys), 32), "decoder": decoder}


def encode(params, sources):
    """Returns the parameters of `decode` for these sources `(S, B)`, and its first carry."""
    is_source = sources != END
    xs = EMBEDDING.apply(params["characters"], sources)
    carry, memory = jaxrnn.unroll(ENCODER, params["encoder"], xs, mask=is_source)
    return (params["decoder"], memory, is_source), carry.backward


def greedy(y, _):
    """Returns the most probable token, as the next input."""
    return jnp.argmax(y[0], axis=-1).astype(jnp.int32)


def main():
    """Trains, decodes held-out dates greedily, and draws the attention of one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, which learns nothing")
    parser.add_argument("--out", default="dates.png", help="where the picture is saved")
    args = parser.parse_args()
    num_updates, batch_size, num_test = (2, 4, 8) if args.quick else (2000, 64, 2000)

    sources, targets, characters = load()
    order = np.random.default_rng(0).permutation(len(sources))
    sources, targets = (jnp.asarray(table[order].T) for table in (sources, targets))
    first = jnp.full(targets.shape[1], END, jnp.int32)

    def loss(params, carry, batch, key):
        rows = jax.random.randint(key, (batch_size,), num_test, sources.shape[1])
        decoder, h = encode(params, sources[:, rows])
        inputs = jaxrnn.shift_right(first[rows], targets[:, rows])
        _, (logits, _) = jaxrnn.unroll(decode, decoder, inputs, carry=h)
        is_target = jaxrnn.shift_right(first[rows] == END, targets[:, rows] != END)  # and one END
        nats = optax.softmax_cross_entropy_with_integer_labels
        return jaxrnn.masked_mean(nats, logits, targets[:, rows], mask=is_target), (carry, {})

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3))
    trainer = jaxrnn.training.trainer(loss, optimizer)
    state = trainer.init(init(jax.random.key(0), len(characters)), jax.random.key(1))
    updates = jnp.arange(num_updates)
    state, metrics = jax.jit(lambda s: jax.lax.scan(trainer.update, s, updates))(state)

    decoder, h = encode(state.params, sources[:, :num_test])
    writer = jaxrnn.transforms.autoregressive(decode, greedy)
    ticks = jnp.arange(len(targets))
    _, written = jaxrnn.unroll(writer, decoder, ticks, carry=(h, first[:num_test]))
    has_ended = jnp.cumsum(written.next_x == END, axis=0) > 0
    answers = jnp.where(has_ended, END, written.next_x)
    exact = jnp.mean(jnp.all(answers == targets[:, :num_test], axis=0))
    print(f"loss after {num_updates} updates: {metrics['loss'][-20:].mean():.4f} nats a character")
    print(f"exact match on {num_test} dates that training has not seen: {exact:.2%}")

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    source, answer = ([characters[i] for i in table[:, 0] if i] for table in (sources, answers))
    attention = written.y[1][: len(answer), : len(source), 0]
    axes.imshow(attention, cmap="cividis", aspect="auto")
    axes.set(title="Attention: which characters of the source an answer reads")
    axes.set_xticks(range(len(source)), source)
    axes.set_yticks(range(len(answer)), answer)
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
