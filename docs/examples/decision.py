"""Decision: a continuous-time network with Dale's law decides which of two inputs is stronger.

Units are excitatory or inhibitory, with private noise, as in H. F. Song, G. R. Yang, X.-J. Wang,
"Training excitatory-inhibitory recurrent neural networks for cognitive tasks", PLoS Computational
Biology 12 (2016), whose network gives a sigmoid psychometric curve. In the model of K.-F. Wong and
X.-J. Wang (2006), both choices are stable points, with saddles beside them.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn import diagnostics

jax.config.update("jax_enable_x64", True)  # so that fixed points are exact to 1e-10

SIZE, NUM_EXCITATORY = 50, 40
SIGNS = jnp.where(jnp.arange(SIZE) < NUM_EXCITATORY, 1.0, -1.0)
ALPHA, NOISE = 0.2, 0.05  # dt / τ, for dt = 20 ms and τ = 100 ms
NUM_STEPS, ONSET, OFFSET = 60, 10, 40  # a stimulus of 600 ms, and a delay of 400 ms
COHERENCES = jnp.array([-0.512, -0.256, -0.128, -0.064, 0.0, 0.064, 0.128, 0.256, 0.512])


def step(params, rates, x):
    """τ dr/dt = -r + relu(r W + u W_in + b + noise), where each row of W has one sign."""
    inputs, noise = x
    w = SIGNS[:, None] * jax.nn.relu(params["w"]) * (1 - jnp.eye(SIZE))
    drive = rates @ w + inputs @ jax.nn.relu(params["w_in"]) + params["b"] + noise
    rates = (1 - ALPHA) * rates + ALPHA * jax.nn.relu(drive)
    return rates, rates[..., :NUM_EXCITATORY] @ params["w_out"]


def init(key):
    """Draws weights whose excitation and inhibition balance."""
    key_w, key_in, key_out = jax.random.split(key, 3)
    w = jax.random.gamma(key_w, 2.0, (SIZE, SIZE)) / 2 / SIZE
    w = w * jnp.where(SIGNS > 0, 1.0, NUM_EXCITATORY / (SIZE - NUM_EXCITATORY))[:, None]
    return {
        "w": 1.5 * w,
        "w_in": jax.random.uniform(key_in, (2, SIZE)) / 2,
        "b": jnp.full(SIZE, 0.1),
        "w_out": jax.random.normal(key_out, (NUM_EXCITATORY, 2)) / NUM_EXCITATORY**0.5,
    }


def trials(key, coherence):
    """Returns the inputs of trials with coherences `(B,)`: two noisy streams, and private noise."""
    key_stream, key_private = jax.random.split(key)
    size = (NUM_STEPS, len(coherence))
    is_on = ((jnp.arange(NUM_STEPS) >= ONSET) & (jnp.arange(NUM_STEPS) < OFFSET))[:, None, None]
    means = (1 + jnp.stack([coherence, -coherence], axis=-1)) / 2
    streams = means + 0.3 * jax.random.normal(key_stream, (*size, 2))
    noise = NOISE * (2 / ALPHA) ** 0.5 * jax.random.normal(key_private, (*size, SIZE))
    return jnp.where(is_on, streams, 0.0), noise


def choose(params, key, coherence):
    """Returns the rates, and the logits of both choices at each step."""
    start = jnp.full((len(coherence), SIZE), 0.1)
    return jaxrnn.history(step, params, trials(key, coherence), carry=start)


def main():
    """Trains, then measures the psychometric curve, Dale's law, and the fixed points."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, which learns nothing")
    parser.add_argument("--out", default="decision.png", help="where the picture is saved")
    args = parser.parse_args()
    num_updates, batch_size, num_trials, num_starts = 3000, 64, 500, 512
    if args.quick:
        num_updates, batch_size, num_trials, num_starts = 2, 4, 4, 8

    def loss(params, carry, batch, key):
        key_coherence, key_trials = jax.random.split(key)
        coherence = jax.random.choice(key_coherence, COHERENCES, (batch_size,))
        states, logits = choose(params, key_trials, coherence)
        answers = (coherence + 1e-3 * jax.random.normal(key, (batch_size,)) < 0).astype(int)
        labels = jnp.broadcast_to(answers, (NUM_STEPS - OFFSET, batch_size))
        nats = optax.softmax_cross_entropy_with_integer_labels(logits[OFFSET:], labels)
        return jnp.mean(nats) + 1e-2 * jnp.mean(states.carries**2), (carry, {})

    rate = optax.cosine_decay_schedule(3e-3, num_updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    trainer = jaxrnn.training.trainer(loss, optimizer)
    state = trainer.init(init(jax.random.key(0)), jax.random.key(1))
    updates = jnp.arange(num_updates)
    state, metrics = jax.jit(lambda s: jax.lax.scan(trainer.update, s, updates))(state)
    params = state.params
    print(f"loss after {num_updates} updates: {metrics['loss'][-20:].mean():.3f}")

    states, logits = choose(params, jax.random.key(2), jnp.repeat(COHERENCES, num_trials))
    first = (logits[-1, :, 0] > logits[-1, :, 1]).reshape(len(COHERENCES), num_trials).mean(-1)
    for coherence, share in zip(COHERENCES, first, strict=True):
        print(f"coherence {coherence:+.3f}: chooses the first in {share:.1%} of trials")

    # After the stimulus there is no input: where does the state come to rest?
    visited = states.carries[OFFSET:].reshape(-1, SIZE)
    starts = jax.random.choice(jax.random.key(3), visited, (num_starts,))
    found = diagnostics.fixed_points(step, params, starts, (jnp.zeros(2), jnp.zeros(SIZE)))
    found = found.select(found.is_fixed)
    print(f"fixed points: {', '.join(found.kinds) or 'none'}")

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(COHERENCES, first, marker="o")
    left.set(xlabel="coherence", ylabel="chooses the first", title="Psychometric curve")
    left.grid(alpha=0.3)
    lines = states.carries[:, :: max(1, num_trials // 10)]
    diagnostics.plots.plot_fixed_points(right, found, trajectories=lines)
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
