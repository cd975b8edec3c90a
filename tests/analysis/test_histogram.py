"""Bins that serve every scale, and lose nothing."""

import pytest
import torch

from turbosparse.analysis.histogram import EDGES, Histogram


@pytest.fixture
def values():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20_000, generator=generator) * torch.tensor([1e-6, 1e-3, 1, 500]).repeat(5_000)


def test_counts_are_numpys(values):
    histogram = Histogram()
    histogram.add(values.view(100, -1))
    expected, _ = torch.histogram(values, EDGES)
    assert torch.equal(histogram.counts[1:-1], expected.long())
    assert histogram.counts[0] == (values < EDGES[0]).sum()
    assert histogram.counts[-1] == (values > EDGES[-1]).sum()


def test_a_value_on_an_edge_goes_outwards_and_one_below_it_does_not():
    histogram = Histogram()
    positive = EDGES[EDGES > 0]
    histogram.add(torch.cat([positive, -positive]))
    assert (histogram.counts[: len(positive)] == 1).all()
    assert (histogram.counts[-len(positive) :] == 1).all()
    below = Histogram()
    below.add(torch.nextafter(positive, torch.zeros(())))
    assert (below.counts[len(positive) : -1] == 1).all()
    assert below.counts[-1] == 0


def test_exact_zeros_are_counted_apart(values):
    histogram = Histogram()
    histogram.add(torch.cat([values, torch.zeros(7)]).bfloat16())
    assert histogram.num_zeros == 7
    assert histogram.num_values == len(values) + 7


def test_what_is_merged_is_what_is_counted_at_once(values):
    whole, parts = Histogram(), [Histogram(), Histogram()]
    whole.add(values)
    for part, half in zip(parts, values.chunk(2), strict=True):
        part.add(half)
    parts[0].merge(parts[1])
    assert torch.equal(parts[0].counts, whole.counts)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.8])
def test_the_central_range_is_the_smallest_that_holds_the_share(values, share):
    histogram = Histogram()
    values = torch.cat([values, torch.zeros(2_000)])
    histogram.add(values)
    edge = histogram.central_range(share)
    narrower = EDGES[edge > EDGES].max()
    assert (values.abs() <= edge).float().mean() >= share
    assert narrower <= 0 or (values.abs() <= narrower).float().mean() < share


def test_the_central_range_ends_at_the_outermost_edge(values):
    histogram = Histogram()
    histogram.add(values * 1e6)
    assert histogram.central_range(0.99) == EDGES[-1]
