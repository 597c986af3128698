"""Lorenz: a GRU learns a chaotic system, with teacher forcing every n steps.

The largest Lyapunov exponent of the Lorenz system is 0.906 (J. Sprott, "Chaos and Time-Series
Analysis", 2003). `jacobian_spectrum` measures it for the equations and for the trained network,
which then runs on its own outputs. J. Mikhaeil, Z. Monfared, D. Durstewitz, "On the difficulty of
learning chaotic dynamics with RNNs", NeurIPS 2022: forcing as rare as errors need to double.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn import diagnostics

DT = 0.05
STEP = jaxrnn.residual(jaxrnn.stacked(jaxrnn.gru(64), jaxrnn.linear(3)))


def lorenz(params, state, x):
    """One time step DT of the Lorenz system, by ten steps of Runge and Kutta."""
    sigma, rho, beta = params

    def slope(state):
        a, b, c = state
        return jnp.stack([sigma * (b - a), a * (rho - c) - b, a * b - beta * c])

    def rk4(_, state):
        h = DT / 10
        k1 = slope(state)
        k2 = slope(state + h / 2 * k1)
        k3 = slope(state + h / 2 * k2)
        k4 = slope(state + h * k3)
        return state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    state = jax.lax.fori_loop(0, 10, rk4, state)
    return state, state


def exponent(step, params, carry, inputs):
    """Returns the largest Lyapunov exponent, a unit of time, along a trajectory of the step."""
    key = jax.random.key(0)
    spectrum = jax.jit(
        lambda w, c, xs: diagnostics.jacobian_spectrum(step, w, c, xs, probes=1, key=key)
    )(params, carry, inputs)
    return float(spectrum.exponents[0]) / DT


def feedback(y, forcing):
    """Returns the next input: the true state where it is forced, else the network's own output."""
    truth, is_forced = forcing
    return jnp.where(is_forced, truth, y)


WRITER = jaxrnn.transforms.autoregressive(STEP, feedback)


def train(series, interval, num_steps, num_updates, batch_size):
    """Returns parameters trained with the truth as the input at every `interval`-th step."""
    is_forced = (jnp.arange(num_steps) + 1) % interval == 0

    def loss(params, carry, batch, key):
        begins = jax.random.randint(key, (batch_size,), 0, len(series) - num_steps)
        rows = series[begins + jnp.arange(num_steps + 1)[:, None]]
        start = (STEP.initial_carry((batch_size,)), rows[0])
        forcing = (rows[1:], jnp.broadcast_to(is_forced[:, None, None], rows[1:].shape))
        _, generated = jaxrnn.unroll(WRITER, params, forcing, carry=start)
        return jnp.mean((generated.y - rows[1:]) ** 2), (carry, {})

    rate = optax.cosine_decay_schedule(3e-3, num_updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    trainer = jaxrnn.training.trainer(loss, optimizer)
    state = trainer.init(STEP.init(jax.random.key(0), 3), jax.random.key(1))
    updates = jnp.arange(num_updates)
    state, metrics = jax.jit(lambda s: jax.lax.scan(trainer.update, s, updates))(state)
    return state.params, metrics["loss"]


def main():
    """Measures the exponents of the system and of the networks, and draws their attractors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, which learns nothing")
    parser.add_argument("--out", default="lorenz.png", help="where the picture is saved")
    args = parser.parse_args()
    num_points, num_steps, num_updates, batch_size = 20000, 200, 4000, 16
    if args.quick:
        num_points, num_steps, num_updates, batch_size = 100, 8, 2, 2

    equations = (10.0, 28.0, 8 / 3)
    start, _ = jaxrnn.scan(lorenz, equations, jnp.ones(3), jnp.arange(200))  # onto the attractor
    ticks = jnp.arange(num_points)
    _, states = jaxrnn.scan(lorenz, equations, start, ticks)
    print(f"equations: {exponent(lorenz, equations, start, ticks):.3f} (published: 0.906)")
    series = (states - states.mean(0)) / states.std(0)

    figure = Figure(figsize=(14, 3.5), layout="constrained")
    panels = figure.subplots(1, 4, sharex=True, sharey=True)
    panels[0].plot(series[-2000:, 0], series[-2000:, 2], linewidth=0.3)
    panels[0].set(title="Lorenz system", xlabel="x", ylabel="z", xlim=(-3, 3), ylim=(-3, 3))
    intervals = [*zip((1, 15, num_steps), panels[1:], strict=True)][: 1 if args.quick else None]
    for interval, axes in intervals:
        params, losses = train(series, interval, num_steps, num_updates, batch_size)
        # Forced by the truth for one sequence, then free, in two halves.
        forcing = (series[1 : num_steps + 1], jnp.ones((num_steps, 3), bool))
        carry, _ = jaxrnn.unroll(WRITER, params, forcing, carry=(STEP.initial_carry(), series[0]))
        free = (jnp.zeros((num_points // 2, 3)), jnp.zeros((num_points // 2, 3), bool))
        first = exponent(WRITER, params, carry, free)
        carry, generated = jaxrnn.unroll(WRITER, params, free, carry=carry)
        second = exponent(WRITER, params, carry, free)
        error = losses[-50:].mean()
        print(f"forced every {interval}: loss {error:.1e}, exponents {first:.3f}, {second:.3f}")
        axes.plot(generated.y[-2000:, 0], generated.y[-2000:, 2], linewidth=0.3)
        axes.set(title=f"forced every {interval}: {first:.2f}, {second:.2f}", xlabel="x")
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
