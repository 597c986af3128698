"""Does memory stay constant in half an hour of training, and is nothing compiled again?

An LSTM and a linear layer learn whether there were more ones than zeros since the last reset, from
sequences of random lengths with resets at random steps. Lengths and resets are different in each
update, buffers are donated, and the carry goes from update to update. The memory of the process is
sampled at regular intervals.
"""

import time
from typing import Any

import jax
import numpy as np
import optax

import jaxrnn
from benchmarks.problems import resident

TITLE = (
    "Training with random lengths and resets: memory of the process after warm-up and later; "
    "programs compiled before and after; updates; mean loss over the first and the last tenth."
)
T, B, H = 64, 8, 32
WARM_UP = 200  # updates
SAMPLES = 60
MODEL = jaxrnn.stacked(jaxrnn.lstm(H), jaxrnn.linear(1))


def rows(quick: bool) -> list[tuple[float]]:
    """Returns the arguments of all rows: minutes."""
    return [(0.2,)] if quick else [(30.0,)]


def batch(draws: np.random.Generator) -> Any:
    """Draws signs `(T, B, 1)`, their targets, the length of each row, and the resets."""
    signs = draws.choice([-1.0, 1.0], size=(T, B)).astype(np.float32)
    resets = draws.random((T, B)) < 0.05
    sums, since = np.zeros((T, B), np.float32), np.zeros(B, np.float32)
    for t in range(T):
        since = np.where(resets[t], 0, since) + signs[t]
        sums[t] = since
    lengths = draws.integers(0, T + 1, size=B).astype(np.int32)
    return signs[..., None], (sums > 0).astype(np.float32)[..., None], lengths, resets


def loss(params: Any, carry: Any, batch: Any, key: Any) -> Any:
    """Returns the binary cross-entropy, its mean over valid steps."""
    xs, targets, lengths, resets = batch
    carry, logits = jaxrnn.unroll(MODEL, params, xs, carry=carry, lengths=lengths, reset=resets)
    mask = jaxrnn.lengths_to_mask(lengths, T)
    cross_entropy = optax.sigmoid_binary_cross_entropy
    nats = jaxrnn.masked_mean(cross_entropy, logits, targets, mask=mask)
    return nats, (carry, {})


def measure(minutes: float) -> dict[str, Any]:
    """Trains for some minutes after a warm-up, and returns one row."""
    compiled: list[str] = []

    def count(event: str, seconds: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    draws = np.random.default_rng(0)
    trainer = jaxrnn.training.trainer(loss, optax.adam(1e-3))
    update = jax.jit(trainer.update, donate_argnums=0)
    params = MODEL.init(jax.random.key(0), 1)
    state = trainer.init(params, jax.random.key(1), carry=MODEL.initial_carry((B,)))

    def train() -> float:
        nonlocal state
        state, metrics = update(state, batch(draws))
        return float(metrics["loss"])

    for _ in range(WARM_UP):
        train()
    warm, programs, start = resident("VmRSS"), len(compiled), time.perf_counter()
    # Allocated first, so that recording does not increase the memory during the measurement.
    updates, losses, sizes = np.zeros(SAMPLES, int), np.zeros(SAMPLES), np.zeros(SAMPLES, int)
    for sample in range(SAMPLES):
        while time.perf_counter() - start < 60 * minutes * (sample + 1) / SAMPLES:
            losses[sample] += train()
            updates[sample] += 1
        sizes[sample] = resident("VmRSS")
    tenth, losses = SAMPLES // 10, losses / np.maximum(1, updates)
    return {
        "minutes": minutes,
        "updates": int(np.sum(updates)),
        "compiled": [programs, len(compiled) - programs],
        "loss": [round(float(np.mean(part)), 4) for part in (losses[:tenth], losses[-tenth:])],
        "warm_bytes": warm,
        "bytes_over_time": sizes.tolist(),
    }


def summary(measured: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the largest growth of memory after warm-up, and the programs compiled after it."""
    (row,) = measured
    growth = max(row["bytes_over_time"]) / row["warm_bytes"] - 1 if row["warm_bytes"] else 0.0
    return {"growth": growth, "compiled": row["compiled"][1]}


def table(measured: list[dict[str, Any]]) -> str:
    """Returns a sentence with all numbers."""
    (row,) = measured
    later = row["bytes_over_time"]
    warm, most, last = (size / 2**20 for size in (row["warm_bytes"], max(later), later[-1]))
    compiled, again = row["compiled"]
    numbers = (
        f"{row['minutes']} minutes, {row['updates']} updates, loss {row['loss'][0]} to "
        f"{row['loss'][1]}; warm {warm:.1f} MiB, at most {most:.1f}, at the end {last:.1f}; "
        f"{compiled} programs compiled to get warm, {again} since"
    )
    return f"{TITLE}\n\n{numbers}"
