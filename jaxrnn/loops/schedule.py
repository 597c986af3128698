"""The binomial schedule of Griewank, which decides when to store which state.

A chain of N segments runs forward once. Then each segment is backpropagated, from the last to the
first, and needs the state at its beginning. If there is room for s such states only, the others are
recomputed. With

    β(s, r) = (s + r)! / (s! r!)                                                             (B1)

a chain of N ≤ β(s, r) needs no segment to run forward more than r times before its backpropagation.
For the least such r, the least total number of forward runs with s states is

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
    """A table of instructions, one array for each column.

    Each instruction fetches a state, then runs a segment forward or backpropagates it.

    Fields:
        load: the slot of the state to fetch; -1 to continue from the current state.
        segment: the number of the segment.
        backpropagate: whether to backpropagate the segment. Afterwards there is no current state.
        store: the slot for the state after a forward run; -1 for none.
    """

    load: np.ndarray
    segment: np.ndarray
    backpropagate: np.ndarray
    store: np.ndarray


@functools.lru_cache(maxsize=64)
def binomial(segments: int, states: int) -> Schedule:
    """Returns all instructions for N segments and s slots.

    Slot 0 holds the first state from the start. The N - 1 rows before the first backpropagation are
    the forward pass up to the last segment.

    For example, with 3 segments and 2 slots: run segment 0; run segment 1 and store the state after
    segment 0 or 1; backpropagate segment 2; fetch the state before segment 1 or recompute it, and
    backpropagate it; and so on.
    """
    rows: list[tuple[int, int, bool, int]] = []
    stored = [0]  # the segments whose first states are in the slots 0, 1, …
    current: int | None = 0  # the segment at whose beginning the current state is

    def run_to(end: int, store: int = -1, backpropagate: bool = False) -> None:
        """Runs from the last stored state to `end`; the last of these runs may do more."""
        begin = stored[-1]
        last_slot = len(stored) - 1
        for k in range(begin, end):
            must_load = k == begin and current != begin
            is_last = k == end - 1
            rows.append(
                (
                    last_slot if must_load else -1,
                    k,
                    backpropagate and is_last,
                    store if is_last else -1,
                )
            )

    for last in range(segments - 1, -1, -1):
        # On the way to the last segment, store states in all slots that are free.
        while stored[-1] < last and len(stored) < states:
            remaining = last + 1 - stored[-1]
            free_slots = states - len(stored)
            middle = stored[-1] + _split(remaining, free_slots + 1)
            run_to(middle, store=len(stored))
            stored.append(middle)
            current = middle
        run_to(last + 1, backpropagate=True)
        current = None
        if stored[-1] == last:  # this state has been read for the last time
            stored.pop()
    return Schedule(*np.array(rows, np.int32).reshape(-1, 4).T)


def least(segments: int, other: int) -> int:
    """Returns the least r with N ≤ β(s, r), for `other` = s.

    β is symmetric, so it also returns the least s for `other` = r. With max(1, s) states, no
    segment runs forward more than r times.
    """
    return next(n for n in itertools.count() if math.comb(n + other, n) >= segments)


def forward_runs(segments: int, states: int) -> int:
    """Returns n(N, s) of (B2).

    The forward pass up to the beginning of the last segment is included.
    """
    r = least(segments, states)
    return r * segments - math.comb(states + r, states + 1)


def _split(segments: int, states: int) -> int:
    """Returns how many segments to run before the next state is stored, for s ≥ 2.

    With this choice the number of runs is that of (B2).
    """
    r = least(segments, states)
    largest_first_part = math.comb(states + r - 1, states)  # β(s, r - 1)
    least_second_part = math.comb(states + r - 2, states - 1)  # β(s - 1, r - 1)
    return min(largest_first_part, segments - least_second_part)
