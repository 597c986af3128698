"""How time is taken: sides interleaved in one process, so that all meet the same machine."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def interleaved(
    sides: Mapping[str, Callable[[], Any]], seconds: float, least: int = 5, most: int = 25
) -> dict[str, list[float]]:
    """Milliseconds of every call of each side, taken in turns A B A B after one warm-up each.

    Turns go on until `seconds` have passed for each side, from `least` to `most` of them.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        jax.block_until_ready(run())
    start = time.perf_counter()
    turns = 0
    while turns < least or (turns < most and time.perf_counter() - start < seconds * len(sides)):
        for name, run in sides.items():
            begun = time.perf_counter()
            jax.block_until_ready(run())
            samples[name].append((time.perf_counter() - begun) * 1e3)
        turns += 1
    return samples
