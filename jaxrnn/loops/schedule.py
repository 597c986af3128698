"""When to store which state: the binomial schedule of Griewank, as a table of instructions.

A chain of N segments is run forward once, and then turned round from its end, each segment from the
state at its beginning. Where there is room for s such states only, others are computed anew. With

    β(s, r) = (s + r)! / (s! r!)                                                             (B1)

a chain of N ≤ β(s, r) needs no segment to be run forward more than r times before it is turned, and
the fewest forward runs that s states allow, with the least such r, are in total

    n(N, s) = r N - β(s + 1, r - 1)                                                          (B2)

Source: A. Griewank, A. Walther, "Algorithm 799: Revolve", ACM Transactions on Mathematical Software
26 (2000).
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np


class Schedule(NamedTuple):
    """Instructions, a column each: fetch a state, then run a segment forward or turn it round.

    Fields:
        load: the slot from which to fetch a state; -1 to go on from the one at hand.
        segment: which segment.
        turn: whether to turn it round, which leaves no state at hand.
        store: the slot into which to put the state to which running forward led; -1 for none.
    """

    load: np.ndarray
    segment: np.ndarray
    turn: np.ndarray
    store: np.ndarray


@functools.lru_cache(maxsize=64)
def binomial(segments: int, states: int) -> Schedule:
    """All instructions for N segments and s slots, of which slot 0 holds the first state.

    What stands before the first turn, N - 1 rows, is the forward pass up to the last segment.
    """
    rows: list[tuple[int, int, bool, int]] = []
    stored = [0]  # beginnings of which segments stand in slots 0, 1, …
    at_hand = 0

    def run_to(end: int, store: int = -1, turn: bool = False) -> None:
        for k in range(stored[-1], end):
            load = len(stored) - 1 if k == stored[-1] != at_hand else -1
            rows.append((load, k, turn and k == end - 1, store if k == end - 1 else -1))

    for last in range(segments - 1, -1, -1):
        while stored[-1] < last and len(stored) < states:
            middle = stored[-1] + _split(last + 1 - stored[-1], states - len(stored) + 1)
            run_to(middle, store=len(stored))
            stored.append(middle)
            at_hand = middle
        run_to(last + 1, turn=True)
        at_hand = -1
        if stored[-1] == last:
            stored.pop()
    return Schedule(*np.array(rows, np.int32).reshape(-1, 4).T)


def least(segments: int, other: int) -> int:
    """The least r with N ≤ β(s, r), or the least s where r is the other: β is symmetric.

    With so many states, but one at least, no segment is run forward more than r times.
    """
    return next(n for n in itertools.count() if math.comb(n + other, n) >= segments)


def forward_runs(segments: int, states: int) -> int:
    """The n(N, s) of (B2), the forward pass as far as the last segment's beginning included."""
    r = least(segments, states)
    return r * segments - math.comb(states + r, states + 1)


def _split(segments: int, states: int) -> int:
    """How far to run before the next state is stored, so that (B2) is reached; s ≥ 2."""
    r = least(segments, states)
    return min(math.comb(states + r - 1, states), segments - math.comb(states + r - 2, states - 1))
