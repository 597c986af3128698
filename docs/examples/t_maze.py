"""T-maze: a policy has to remember, at the end of a corridor, a signal that it saw at the start.

B. Bakker, "Reinforcement learning with long short-term memory", NIPS 2001, solves corridors of up
to 70 steps with an LSTM; without memory, half of the choices are right. Environment, acting and
learning are one program for all seeds, and the carry of the trainer holds the episodes. A mistake
that has often been shipped is measured too: in learning, resets come one step late.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

import jaxrnn
from jaxrnn.diagnostics.plots import COLOURS, STYLES

NORTH, SOUTH, EAST = range(3)
# What is seen: the goal is in the north or in the south, the corridor, the junction.
SIGHTS = jnp.array([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
POLICY = jaxrnn.stacked(jaxrnn.gru(32), jaxrnn.linear(4))  # logits of three actions, and a value
DISCOUNT, NUM_STEPS, NUM_ROWS = 0.98, 64, 32
VARIANTS = ("correct resets", "no memory", "resets one step late")


def act(maze, action, key, length):
    """Returns the next state of all mazes, rewards, which episodes end, and which are won."""
    position, goal = maze
    done = (position == length) & (action != EAST)
    won = done & (action == goal)
    # Bakker's rewards: 4 for the goal, -0.1 for the other side and for walking into a wall.
    moves = (position < length) & (action == EAST)
    reward = jnp.where(won, 4.0, jnp.where(moves, 0.0, -0.1))
    new_goals = jax.random.randint(key, goal.shape, NORTH, SOUTH + 1)
    maze = jnp.where(done, 0, position + moves), jnp.where(done, new_goals, goal)
    return maze, reward, done, won


def learner(variant, length):
    """Returns a trainer by advantage actor-critic."""

    def run(params, carry, sights, previous_done, done):
        resets = jaxrnn.shift_right(previous_done, done)  # after the last step of an episode
        if variant == "no memory":
            resets = jnp.ones_like(resets)
        elif variant == "resets one step late" and len(done) > 1:
            resets = jaxrnn.shift_right(jnp.zeros_like(previous_done), resets)
        carry, ys = jaxrnn.unroll(POLICY, params, sights, carry=carry, reset=resets)
        return carry, ys[..., :-1], ys[..., -1]

    def live(params, state, key):
        """One step of all episodes."""
        (position, goal), carry, previous_done = state
        key_action, key_maze = jax.random.split(key)
        sight = SIGHTS[jnp.where(position == 0, goal, jnp.where(position < length, 2, 3))]
        carry, logits, _ = run(params, carry, sight[None], previous_done, previous_done[None])
        action = jax.random.categorical(key_action, logits[0])
        maze, reward, done, won = act((position, goal), action, key_maze, length)
        return (maze, carry, done), (sight, action, reward, done, won)

    def loss(params, state, batch, key):
        _, carry, previous_done = state
        keys = jax.random.split(key, NUM_STEPS)
        live_now = functools.partial(live, jax.lax.stop_gradient(params))
        state, (sights, actions, rewards, done, won) = jax.lax.scan(live_now, state, keys)
        _, logits, values = run(params, carry, sights, previous_done, done)

        def discounted(later, now):
            reward, is_last = now
            later = reward + DISCOUNT * jnp.where(is_last, 0.0, later)
            return later, later

        last = jax.lax.stop_gradient(values[-1])
        _, returns = jax.lax.scan(discounted, last, (rewards, done), reverse=True)
        advantages = jax.lax.stop_gradient(returns - values)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, actions)
        logs = jax.nn.log_softmax(logits)
        entropy = -jnp.sum(jnp.exp(logs) * logs, axis=-1)
        total = nats * advantages + 0.5 * (returns - values) ** 2 - 0.01 * entropy
        counts = {"won": jnp.sum(won), "ended": jnp.sum(done)}
        return jnp.mean(total), (state, counts)

    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(2e-3))
    return jaxrnn.training.trainer(loss, optimizer)


def train(variant, length, num_updates, key):
    """Returns how many episodes ended, and how many were won, in each update."""
    trainer = learner(variant, length)
    key_init, key_goal, key_train = jax.random.split(key, 3)
    goal = jax.random.randint(key_goal, (NUM_ROWS,), NORTH, SOUTH + 1)
    start = ((0 * goal, goal), POLICY.initial_carry((NUM_ROWS,)), jnp.ones(NUM_ROWS, bool))
    state = trainer.init(POLICY.init(key_init, SIGHTS.shape[1]), key_train, carry=start)
    _, metrics = jax.lax.scan(trainer.update, state, jnp.arange(num_updates))
    return metrics["won"], metrics["ended"]


def main():
    """Trains all seeds of each variant at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, which learns nothing")
    parser.add_argument("--length", type=int, default=50, help="steps to the junction")
    parser.add_argument("--out", default="t_maze.png", help="where the picture is saved")
    args = parser.parse_args()
    num_seeds, num_updates, window = (2, 4, 2) if args.quick else (4, 1500, 50)

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    for variant in VARIANTS[: 1 if args.quick else None]:
        run = functools.partial(train, variant, args.length, num_updates)
        won, ended = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), num_seeds))
        won, ended = (x.reshape(num_seeds, -1, window).sum(-1) for x in (won, ended))
        shares = won / jnp.maximum(1, ended)
        each = ", ".join(f"{share:.1%}" for share in shares[:, -1])
        print(f"{variant}: {each} of the last episodes won, by seed")
        learnt = jnp.flatnonzero(shares.mean(0) > 0.95)
        if len(learnt):
            print(f"  more than 95% won after {window * (learnt[0] + 1)} updates")
        axes.plot(window * jnp.arange(1, shares.shape[1] + 1), shares.mean(0), label=variant)
    axes.axhline(0.5, color="black", linewidth=0.5, label="guessing")
    axes.set(xlabel="update", ylabel="episodes won", title=f"T-maze, {args.length} steps")
    axes.legend(fontsize="small")
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
