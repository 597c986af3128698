"""Ensemble: 16 networks from 16 seeds, initialised, trained and evaluated in one program.

Each reads scikit-learn's handwritten digits row by row, 8 steps of 8 pixels. They are trained on
the first half of the images, and tested on the second half. scikit-learn's own example (G.
Varoquaux, "Recognizing hand-written digits") reports 97 % on the same halves, by a support vector
machine that sees all 64 pixels at once.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import jaxrnn
from jaxrnn.diagnostics.plots import COLOURS

PUBLISHED = 0.97
CELLS = {"tanh": jaxrnn.elman(64), "GRU": jaxrnn.gru(64), "LSTM": jaxrnn.lstm(64)}


def load():
    """Returns pixels `(8, 1797, 8)`, from 0 to 1, and labels `(1797,)`."""
    digits = load_digits()
    rows = jnp.asarray(digits.images / 16, jnp.float32)
    return jaxrnn.to_time_major(rows), jnp.asarray(digits.target)


def accuracies(cell, pixels, labels, num_rounds, num_updates, key):
    """Trains one network from a key, and returns its accuracy on the test half after each round."""
    network = jaxrnn.stacked(cell, jaxrnn.linear(10))
    half = len(labels) // 2

    def logits_of(params, xs):
        last, _ = jaxrnn.unroll(network, params, xs)
        return network.output(params, last)

    def loss(params, carry, batch, key):
        chosen = jax.random.randint(key, (64,), 0, half)
        logits = logits_of(params, pixels[:, chosen])
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen])
        return jnp.mean(nats), (carry, {})

    trainer = jaxrnn.training.trainer(loss, optax.adam(3e-3))

    def train_and_test(state, _):
        state, _ = jax.lax.scan(trainer.update, state, jnp.arange(num_updates))
        answers = jnp.argmax(logits_of(state.params, pixels[:, half:]), axis=-1)
        return state, jnp.mean(answers == labels[half:])

    key_init, key_train = jax.random.split(key)
    state = trainer.init(network.init(key_init, pixels.shape[-1]), key_train)
    return jax.lax.scan(train_and_test, state, length=num_rounds)[1]


def main():
    """Trains all seeds of each cell at once, and draws median and spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, which learns nothing")
    parser.add_argument("--out", default="ensemble.png", help="where the picture is saved")
    args = parser.parse_args()
    num_seeds, num_rounds, num_updates = (2, 2, 1) if args.quick else (16, 40, 25)

    pixels, labels = load()
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, cell) in [*enumerate(CELLS.items())][: 1 if args.quick else None]:
        run = functools.partial(accuracies, cell, pixels, labels, num_rounds, num_updates)
        curves = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), num_seeds))
        last = curves[:, -1]
        print(
            f"{name}: {last.mean():.1%} of the test half, standard deviation {last.std():.1%}, "
            f"from {last.min():.1%} to {last.max():.1%} over {num_seeds} seeds"
        )
        updates = num_updates * jnp.arange(1, num_rounds + 1)
        low, middle, high = jnp.quantile(curves, jnp.array([0.0, 0.5, 1.0]), axis=0)
        axes.plot(updates, middle, color=COLOURS[i], label=name)
        axes.fill_between(updates, low, high, color=COLOURS[i], alpha=0.2)
    axes.axhline(PUBLISHED, color="black", linewidth=0.5, label="support vector machine")
    axes.set(xlabel="update", ylabel="accuracy", ylim=(None, 1))
    axes.set_title(f"Digits by rows, {num_seeds} seeds")
    axes.legend(fontsize="small")
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
