"""Where predictors draw the line: the highest thresholds that hold a wanted recall and perplexity."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.analysis.topk import measure_perplexity
from turbosparse.config import ThresholdConfig
from turbosparse.predictors.logits import EDGES, LogitCounts, count_logits
from turbosparse.predictors.masks import predicted_only

Kind = Literal["by layer", "global"]
SHOWN_RECALLS = (0.8, 0.9, 0.99)
"""Measured whether or not thresholds are chosen there: they show where the curve bends."""
NUM_HALVINGS = 7
"""Recalls tried: each halves the share of active neurons that is missed."""


@dataclass(frozen=True)
class TradeOff:
    """What thresholds buy and cost: one point of the curve; ratios are means over layers."""

    kind: Kind
    wanted_recall: float
    thresholds: tuple[float, ...]
    """One per layer; all equal where they are global."""
    recall: float
    precision: float
    predicted_active_ratio: float
    true_active_ratio: float
    perplexity: float
    """With predictors on."""
    perplexity_ratio: float
    """Over the exact one."""


@dataclass(frozen=True)
class ChosenThresholds:
    """The thresholds of a model, and the curve that they were chosen from."""

    by_layer: TradeOff
    """For decoders that take one per layer."""
    overall: TradeOff
    """For PowerInfer, which takes one for all."""
    curve: tuple[TradeOff, ...]
    exact_perplexity: float

    def as_json(self) -> dict[str, Any]:
        """Returns everything as plain numbers."""
        return asdict(self)


def choose_thresholds(
    model: PreTrainedModel, windows: Sequence[Tensor], config: ThresholdConfig
) -> ChosenThresholds:
    """Returns the thresholds with the least predicted active ratio that hold on windows of token ids.

    A higher wanted recall means lower thresholds, so recalls are tried from `min_recall` on until the
    perplexity holds, each missing half as many active neurons as the one before. By layer, every layer
    has the wanted recall; a global threshold has it as the mean over layers. If none holds, the
    last one tried stands: the curve shows it.

    Args:
        model: one with predictors; its own thresholds play no part.
        windows: held-back text, each [tokens].
        config: the wanted recall and perplexity.

    Raises:
        ModelError: The model has no predictors, or a loss that is not finite.
    """
    counts = count_logits(model, windows)
    exact = measure_perplexity(model, windows).perplexity
    curve: list[TradeOff] = []

    def measure(kind: Kind, recall: float) -> TradeOff:
        edges = _edges(kind, counts, recall)
        thresholds = tuple(float(EDGES[edge]) for edge in edges)
        with predicted_only(model, dict(enumerate(thresholds))):
            perplexity = measure_perplexity(model, windows).perplexity
        point = TradeOff(kind, recall, thresholds, *_outcome(counts, edges), perplexity, perplexity / exact)
        curve.append(point)
        return point

    by_layer, overall = (_first_that_holds(kind, measure, config) for kind in get_args(Kind))
    for kind, recall in product(get_args(Kind), SHOWN_RECALLS):
        measure(kind, recall)
    return ChosenThresholds(by_layer, overall, tuple(curve), exact)


def write_thresholds(model: PreTrainedModel, chosen: ChosenThresholds, folder: Path | None = None) -> None:
    """Sets a model's thresholds to the chosen ones, and those in its folder's config.json, if given."""
    values = {
        "predictor_threshold": list(chosen.by_layer.thresholds),
        "predictor_global_threshold": chosen.overall.thresholds[0],
    }
    model.config.update(values)
    if folder is not None:
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | values
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def chosen_values(model: PreTrainedModel) -> dict[str, Any]:
    """Returns a model's predictor_ranks and thresholds by layer, and its global_threshold, for reports."""
    config, layers = model.config, range(model.config.num_hidden_layers)
    return {
        "predictor_ranks": [config.rank_of(layer) for layer in layers],
        "thresholds": [config.threshold_of(layer) for layer in layers],
        "global_threshold": config.predictor_global_threshold,
    }


def _first_that_holds(
    kind: Kind, measure: Callable[[Kind, float], TradeOff], config: ThresholdConfig
) -> TradeOff:
    missed_ratio, limit = 1 - config.min_recall, config.max_perplexity_ratio
    for halving in range(NUM_HALVINGS):
        point = measure(kind, 1 - missed_ratio / 2**halving)
        if limit is None or point.perplexity_ratio <= limit:
            break
    return point


def _edges(kind: Kind, counts: Sequence[LogitCounts], recall: float) -> list[int]:
    """Returns, by layer, the index of the highest edge that finds the wanted share."""
    if kind == "by layer":
        return [layer.threshold_at(recall) for layer in counts]
    mean = torch.stack([layer.recall for layer in counts]).mean(0)
    return [max(0, int((mean >= recall).sum()) - 1)] * len(counts)


def _outcome(counts: Sequence[LogitCounts], edges: Sequence[int]) -> tuple[float, float, float, float]:
    """Returns recall, precision, predicted and true active ratio: means over layers."""
    rows = []
    for layer, edge in zip(counts, edges, strict=True):
        recall, predicted = float(layer.recall[edge]), float(layer.predicted_active_ratio[edge])
        precision = recall * layer.true_active_ratio / predicted if predicted else 1.0
        rows.append((recall, precision, predicted, layer.true_active_ratio))
    recalls, precisions, predicteds, trues = zip(*rows, strict=True)
    return fmean(recalls), fmean(precisions), fmean(predicteds), fmean(trues)
