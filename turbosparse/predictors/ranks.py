"""How wide each layer's predictor is, from a budget of parameters and what the layer does."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.analysis.statistics import AnalysisPlan, UnitStatistics, analyse
from turbosparse.config import PredictorConfig
from turbosparse.errors import ConfigError

RANK_MULTIPLE = 8
"""Ranks are multiples of this: matrix products and packed formats want it."""


def choose_ranks(
    model: PreTrainedModel, windows: Iterable[Tensor], parameter_ratio: float
) -> tuple[int, ...]:
    """Returns a rank per layer, all predictors together within a share of the FFNs' parameters.

    A layer's rank is in proportion to how much there is to predict: the mean over its neurons of the
    entropy of a coin that falls as often as the neuron is active. Sparser layers have less of it, and so
    have skewed ones, whose neurons are nearly always or nearly never active: those need no
    look at the input. PowerInfer sizes its predictors by the same two properties.

    Args:
        model: one of ours.
        windows: text to measure on, each [tokens].
        parameter_ratio: predictors' parameters over gate, up and down's, in (0, 1].

    Raises:
        ConfigError: The budget is below the least rank everywhere.

    Reference: Song et al., PowerInfer (2023), Section 5.1.
    """
    analysis = analyse(model, windows, AnalysisPlan(with_histograms=False))
    layers = range(model.config.num_hidden_layers)
    return ranks_within(
        [layer_entropy(analysis.units_of(layer)) for layer in layers],
        model.config.hidden_size,
        model.config.intermediate_size,
        parameter_ratio,
    )


def ranks_of(model: PreTrainedModel, windows: Iterable[Tensor], config: PredictorConfig) -> tuple[int, ...]:
    """Returns a rank per layer: those of the configuration, or `choose_ranks`' own.

    Raises:
        ConfigError: As many ranks as layers are not given, or the budget is below the least rank.
    """
    num_layers = model.config.num_hidden_layers
    if config.rank is None:
        assert config.parameter_ratio is not None, "PredictorConfig has one of both"
        return choose_ranks(model, windows, config.parameter_ratio)
    ranks = (config.rank,) * num_layers if isinstance(config.rank, int) else config.rank
    if len(ranks) != num_layers:
        expected = f"one rank, or one for each of the {num_layers} layers"
        raise ConfigError("finetune.predictor.rank", config.rank, expected, "give as many ranks as layers")
    return ranks


def ranks_within(
    entropies: Sequence[float], hidden_size: int, intermediate_size: int, parameter_ratio: float
) -> tuple[int, ...]:
    """Returns ranks in proportion to `entropies`, in multiples of 8 and at least 8, within the budget.

    A rank takes hidden + intermediate parameters for each unit of it, as an FFN takes 3 x hidden x
    intermediate: with experts, both count as often as there are experts.

    Raises:
        ConfigError: The budget is below the least rank everywhere.
    """
    ffn = 3 * hidden_size * intermediate_size
    budget = parameter_ratio * ffn * len(entropies) / (hidden_size + intermediate_size)
    if budget < RANK_MULTIPLE * len(entropies):
        least = RANK_MULTIPLE * (hidden_size + intermediate_size) / ffn
        raise ConfigError(
            "finetune.predictor.parameter_ratio",
            parameter_ratio,
            f"at least {least:.4f}, rank {RANK_MULTIPLE} in every layer",
            "raise it",
        )
    total = sum(entropies) or 1.0
    spare = budget - RANK_MULTIPLE * len(entropies)
    return tuple(
        RANK_MULTIPLE + RANK_MULTIPLE * math.floor(spare * entropy / total / RANK_MULTIPLE)
        for entropy in entropies
    )


def layer_entropy(units: Sequence[UnitStatistics]) -> float:
    """Returns bits per neuron and token: the mean entropy of a layer's neurons, of all its experts."""
    ratios = torch.cat([unit.neuron_counts.double() / max(1, unit.num_tokens) for unit in units])
    entropy = -(torch.xlogy(ratios, ratios) + torch.xlogy(1 - ratios, 1 - ratios)) / math.log(2)
    return float(entropy.mean())
