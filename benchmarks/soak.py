"""Does memory stay flat, and is nothing compiled again, in half an hour of training?

An LSTM and a readout learn, from sequences of random lengths, with resets at random steps, whether
more ones than zeros came since the last reset. Each update has another pattern; buffers are
donated, the carry goes from one to the next. Every so often the process is asked for its memory.
"""

import time
from typing import Any

import jax
import numpy as np
import optax

import jaxrnn
from benchmarks.problems import resident

ASKED = (
    "Training with random lengths and resets: memory of the process when warm, and later; programs "
    "compiled until and since then; updates; mean loss over the first and the last tenth."
)
T, B, H = 64, 8, 32
WARM = 200  # updates
SAMPLES = 60
MODEL = jaxrnn.stacked(jaxrnn.lstm(H), jaxrnn.linear(1))


def rows(quick: bool) -> list[tuple[float]]:
    """Minutes."""
    return [(0.2,)] if quick else [(30.0,)]


def batch(draws: np.random.Generator) -> Any:
    """Ones and zeros, what to say of them, how long each row is, where it begins anew."""
    signs = draws.choice([-1.0, 1.0], size=(T, B)).astype(np.float32)
    resets = draws.random((T, B)) < 0.05
    sums, since = np.zeros((T, B), np.float32), np.zeros(B, np.float32)
    for t in range(T):
        since = np.where(resets[t], 0, since) + signs[t]
        sums[t] = since
    lengths = draws.integers(0, T + 1, size=B).astype(np.int32)
    return signs[..., None], (sums > 0).astype(np.float32)[..., None], lengths, resets


def loss(params: Any, carry: Any, batch: Any, key: Any) -> Any:
    """The mean over valid steps of the binary cross-entropy."""
    xs, targets, lengths, resets = batch
    carry, logits = jaxrnn.unroll(MODEL, params, xs, carry=carry, lengths=lengths, reset=resets)
    mask = jaxrnn.lengths_to_mask(lengths, T)
    cross_entropy = optax.sigmoid_binary_cross_entropy
    nats = jaxrnn.masked_mean(cross_entropy, logits, targets, mask=mask)
    return nats, (carry, {})


def measure(minutes: float) -> dict[str, Any]:
    """Train for so long, once warm."""
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

    for _ in range(WARM):
        train()
    warm, programs, begun = resident("VmRSS"), len(compiled), time.perf_counter()
    # Made before, so that what is noted takes no memory of its own as it grows.
    updates, losses, sizes = np.zeros(SAMPLES, int), np.zeros(SAMPLES), np.zeros(SAMPLES, int)
    for sample in range(SAMPLES):
        while time.perf_counter() - begun < 60 * minutes * (sample + 1) / SAMPLES:
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
    """Growth of memory as a share of what it was when warm, at its most, and programs compiled."""
    (row,) = measured
    growth = max(row["bytes_over_time"]) / row["warm_bytes"] - 1 if row["warm_bytes"] else 0.0
    return {"growth": growth, "compiled": row["compiled"][1]}


def table(measured: list[dict[str, Any]]) -> str:
    """Markdown."""
    (row,) = measured
    later = row["bytes_over_time"]
    warm, most, last = (size / 2**20 for size in (row["warm_bytes"], max(later), later[-1]))
    compiled, again = row["compiled"]
    told = (
        f"{row['minutes']} minutes, {row['updates']} updates, loss {row['loss'][0]} to "
        f"{row['loss'][1]}; warm {warm:.1f} MiB, at most {most:.1f}, at the end {last:.1f}; "
        f"{compiled} programs compiled to get warm, {again} since"
    )
    return f"{ASKED}\n\n{told}"
