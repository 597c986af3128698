"""A stream whose rule changes: learned online, with an update at every step.

The target is an input from a few steps ago, and how many changes without notice. Nothing ends, so
there is no sequence to propagate back through: `jaxrnn.online` learns at every step, in memory that
does not grow. Truncated backpropagation with the same memory stands beside it.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn import diagnostics, online, transforms

LAGS = (2, 5, 1, 8, 3)  # the rules, one after another


def draw(key, num_steps):
    """Returns bits `(T, 1, 1)`, and as targets the bits of some steps ago `(T, 1)`."""
    bits = jax.random.bernoulli(key, shape=(num_steps,))
    lags = jnp.repeat(jnp.asarray(LAGS), -(-num_steps // len(LAGS)))[:num_steps]
    targets = bits[jnp.maximum(jnp.arange(num_steps) - lags, 0)]
    xs = 2.0 * bits.astype(jnp.float32) - 1
    return transforms.StepLossInputs(xs[:, None, None], targets[:, None].astype(jnp.float32))


def loss_of(outputs, targets):
    """Returns the error of one step in bits."""
    return optax.sigmoid_binary_cross_entropy(outputs[..., 0], targets) / jnp.log(2)


def with_loss(cell):
    """Returns the step whose output is its loss."""
    target = jax.ShapeDtypeStruct((), jnp.float32)
    return transforms.step_loss(cell, jaxrnn.linear(1), loss_of, target=target)


def truncated(step, optimizer, k):
    """Returns backpropagation through the last k steps, at every step."""

    def loss(params, carry, segment, key):
        carry, losses = jaxrnn.unroll(step, params, segment, carry=carry)
        return jnp.mean(losses), (carry, {})

    return jaxrnn.training.truncated_trainer(loss, optimizer, k1=1, k2=k)


def bytes_of_window(step, params, stream, k):
    """Returns the memory that the gradient of k steps takes, by the compiler's analysis."""
    window = jax.tree.map(lambda a: a[:k], stream)

    def loss(params):
        return jnp.mean(jaxrnn.unroll(step, params, window)[1])

    return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes


def main():
    """Learns the stream by each algorithm, prints errors, bytes and times, and draws curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, which learns nothing")
    parser.add_argument("--out", default="changing_rule.png", help="where the picture is saved")
    args = parser.parse_args()
    num_steps, size = (200, 4) if args.quick else (100_000, 32)
    dense, elementwise = with_loss(jaxrnn.gru(size)), with_loss(jaxrnn.lru(size))
    optimizer = optax.adam(3e-3)
    trainers = {
        "RTRL, LRU": (elementwise, online.trainer(online.rtrl(elementwise), optimizer, k=1)),
        "SnAp-1, GRU": (dense, online.trainer(online.snap(dense), optimizer, k=1)),
        "e-prop, GRU": (dense, online.trainer(online.eprop(dense), optimizer, k=1)),
        "UORO, GRU": (dense, online.trainer(online.uoro(dense), optimizer, k=1)),
        "last 8 steps, GRU": (dense, truncated(dense, optimizer, 8)),
        "last 16 steps, GRU": (dense, truncated(dense, optimizer, 16)),
    }
    stream = draw(jax.random.key(0), num_steps)
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=[*diagnostics.plots.COLOURS, "black"])
    for name, (step, trainer) in trainers.items():
        params = step.init(jax.random.key(1), 1)
        state = trainer.init(params, jax.random.key(2), step.initial_carry((1,)))
        update = jax.jit(trainer.update).lower(state, stream).compile()
        begin = time.perf_counter()
        state, metrics = jax.block_until_ready(update(state, stream))
        microseconds = (time.perf_counter() - begin) / num_steps * 1e6
        errors = np.asarray(metrics["loss"])
        width = max(num_steps // 100, 1)
        curve = errors[: len(errors) // width * width].reshape(-1, width).mean(axis=1)
        of_rules = [part[len(part) // 2 :].mean() for part in np.array_split(errors, len(LAGS))]
        rules = ", ".join(f"{lag}: {error:.2f}" for lag, error in zip(LAGS, of_rules, strict=True))
        if isinstance(state.carry, online.OnlineState):
            kept = sum(a.nbytes for a in jax.tree.leaves(state.carry.influence))
        else:
            kept = bytes_of_window(step, params, stream, int(name.split()[1]))
        print(f"{name}: bits by lag, in the second half of its time: {rules}")
        print(f"    {kept:,} bytes of the past, {microseconds:.0f} µs a step")
        axes.plot(np.arange(len(curve)) * width, curve, label=name, linewidth=1)
    for change in range(1, len(LAGS)):
        axes.axvline(change * num_steps / len(LAGS), color="black", linewidth=0.5)
    title = "A rule that changes: the target is the input of 2, 5, 1, 8, then 3 steps ago"
    axes.set(xlabel="step", ylabel="bits", title=title)
    axes.legend(fontsize="small")
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
