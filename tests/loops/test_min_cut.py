"""The smallest cut: by hand, and against all subsets of small graphs."""

import itertools

import numpy as np
import pytest

from jaxrnn.loops.derived.min_cut import smallest_cut


def test_it_is_the_cheapest_set_on_every_path():
    costs = {"a": 5, "b": 5, "c": 1, "d": 9}
    edges = [("a", "c"), ("b", "c"), ("c", "d")]
    assert smallest_cut(costs, edges, ["a", "b"], ["d"]) == (["c"], {"a", "b"})


def test_of_equal_ones_it_is_nearest_to_the_sinks():
    costs = dict.fromkeys("abc", 2)
    assert smallest_cut(costs, [("a", "b"), ("b", "c")], ["a"], ["c"]) == (["c"], {"a", "b"})


def test_what_must_not_be_in_it_is_not():
    costs = {"a": 5, "b": None, "c": None}
    assert smallest_cut(costs, [("a", "b"), ("b", "c")], ["a"], ["c"])[0] == ["a"]


def test_a_path_that_must_not_be_cut_is_an_error():
    with pytest.raises(ValueError, match="costs: got a path"):
        smallest_cut({"a": None, "b": None}, [("a", "b")], ["a"], ["b"])


def test_without_a_path_nothing_is_cut():
    assert smallest_cut({}, [], [], []) == ([], set())
    assert smallest_cut({"a": 1, "b": 1}, [], ["a"], ["b"])[0] == []


def test_sizes_of_gigabytes_do_not_overflow():
    costs = {"a": 2**40, "b": 2**39, "c": 2**41}
    assert smallest_cut(costs, [("a", "b"), ("b", "c")], ["a"], ["c"])[0] == ["b"]


@pytest.mark.parametrize("seed", range(40))
def test_it_costs_what_the_cheapest_of_all_subsets_costs(seed):
    rng = np.random.default_rng(seed)
    nodes = list(range(7))
    costs = {n: int(rng.integers(0, 9)) for n in nodes}
    pairs = itertools.combinations(nodes, 2)
    edges = [pair for pair in pairs if rng.random() < 0.4]
    sources, sinks = [0, 1], [5, 6]

    def separates(chosen):
        reached = {n for n in sources if n not in chosen}
        for a, b in edges:  # in order, since a < b
            if a in reached and b not in chosen:
                reached.add(b)
        return reached.isdisjoint(sinks)

    subsets = itertools.chain.from_iterable(itertools.combinations(nodes, k) for k in range(8))
    least = min(sum(costs[n] for n in chosen) for chosen in subsets if separates(chosen))
    cut, _ = smallest_cut(costs, edges, sources, sinks)
    assert separates(cut)
    assert sum(costs[n] for n in cut) == least
