"""Timing: the sides are interleaved in one process, so that all run under the same conditions."""

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
    """Returns samples of the time of each side in milliseconds, taken in turns A B A B.

    Args:
        sides: functions by name. Each is called once before the first sample, to warm up.
        seconds: how long to go on, for each side.
        least: the smallest number of samples of each side.
        most: the largest number of samples of each side.
        sample_ms: how long a sample takes at least. For a quicker side, a sample is the mean of
            several calls.
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
    """Returns the mean time of a call, until its result is ready."""
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(run())
    return (time.perf_counter() - start) * 1e3 / repeats
