"""The binomial schedule: what it does, in how few runs, with how many states."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn.loops import schedule


@functools.cache
def fewest(segments, states):
    """The fewest forward runs, by trying every place for the next state."""
    if segments == 1:
        return 0
    if states == 1:
        return segments * (segments - 1) // 2
    return min(k + fewest(segments - k, states - 1) + fewest(k, states) for k in range(1, segments))


def run_schedule(segments, states):
    """The segments backpropagated, in order, and the number of forward runs."""
    slots, current, backpropagated, runs = {0: 0}, 0, [], 0
    for load, segment, backpropagate, store in zip(
        *schedule.binomial(segments, states), strict=True
    ):
        current = slots[load] if load >= 0 else current
        assert current == segment
        assert load < states
        assert store < states
        if backpropagate:
            backpropagated.append(segment)
            current = None
            assert store < 0
        else:
            current, runs = current + 1, runs + 1
            if store >= 0:
                slots[store] = current
    return backpropagated, runs


@settings(max_examples=200, deadline=None, derandomize=True)
@given(segments=st.integers(1, 40), states=st.integers(1, 12))
def test_backpropagates_every_segment_in_the_fewest_runs(segments, states):
    backpropagated, runs = run_schedule(segments, states)
    assert backpropagated == list(range(segments))[::-1]
    assert runs == fewest(segments, states) == schedule.forward_runs(segments, states)


@pytest.mark.parametrize(("segments", "states"), [(1, 1), (7, 2), (25, 25), (40, 3)])
def test_begins_with_the_forward_pass(segments, states):
    rows = schedule.binomial(segments, states)
    assert rows.segment[: segments - 1].tolist() == list(range(segments - 1))
    assert not rows.backpropagate[: segments - 1].any()
    assert rows.backpropagate[segments - 1]


def test_states_and_repeats_are_inverse():
    for segments in range(1, 200):
        for repeats in range(1, 5):
            states = max(1, schedule.least(segments, repeats))
            assert schedule.least(segments, states) <= repeats
            assert states == 1 or schedule.least(segments, states - 1) > repeats
