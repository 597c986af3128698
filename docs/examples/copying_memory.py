"""Copying memory: ten symbols are to be repeated after a long delay.

A model without memory predicts blanks, then guesses: its loss is 10 ln 8 / (T + 20). A tanh network
stays there. S. Hochreiter and J. Schmidhuber (1997); M. Arjovsky, A. Shah, Y. Bengio, "Unitary
evolution recurrent neural networks", ICML 2016; M. Henaff, A. Szlam, Y. LeCun, "Recurrent
orthogonal networks and long-memory tasks", ICML 2016, solve it with an orthogonal linear network.
"""

import argparse
import math

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn import diagnostics

NUM_SYMBOLS, LENGTH = 8, 10
BLANK, DELIMITER = 0, NUM_SYMBOLS + 1  # symbols are 1 to 8


def identity(a):
    """Returns its argument: the activation of a linear network."""
    return a


def cells(delay, size):
    """Returns the cells by name. Forget gates start with a time constant of the delay."""
    return {
        "tanh": jaxrnn.elman(size),
        "orthogonal": jaxrnn.elman(size, activation=identity),
        "GRU": jaxrnn.gru(size),
        "LSTM": jaxrnn.lstm(size, forget_bias=math.log(delay)),
        "LRU": jaxrnn.lru(size, r_min=0.98, r_max=0.999),
    }


def draw(key, delay, batch_size):
    """Returns one-hot inputs `(T + 20, B, 10)` and targets `(T + 20, B)`."""
    symbols = jax.random.randint(key, (LENGTH, batch_size), 1, NUM_SYMBOLS + 1)
    tokens = jnp.full((delay + 2 * LENGTH, batch_size), BLANK)
    inputs = tokens.at[:LENGTH].set(symbols).at[LENGTH + delay - 1].set(DELIMITER)
    return jax.nn.one_hot(inputs, DELIMITER + 1), tokens.at[-LENGTH:].set(symbols)


def train(cell, delay, num_updates, batch_size):
    """Returns the trained parameters, and the metrics of each update."""
    network = jaxrnn.stacked(cell, jaxrnn.linear(NUM_SYMBOLS + 1))

    def loss(params, carry, batch, key):
        xs, targets = draw(key, delay, batch_size)
        _, logits = jaxrnn.unroll(network, params, xs)
        recalled = jnp.mean(jnp.argmax(logits[-LENGTH:], -1) == targets[-LENGTH:])
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return jnp.mean(nats), (carry, {"recalled": recalled})

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3))
    trainer = jaxrnn.training.trainer(loss, optimizer)
    params = network.init(jax.random.key(0), DELIMITER + 1)
    state = trainer.init(params, jax.random.key(1))
    updates = jnp.arange(num_updates)
    state, metrics = jax.jit(lambda s: jax.lax.scan(trainer.update, s, updates))(state)
    return state.params, metrics


def main():
    """Trains each cell, prints its loss beside the baseline, and draws curves and horizons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, which learns nothing")
    parser.add_argument("--delay", type=int, default=100, help="T, the number of blank steps")
    parser.add_argument("--out", default="copying_memory.png", help="where the picture is saved")
    args = parser.parse_args()
    delay, size, num_updates, batch_size = args.delay, 128, 1500, 32
    if args.quick:
        delay, size, num_updates, batch_size = 5, 8, 2, 4

    baseline = LENGTH * math.log(NUM_SYMBOLS) / (delay + 2 * LENGTH)
    print(f"T = {delay}: without memory the loss is {baseline:.4f}, and 12.5% are recalled")
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set_prop_cycle(color=diagnostics.plots.COLOURS, linestyle=diagnostics.plots.STYLES)
    horizons = {}
    for name, cell in [*cells(delay, size).items()][: 1 if args.quick else None]:
        params, metrics = train(cell, delay, num_updates, batch_size)
        last = {key: float(values[-50:].mean()) for key, values in metrics.items()}
        print(f"{name}: loss {last['loss']:.4f}, recalled {last['recalled']:.1%}")
        left.plot(metrics["loss"], label=name, linewidth=1)

        xs, _ = draw(jax.random.key(2), delay, 1)
        spectrum = jax.jit(
            lambda w, xs, cell=cell: diagnostics.jacobian_spectrum(
                cell, w, cell.initial_carry((1,)), xs, probes=4, key=jax.random.key(3)
            )
        )(params[0], xs)
        horizons[name] = diagnostics.memory_horizon(spectrum)

    left.axhline(baseline, color="black", linewidth=0.5, label="no memory")
    left.set(xlabel="update", ylabel="loss, nats a step", yscale="log", title="Copying memory")
    left.legend(fontsize="small")
    diagnostics.plots.plot_memory_horizon(right, horizons)
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
