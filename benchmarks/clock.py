"""How time is taken: sides interleaved in one process, so that all meet the same machine."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def interleaved(
    sides: Mapping[str, Callable[[], Any]],
    seconds: float,
    least: int = 5,
    most: int = 25,
    sample_ms: float = 0.0,
) -> dict[str, list[float]]:
    """Milliseconds of every call of each side, taken in turns A B A B after one warm-up each.

    Turns go on until `seconds` have passed for each side, from `least` to `most` of them. A side
    that is quicker than `sample_ms` is called as often as that takes, and a sample is the mean.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    repeats = {}
    for name, run in sides.items():
        jax.block_until_ready(run())
        repeats[name] = max(1, math.ceil(sample_ms / _milliseconds(run, 1))) if sample_ms else 1
    start = time.perf_counter()
    turns = 0
    while turns < least or (turns < most and time.perf_counter() - start < seconds * len(sides)):
        for name, run in sides.items():
            samples[name].append(_milliseconds(run, repeats[name]))
        turns += 1
    return samples


def _milliseconds(run: Callable[[], Any], repeats: int) -> float:
    """Of one call, waited for, in the mean of so many."""
    begun = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(run())
    return (time.perf_counter() - begun) * 1e3 / repeats
