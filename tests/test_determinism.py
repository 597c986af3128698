"""The same key on the same machine gives the same bits, in every process.

This file, run as a script, prints a hash of each thing that is drawn or trained.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn

T, B, I, H = 4, 2, 3, 4
NET = jaxrnn.stacked(
    jaxrnn.transforms.variational_dropout(jaxrnn.elman(H), input_rate=0.3, state_rate=0.3),
    jaxrnn.dropout(0.2),
    jaxrnn.transforms.zoneout(jaxrnn.lstm(H), 0.3),
    jaxrnn.linear(2),
)


def bits(tree):
    """A hash of every name, form and number in a tree."""
    digest = hashlib.sha256()
    for path, x in jax.tree.leaves_with_path(jax.device_get(tree)):
        x = np.asarray(x)
        digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape} ".encode() + x.tobytes())
    return digest.hexdigest()


def noisy_loss(params, carry, xs, key):
    carry, ys = jaxrnn.unroll(NET, params, xs, carry=carry, loop=jaxrnn.bptt, key=key)
    return jnp.mean(ys**2), (carry, {"largest": jnp.max(ys)})


TRAINER = jaxrnn.training.trainer(noisy_loss, optax.adam(0.1))


@jax.jit
def drawn(key):
    """All that comes from one key, by what it is."""
    params, carry = NET.init(key, I), NET.initial_carry((B,))
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((3, T, B, I)), jnp.float32)
    state, metrics = jax.lax.scan(TRAINER.update, TRAINER.init(params, key, carry), xs)
    state = state._replace(key=jax.random.key_data(state.key))
    inits = {name: make(H).init(key, I) for name, make in jaxrnn.CELLS}
    noisy = jaxrnn.unroll(NET, params, xs[0], loop=jaxrnn.bptt, key=key)
    return inits | {"an unroll with noise": noisy, "three updates": (state, metrics)}


@pytest.fixture(scope="module")
def by_process():
    """What two processes print, in which sets of names have other orders."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": order},
        )
        for order in "12"
    ]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [json.loads(text.splitlines()[-1]) for text in printed]


def test_two_processes_compute_the_same_bits(by_process):
    first, second = by_process
    assert [len(things) for things in first] == [len(jaxrnn.CELLS) + 2] * 2
    assert first == second


def test_another_key_gives_other_bits_everywhere(by_process):
    one, other = by_process[0]
    assert not [name for name in one if one[name] == other[name]]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    jax.config.update("jax_disable_most_optimizations", True)
    by_key = [drawn(jax.random.key(seed)) for seed in (0, 1)]
    print(json.dumps([{name: bits(thing) for name, thing in d.items()} for d in by_key]))
