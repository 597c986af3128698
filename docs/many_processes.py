"""Trains one network by many processes, each with a part of every batch, and survives their death.

One command a process; the processes share the folder of the checkpoints:

    python docs/many_processes.py --processes 2 --process 0 --coordinator localhost:9876 &
    python docs/many_processes.py --processes 2 --process 1 --coordinator localhost:9876

On a cluster where JAX finds the coordinator by itself, such as SLURM or GKE, the same command runs
in each process without these three options.
"""

import argparse
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from jaxrnn.training import Checkpoints

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--processes", type=int)
parser.add_argument("--process", type=int)
parser.add_argument("--coordinator", metavar="HOST:PORT")
parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
parser.add_argument("--updates", type=int, default=40)

NETWORK = jaxrnn.stacked(jaxrnn.gru(16), jaxrnn.linear(2))
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
ROWS, STEPS, EVERY = 8, 20, 5


def batch(number):
    """Returns the inputs and targets of an update: the same in every process."""
    draws = np.random.default_rng(number)
    xs = draws.normal(size=(STEPS, ROWS, 3)).astype(np.float32)
    return xs, np.cumsum(xs[..., :2], axis=0)


def loss(params, carry, batch, key):
    """Returns the mean squared error of a part of the rows."""
    xs, targets = batch
    carry, ys = jaxrnn.unroll(NETWORK, params, xs, carry=carry)
    return jnp.mean((ys - targets) ** 2), (carry, {})


def train(options):
    """Trains from the last checkpoint on."""
    # The rows of the carry and of the batch are split over the devices of all processes.
    split = jaxrnn.training.data_parallel(
        loss, in_axes=(None, 0, 1, None), out_axes=(None, (0, None))
    )
    trainer = jaxrnn.training.trainer(split, OPTIMIZER)
    params = NETWORK.init(jax.random.key(0), input_size=3)
    state = trainer.init(params, jax.random.key(1), NETWORK.initial_carry((ROWS,)))
    update = jax.jit(trainer.update, donate_argnums=0)
    first = 0
    with Checkpoints(options.checkpoints, network=NETWORK, optimizer="adam(1e-2)") as checkpoints:
        if checkpoints.latest_step is not None:
            state, metadata, _ = checkpoints.restore(state)
            first = metadata["position"]
        for number in range(first, options.updates):
            state, metrics = update(state, batch(number))
            if jax.process_index() == 0:
                print(f"update {number + 1}: loss {float(metrics['loss'])!r}", flush=True)
            if (number + 1) % EVERY == 0:
                checkpoints.save(state, metadata={"position": number + 1})


def main():
    """Starts this process, and ends it with one line if another one is gone."""
    options = parser.parse_args()
    if options.processes is None or options.processes > 1:
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process,
            initialization_timeout=60,
            heartbeat_timeout_seconds=10,
        )
    try:
        train(options)
    except (jax.errors.JaxRuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        print(f"process {jax.process_index()} ends: {reason}; start all again", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # without waiting for processes that are gone


if __name__ == "__main__":
    main()
