"""The predictors' benchmark compares what it says, in sizes where it takes no time."""

import pytest

from turbosparse.bench.predictors import measure_predictor_cost


def test_the_cost_of_predictors_is_reported_beside_what_it_should_be():
    report = measure_predictor_cost(64, 128, num_layers=2, rank=16, num_tokens=32, repetitions=2)
    layer = 4 * 64 * 64 + 3 * 64 * 128
    assert report["flops_ratio"] == pytest.approx(16 * (2 * 64 + 3 * 128) / (3 * layer))
    assert report["seconds_without"] > 0
    assert report["predictor_time_ratio"] > -1
