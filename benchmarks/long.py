"""Does training on a million steps take more memory than training on ten thousand steps?

A character model reads Python's standard library as a single sequence of bytes: an embedding, a GRU
and a linear layer, trained by `truncated_trainer` with an update every 50 steps and a gradient that
reaches 100 steps back. The whole sequence is one compiled scan. For comparison, the gradient of one
loss over the whole sequence is compiled but not run, under `checkpointed()` and under `bptt`; its
logits are never stored.
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

TITLE = (
    "Training on T steps of text: growth of the process while it ran; temporary bytes by the "
    "compiler; bits per byte over the first and the last fifth of the updates."
)
CELL, EMBEDDING, LINEAR = jaxrnn.gru(64), jaxrnn.embedding(32), jaxrnn.linear(256)
WITH_LOSS = jaxrnn.transforms.step_loss(
    CELL, LINEAR, optax.softmax_cross_entropy_with_integer_labels
)
K1, K2 = 50, 100
LOOPS = {"checkpointed()": jaxrnn.checkpointed(), "bptt": jaxrnn.bptt}

Params = dict[str, Any]


def rows(quick: bool) -> list[tuple[int]]:
    """Returns the arguments of all rows."""
    return [(10**n,) for n in ((3, 4) if quick else (4, 5, 6))]


def text(steps: int) -> jax.Array:
    """Returns T + 1 bytes of the standard library, repeated from the start if it is shorter."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    whole = np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)
    return jnp.asarray(np.resize(whole, steps + 1))


def params() -> Params:
    """Returns the initial parameters of the model."""
    keys = jax.random.split(jax.random.key(0), 3)
    cell_params, linear_params = CELL.init(keys[0], 32), LINEAR.init(keys[1], 64)
    return {"tokens": EMBEDDING.init(keys[2], 256), "step": (cell_params, linear_params)}


def inputs_of(params: Params, xs: Any) -> jaxrnn.transforms.StepLossInputs:
    """Returns embedded inputs and their targets."""
    inputs, targets = (tokens.astype(jnp.int32) for tokens in xs)
    return jaxrnn.transforms.StepLossInputs(EMBEDDING.apply(params["tokens"], inputs), targets)


def step(params: Params, carry: Any, x: Any) -> Any:
    """Returns the loss of one target in nats; the embedding is computed inside the step."""
    return WITH_LOSS(params["step"], carry, inputs_of(params, x))


def measure(steps: int) -> dict[str, Any]:
    """Trains once over the sequence and returns one row."""
    sequence = text(steps)
    xs = sequence[:-1], sequence[1:]

    def window_loss(params: Params, carry: Any, xs: Any, key: Any) -> Any:
        carry, nats = jaxrnn.unroll(WITH_LOSS, params["step"], inputs_of(params, xs), carry=carry)
        return jnp.mean(nats), (carry, {})

    trainer = jaxrnn.training.truncated_trainer(window_loss, optax.adam(2e-3), k1=K1, k2=K2)
    state = trainer.init(params(), jax.random.key(0), carry=WITH_LOSS.initial_carry(()))
    program = compiled(trainer.update, state, xs)
    before = resident("VmRSS", reset=True)
    start = time.perf_counter()
    _, metrics = jax.block_until_ready(program.run())
    seconds = time.perf_counter() - start
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
    def bytes_under(loop: jaxrnn.Loop) -> int | None:
        def loss(params: Params, xs: Any) -> jax.Array:
            return jnp.mean(loop(step, params, WITH_LOSS.initial_carry(()), xs)[1])

        return compiled(jax.grad(loss), params, xs).temporary_bytes

    return {name: bytes_under(loop) for name, loop in LOOPS.items()}


def summary(measured: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the memory of the longest sequence as a multiple of that of the shortest."""
    first, last = measured[0], measured[-1]
    return {name: last["bytes"][name] / first["bytes"][name] for name in first["bytes"]}


def table(measured: list[dict[str, Any]]) -> str:
    """Returns a Markdown table."""
    names = list(measured[0]["bytes"])
    heads = ["T", "s", "bits", "growth, MiB", *(f"{name}, MiB" for name in names)]
    lines = [f"{TITLE}\n", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in measured:
        sizes = [row["resident_bytes"], *(row["bytes"][name] for name in names)]
        cells = [f"{size / 2**20:.2f}" for size in sizes]
        bits = " to ".join(map(str, row["bits"]))
        lines.append(f"| {row['T']} | {row['seconds']} | {bits} | {' | '.join(cells)} |")
    return "\n".join(lines)
