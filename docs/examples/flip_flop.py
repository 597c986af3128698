"""Flip-flop: a GRU remembers three signs, and its stable fixed points are these memories.

Each of three inputs is a rare pulse of +1 or -1, and each output is the sign of the last pulse of
its input. D. Sussillo and O. Barak, "Opening the black box", Neural Computation 25 (2013), find
eight stable points at the corners of a cube, with saddles between them.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn import diagnostics

jax.config.update("jax_enable_x64", True)  # so that fixed points are exact to 1e-10

NUM_BITS, HIDDEN_SIZE = 3, 24
NETWORK = jaxrnn.stacked(jaxrnn.gru(HIDDEN_SIZE), jaxrnn.linear(NUM_BITS))


def draw(key, num_steps, batch_size):
    """Returns pulses `(T, B, 3)` and the sign of the last pulse of each channel."""
    key_time, key_sign = jax.random.split(key)
    shape = (num_steps, batch_size, NUM_BITS)
    is_pulse = jax.random.bernoulli(key_time, 0.05, shape).at[0].set(True)
    pulses = jnp.where(is_pulse, jax.random.rademacher(key_sign, shape, float), 0.0)

    def remember(sign, pulse):
        sign = jnp.where(pulse == 0, sign, pulse)
        return sign, sign

    return pulses, jax.lax.scan(remember, pulses[0], pulses)[1]


def train(num_updates, num_steps, batch_size):
    """Returns trained parameters, and the loss of each update."""

    def loss(params, carry, batch, key):
        pulses, signs = draw(key, num_steps, batch_size)
        _, outputs = jaxrnn.unroll(NETWORK, params, pulses)
        return jnp.mean((outputs - signs) ** 2), (carry, {})

    trainer = jaxrnn.training.trainer(loss, optax.adam(5e-3))
    state = trainer.init(NETWORK.init(jax.random.key(0), NUM_BITS, float), jax.random.key(1))
    updates = jnp.arange(num_updates)
    state, metrics = jax.jit(lambda s: jax.lax.scan(trainer.update, s, updates))(state)
    return state.params, metrics["loss"]


def main():
    """Trains, finds the fixed points, and draws them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, which learns nothing")
    parser.add_argument("--out", default="flip_flop.png", help="where the picture is saved")
    args = parser.parse_args()
    num_updates, num_steps, batch_size, num_starts = 2000, 100, 64, 1024
    if args.quick:
        num_updates, num_steps, batch_size, num_starts = 3, 20, 8, 16

    params, losses = train(num_updates, num_steps, batch_size)
    print(f"mean squared error after {num_updates} updates: {losses[-20:].mean():.4f}")

    # Visited states are the starts. Noise moves some of them near the saddles in between.
    pulses, _ = draw(jax.random.key(2), num_steps, batch_size)
    (gru_states, _), _ = jaxrnn.history(NETWORK, params, pulses)
    visited = gru_states.carries.reshape(-1, HIDDEN_SIZE)
    starts = jax.random.choice(jax.random.key(3), visited, (num_starts,))
    starts = starts + 0.5 * jax.random.normal(jax.random.key(4), starts.shape)
    gru = NETWORK.parts[0]
    found = diagnostics.fixed_points(gru, params[0], starts, jnp.zeros(NUM_BITS))

    stable = found.select(found.is_stable)
    outputs = NETWORK.output(params, (stable.points, ()))
    corners = {tuple(map(int, corner)) for corner in jnp.sign(outputs)}
    print(f"{len(stable.speeds)} stable points at {len(corners)} corners of the cube")
    for kind in sorted({*found.kinds}):
        print(f"  {found.kinds.count(kind)} {kind}")
    print(f"starts that did not converge: {found.num_unconverged} of {num_starts}")
    if len(stable.speeds):
        print(f"outputs at the stable points: within {abs(abs(outputs) - 1).max():.3f} of ±1")
        print(f"largest residual |F(h) - h| there: {(2 * stable.speeds.max()) ** 0.5:.1e}")

    figure = Figure(figsize=(11, 5), layout="constrained")
    space = figure.add_subplot(1, 2, 1, projection="3d")
    trajectories = gru_states.carries[:, :16]
    diagnostics.plots.plot_fixed_points(space, found, trajectories=trajectories)
    diagnostics.plots.plot_eigenvalues(figure.add_subplot(1, 2, 2), found)
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
