"""Words: a language model of two LSTMs with dropout, beside n-grams with back-off.

The text is Python's own documentation (`pydoc_data.topics`). The model is that of W. Zaremba, I.
Sutskever, O. Vinyals (2014), dropout between layers, with variational dropout (Y. Gal, Z.
Ghahramani, 2016) and tied weights (S. Merity, N. Keskar, R. Socher, 2018). On the Penn Treebank
they report perplexities of 82.7 (Zaremba, medium), 57.3 (Merity), and 141 for 5-grams.
"""

import argparse
import re
from collections import Counter
from pydoc_data import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxrnn

UNKNOWN, LEAST_COUNT = "<unk>", 3


def load():
    """Returns the tokens of the training part and of the test part, and the vocabulary."""
    text = "\n".join(topics.topics.values()).lower()
    words = re.findall(r"[a-z]+|\d+|[^\sa-z\d]|\n", text)
    split = len(words) * 95 // 100
    counts = Counter(words[:split])
    vocabulary = [UNKNOWN, *(word for word, n in counts.most_common() if n >= LEAST_COUNT)]
    number = {word: i for i, word in enumerate(vocabulary)}
    tokens = np.array([number.get(word, 0) for word in words], np.int32)
    return tokens[:split], tokens[split:], vocabulary


def perplexity_of_ngrams(training, test, size, discount=0.75):
    """Returns the perplexity of interpolated trigrams, by absolute discounting."""
    grams = [Counter(zip(*(training[i:] for i in range(n)), strict=False)) for n in (1, 2, 3)]
    starts = [Counter(gram[:-1] for gram in counts) for counts in grams]
    totals = [Counter() for _ in grams]
    for total, counts in zip(totals, grams, strict=True):
        for gram, n in counts.items():
            total[gram[:-1]] += n

    def probability(gram):
        lower = probability(gram[1:]) if len(gram) > 1 else 1 / size
        order = len(gram) - 1
        total = totals[order][gram[:-1]]
        if total == 0:
            return lower
        kept = max(0, grams[order][gram] - discount) / total
        return kept + discount * starts[order][gram[:-1]] / total * lower

    trigrams = zip(test, test[1:], test[2:], strict=False)
    return np.exp(-np.mean([np.log(probability(gram)) for gram in trigrams]))


def main():
    """Trains by stateful truncated BPTT, and prints perplexities on the test part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, which learns nothing")
    parser.add_argument("--out", default="words.png", help="where the picture is saved")
    args = parser.parse_args()
    size, rows, steps, num_epochs, limit = 200, 20, 35, 10, None
    if args.quick:
        size, rows, steps, num_epochs, limit = 8, 2, 5, 1, 200

    training, test, vocabulary = load()
    training, test = training[:limit], test[:limit]
    baseline = perplexity_of_ngrams(training.tolist(), test.tolist(), len(vocabulary))
    print(f"{len(training)} words, {len(vocabulary)} different ones")
    print(f"trigrams: perplexity {baseline:.1f}")

    embedding = jaxrnn.embedding(size)
    lstm = jaxrnn.transforms.variational_dropout(jaxrnn.lstm(size), state_rate=0.1)
    dropout = jaxrnn.dropout(0.2)
    network = jaxrnn.stacked(dropout, lstm, dropout, lstm, dropout)

    def score(params, carry, tokens, key=None):
        """Returns the mean of -log p in nats; the embedding is the readout too."""
        xs = embedding.apply(params["words"], tokens[:-1])
        carry, ys = jaxrnn.unroll(network, params["network"], xs, carry=carry, key=key)
        logits = ys @ params["words"]["w_e"].T + params["b"]
        nats = optax.softmax_cross_entropy_with_integer_labels
        return jaxrnn.masked_mean(nats, logits, tokens[1:]), carry

    def loss(params, carry, batch, key):
        value, carry = score(params, carry, batch, key)
        return value, (carry, {})

    # Rows are consecutive streams, and segments share one word with their neighbours.
    num_segments = (len(training) // rows - 1) // steps
    streams = training[: (num_segments * steps + 1) * rows]
    streams = streams.reshape(rows, -1).T
    segments = np.stack([streams[i * steps : (i + 1) * steps + 1] for i in range(num_segments)])
    num_updates = num_epochs * num_segments
    rate = optax.cosine_decay_schedule(3e-3, num_updates)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(rate, weight_decay=0.01))
    trainer = jaxrnn.training.trainer(loss, optimizer)
    key_words, key_network, key_train = jax.random.split(jax.random.key(0), 3)
    params = {
        "words": jax.tree.map(lambda w: 0.1 * w, embedding.init(key_words, len(vocabulary))),
        "network": network.init(key_network, size),
        "b": jnp.zeros(len(vocabulary)),
    }
    zero = network.initial_carry((rows,))
    state = trainer.init(params, key_train, carry=zero)
    epoch = jax.jit(lambda state: jax.lax.scan(trainer.update, state, segments), donate_argnums=0)
    evaluate = jax.jit(score)
    curves = {"training, with dropout": [], "test": []}
    for number in range(num_epochs):
        state, metrics = epoch(state._replace(carry=jax.tree.map(jnp.zeros_like, zero)))
        nats, _ = evaluate(state.params, network.initial_carry(), test)
        values = float(jnp.exp(metrics["loss"].mean())), float(jnp.exp(nats))
        for curve, value in zip(curves.values(), values, strict=True):
            curve.append(value)
        print(f"epoch {number + 1}: perplexity {values[0]:.1f}, in the test {values[1]:.1f}")

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (name, curve), style in zip(curves.items(), ("dashed", "solid"), strict=True):
        axes.plot(range(1, num_epochs + 1), curve, label=name, linestyle=style)
    axes.axhline(baseline, color="black", linewidth=0.5, label="trigrams")
    axes.set(xlabel="epoch", ylabel="perplexity", yscale="log", title="Words")
    axes.legend(fontsize="small")
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
