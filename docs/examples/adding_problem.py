"""Adding problem: the sum of two marked numbers in a long sequence of random ones.

A model that always answers 1 has a mean squared error of 1/6 = 0.167. S. Hochreiter and J.
Schmidhuber, "Long short-term memory", Neural Computation 9 (1997); with T = 200 and more: Q. Le, N.
Jaitly, G. Hinton, "A simple way to initialize recurrent networks of rectified linear units" (2015).
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn.diagnostics.plots import COLOURS, STYLES

BASELINE, SOLVED = 1 / 6, 0.01


def cells(size):
    """Returns the cells by name."""
    return {
        "tanh": jaxrnn.elman(size),
        "LSTM": jaxrnn.lstm(size),
        "GRU": jaxrnn.gru(size),
        "minGRU": jaxrnn.min_gru(size),
    }


def draw(key, num_steps, batch_size):
    """Returns inputs `(T, B, 2)`, numbers and marks, and the sum of the marked numbers `(B)`."""
    key_numbers, key_first, key_second = jax.random.split(key, 3)
    numbers = jax.random.uniform(key_numbers, (num_steps, batch_size))
    half = num_steps // 2
    first = jax.random.randint(key_first, (batch_size,), 0, half)
    second = jax.random.randint(key_second, (batch_size,), half, num_steps)
    steps = jnp.arange(num_steps)[:, None]
    marks = ((steps == first) | (steps == second)).astype(numbers.dtype)
    return jnp.stack([numbers, marks], axis=-1), jnp.sum(numbers * marks, axis=0)


def train(cell, num_steps, num_updates, batch_size):
    """Returns the mean squared error of each update, on numbers that it has not seen before."""
    network = jaxrnn.stacked(cell, jaxrnn.linear(1))

    def loss(params, carry, batch, key):
        xs, sums = draw(key, num_steps, batch_size)
        last, _ = jaxrnn.unroll(network, params, xs)
        answers = network.output(params, last)[..., 0]
        return jnp.mean((answers - sums) ** 2), (carry, {})

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3))
    trainer = jaxrnn.training.trainer(loss, optimizer)
    state = trainer.init(network.init(jax.random.key(0), 2), jax.random.key(1))
    updates = jnp.arange(num_updates)
    _, metrics = jax.jit(lambda s: jax.lax.scan(trainer.update, s, updates))(state)
    return metrics["loss"]


def main():
    """Trains each cell, and tells after how many updates it has solved the task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, which learns nothing")
    parser.add_argument("--steps", type=int, default=200, help="T, the length of a sequence")
    parser.add_argument("--out", default="adding_problem.png", help="where the picture is saved")
    args = parser.parse_args()
    num_steps, size, num_updates, batch_size, window = args.steps, 64, 2500, 32, 50
    if args.quick:
        num_steps, size, num_updates, batch_size, window = 10, 8, 4, 4, 2

    print(f"T = {num_steps}: the mean squared error of always answering 1 is {BASELINE:.3f}")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    for name, cell in [*cells(size).items()][: 1 if args.quick else None]:
        losses = train(cell, num_steps, num_updates, batch_size)
        means = jnp.convolve(losses, jnp.ones(window) / window, mode="valid")
        below = jnp.flatnonzero(means < SOLVED)
        solved = f"below {SOLVED} after {below[0] + window} updates" if len(below) else "not solved"
        print(f"{name}: {means[-1]:.4f} at the end, {solved}")
        axes.plot(jnp.arange(window, num_updates + 1), means, label=name)
    axes.axhline(BASELINE, color="black", linewidth=0.5, label="always 1")
    axes.set(xlabel="update", ylabel=f"mean squared error, {window} updates", yscale="log")
    axes.set_title(f"Adding problem, T = {num_steps}")
    axes.legend(fontsize="small")
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
