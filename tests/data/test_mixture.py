"""The mixture's arithmetic: exact counts, and an order that is in proportion all along."""

from itertools import pairwise

import numpy as np
import pytest

from turbosparse.config.data import TABLE_4_PERCENT
from turbosparse.data.mixture import allot_sequences, interleave, spread


def worst_deviation(order: np.ndarray, counts: list[int]) -> float:
    """Largest distance, over all prefixes and sources, between sequences drawn and wanted."""
    positions = np.arange(1, len(order) + 1)
    return max(
        float(np.abs(np.cumsum(order == source) - positions * count / len(order)).max())
        for source, count in enumerate(counts)
    )


@pytest.mark.parametrize("num_sequences", [1, 17, 271, 2_343, 100_003])
def test_shares_sum_exactly_and_each_is_within_one_sequence(num_sequences):
    counts = allot_sequences(TABLE_4_PERCENT, num_sequences)
    assert sum(counts.values()) == num_sequences
    for source, percent in TABLE_4_PERCENT.items():
        assert abs(counts[source] - percent / 100 * num_sequences) < 1


def test_largest_remainders_get_the_spare_sequences():
    assert allot_sequences({"a": 46, "b": 35, "c": 19}, 10) == {"a": 5, "b": 3, "c": 2}


def test_equal_remainders_do_not_depend_on_the_order_of_the_mixture():
    forwards = allot_sequences({"a": 50, "b": 50}, 3)
    assert forwards == allot_sequences({"b": 50, "a": 50}, 3) == {"a": 2, "b": 1}


@pytest.mark.parametrize("num_sequences", [271, 10_000])
def test_every_prefix_of_table_4_is_within_one_sequence(num_sequences):
    counts = list(allot_sequences(TABLE_4_PERCENT, num_sequences).values())
    order = interleave(counts)
    assert np.bincount(order, minlength=len(counts)).tolist() == counts
    assert worst_deviation(order, counts) < 1


def test_every_prefix_of_random_mixtures_is_within_one_sequence():
    generator = np.random.default_rng(0)
    for _ in range(100):
        counts = [1, *generator.integers(0, 60, generator.integers(0, 20)).tolist()]
        order = interleave(counts)
        assert np.bincount(order, minlength=len(counts)).tolist() == counts
        assert worst_deviation(order, counts) < 1


def test_empty_sources_and_empty_mixtures():
    assert interleave([0, 3, 0]).tolist() == [1, 1, 1]
    assert interleave([]).tolist() == []


@pytest.mark.parametrize("num_sequences", [1, 2, 3, 10, 97, 1_000])
def test_spread_visits_each_sequence_once_and_keeps_neighbours_apart(num_sequences):
    order = spread(num_sequences)
    assert sorted(order) == list(range(num_sequences))
    if num_sequences >= 97:
        assert min(abs(int(a) - int(b)) for a, b in pairwise(order)) > num_sequences // 4
