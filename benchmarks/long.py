"""Does training on a sequence of a million steps take more memory than on one of ten thousand?

A character model reads Python's own standard library, one file after the other, as a single
sequence of bytes: an embedding, a GRU and a readout, trained by `windowed` with an update every 50
steps whose gradient reaches 100 back. One compiled scan goes over the whole sequence. Beside it,
compiled and not run: the gradient of one loss over the whole sequence, logits never kept, under
`checkpointed()` and under `bptt`.
"""

import math
import sysconfig
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from benchmarks.problems import compiled, resident

ASKED = (
    "Training on T steps of text: growth of the process while it ran; bytes beside arguments and "
    "results, by the compiler; bits a byte over the first and the last fifth of the updates."
)
CELL, EMBEDDING, READOUT = jaxrnn.gru(64), jaxrnn.embedding(32), jaxrnn.linear(256)
SCORED = jaxrnn.transforms.step_loss(CELL, READOUT, optax.softmax_cross_entropy_with_integer_labels)
K1, K2 = 50, 100
LOOPS = {"checkpointed()": jaxrnn.checkpointed(), "bptt": jaxrnn.bptt}

Params = dict[str, Any]


def rows(quick: bool) -> list[tuple[int]]:
    """What there is to measure."""
    return [(10**n,) for n in ((3, 4) if quick else (4, 5, 6))]


def text(steps: int) -> jax.Array:
    """That many bytes, and one more, `(T + 1,)`; the library again from the start if it ends."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    whole = np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)
    return jnp.asarray(np.resize(whole, steps + 1))


def params() -> Params:
    """Of the model, as they start."""
    keys = jax.random.split(jax.random.key(0), 3)
    of_cell, of_readout = CELL.init(keys[0], 32), READOUT.init(keys[1], 64)
    return {"tokens": EMBEDDING.init(keys[2], 256), "scored": (of_cell, of_readout)}


def scored(params: Params, xs: Any) -> jaxrnn.transforms.StepLossInputs:
    """Inputs embedded, and their targets."""
    inputs, targets = (tokens.astype(jnp.int32) for tokens in xs)
    return jaxrnn.transforms.StepLossInputs(EMBEDDING.apply(params["tokens"], inputs), targets)


def step(params: Params, carry: Any, x: Any) -> Any:
    """Nats of one target, given its input and all before; an embedding for one step at a time."""
    return SCORED(params["scored"], carry, scored(params, x))


def measure(steps: int) -> dict[str, Any]:
    """Train once over all of it."""
    sequence = text(steps)
    xs = sequence[:-1], sequence[1:]

    def window_loss(params: Params, carry: Any, xs: Any, key: Any) -> Any:
        carry, nats = jaxrnn.unroll(SCORED, params["scored"], scored(params, xs), carry=carry)
        return jnp.mean(nats), (carry, {})

    trainer = jaxrnn.training.truncated_trainer(window_loss, optax.adam(2e-3), k1=K1, k2=K2)
    state = trainer.init(params(), jax.random.key(0), carry=SCORED.initial_carry(()))
    program = compiled(trainer.update, state, xs)
    before = resident("VmRSS", reset=True)
    begun = time.perf_counter()
    _, metrics = jax.block_until_ready(program.run())
    seconds = time.perf_counter() - begun
    bits = np.asarray(metrics["loss"]) / math.log(2)
    fifth = -(-len(bits) // 5)
    return {
        "T": steps,
        "seconds": round(seconds, 2),
        "bits": [round(float(np.mean(part)), 3) for part in (bits[:fifth], bits[-fifth:])],
        "resident_bytes": resident("VmHWM") - before,
        "bytes": {"windowed": program.temporary_bytes, **_whole(state.params, xs)},
    }


def _whole(params: Params, xs: Any) -> dict[str, int | None]:
    def under(loop: jaxrnn.Loop) -> int | None:
        def loss(params: Params, xs: Any) -> jax.Array:
            return jnp.mean(loop(step, params, SCORED.initial_carry(()), xs)[1])

        return compiled(jax.grad(loss), params, xs).temporary_bytes

    return {name: under(loop) for name, loop in LOOPS.items()}


def summary(measured: list[dict[str, Any]]) -> dict[str, float]:
    """What the longest takes, as a multiple of what the shortest does."""
    first, last = measured[0], measured[-1]
    return {name: last["bytes"][name] / first["bytes"][name] for name in first["bytes"]}


def table(measured: list[dict[str, Any]]) -> str:
    """Markdown."""
    names = list(measured[0]["bytes"])
    heads = ["T", "s", "bits", "growth, MiB", *(f"{name}, MiB" for name in names)]
    lines = [f"{ASKED}\n", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in measured:
        sizes = [row["resident_bytes"], *(row["bytes"][name] for name in names)]
        told = [f"{size / 2**20:.2f}" for size in sizes]
        bits = " to ".join(map(str, row["bits"]))
        lines.append(f"| {row['T']} | {row['seconds']} | {bits} | {' | '.join(told)} |")
    return "\n".join(lines)
