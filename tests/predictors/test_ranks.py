"""Ranks keep to the budget and go where there is something to predict."""

import pytest
import torch

from turbosparse.analysis.statistics import UnitStatistics
from turbosparse.config import PredictorConfig, validate
from turbosparse.errors import ConfigError
from turbosparse.predictors.ranks import layer_entropy, ranks_of, ranks_within


def unit(counts: list[int]) -> UnitStatistics:
    return UnitStatistics(0, None, torch.tensor(counts), near_zero={}, num_tokens=100)


def test_sparse_and_skewed_layers_have_less_to_predict():
    even, sparse, skewed = unit([50] * 4), unit([5] * 4), unit([100, 100, 0, 0])
    assert layer_entropy([even]) == pytest.approx(1.0)
    assert layer_entropy([skewed]) == pytest.approx(0.0), "half active too, but always the same neurons"
    assert 0 < layer_entropy([sparse]) < layer_entropy([even])
    assert layer_entropy([unit([95] * 4)]) == pytest.approx(layer_entropy([sparse]))
    assert layer_entropy([even, skewed]) == pytest.approx(0.5), "a layer is all its experts"


def test_the_budget_is_kept_and_used():
    ranks = ranks_within([1.0, 0.5, 0.0, 0.25], hidden_size=512, intermediate_size=1_536, parameter_ratio=0.1)
    used, allowed = sum(ranks) * (512 + 1_536), 0.1 * 4 * 3 * 512 * 1_536
    assert 0.9 * allowed < used <= allowed
    assert ranks[0] > ranks[1] > ranks[3] > ranks[2] == 8
    assert all(rank % 8 == 0 for rank in ranks)


def test_layers_without_anything_to_predict_share_alike():
    assert ranks_within([0.0, 0.0], 64, 128, 0.2) == (8, 8)


def test_a_budget_below_the_least_rank_is_refused():
    with pytest.raises(ConfigError, match="parameter_ratio"):
        ranks_within([1.0, 1.0], 64, 128, 0.01)


def test_ranks_come_from_the_configuration_or_from_the_text(model, windows):
    assert ranks_of(model, (), PredictorConfig(rank=12)) == (12, 12, 12)
    assert ranks_of(model, (), PredictorConfig(rank=(8, 16, 24))) == (8, 16, 24)
    with pytest.raises(ConfigError, match="3 layers"):
        ranks_of(model, (), PredictorConfig(rank=(8, 16)))
    measured = ranks_of(model, windows, PredictorConfig(parameter_ratio=0.8))
    assert len(measured) == 3
    assert sum(measured) * (16 + 40) <= 0.8 * 3 * 3 * 16 * 40


@pytest.mark.parametrize("given", [{}, {"rank": 8, "parameter_ratio": 0.1}])
def test_one_size_must_be_given(given):
    with pytest.raises(ConfigError, match="either rank or parameter_ratio"):
        validate(PredictorConfig, given, source="a test")
