"""How predictors' logits fall on active and inactive neurons: every threshold's outcome from one pass."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.model.observe import FFNActivations, observe
from turbosparse.predictors.masks import check_has_predictors

EDGES = torch.arange(-16 * 32, 16 * 32 + 1, dtype=torch.float32) / 32
"""Thresholds that can be chosen, ascending: multiples of 1/32, which read the same wherever they go."""


@dataclass(frozen=True)
class LogitCounts:
    """One layer's decisions by logit, experts pooled; bin b lies above EDGES[b - 1], up to EDGES[b]."""

    active: Tensor
    """Truly active: [bins], int64, on the CPU."""
    inactive: Tensor
    """The others: [bins], int64."""

    @property
    def recall(self) -> Tensor:
        """Share of active neurons that each threshold finds: [edges], float64; 1 where none was active."""
        found = _above(self.active)
        return found / self.active.sum() if self.active.sum() else torch.ones_like(found)

    @property
    def predicted_active_ratio(self) -> Tensor:
        """Share of neurons that each threshold keeps: [edges], float64."""
        return (_above(self.active) + _above(self.inactive)) / (self.active.sum() + self.inactive.sum())

    @property
    def true_active_ratio(self) -> float:
        """Share of neurons that are active."""
        return float(self.active.sum() / (self.active.sum() + self.inactive.sum()))

    def threshold_at(self, recall: float) -> int:
        """Returns the index of the highest edge at which at least this share of active neurons is found."""
        return max(0, int((self.recall >= recall).sum()) - 1)


class _LogitCounter:
    """Observes predictors and counts; memory does not grow with the text."""

    def __init__(self, model: PreTrainedModel) -> None:
        shape = (model.config.num_hidden_layers, 2 * (len(EDGES) + 1))
        self.counts = torch.zeros(shape, dtype=torch.int64, device=model.device)
        self._edges = EDGES.to(model.device)

    def __call__(self, activations: FFNActivations) -> None:
        assert activations.predict is not None
        bins = torch.bucketize(activations.predict().float(), self._edges)
        places = 2 * bins + (activations.combined != 0)
        counts = torch.bincount(places.flatten(), minlength=self.counts.shape[1])
        self.counts[activations.layer] += counts


@torch.no_grad()
def count_logits(model: PreTrainedModel, windows: Iterable[Tensor]) -> list[LogitCounts]:
    """Runs `model` over windows of token ids [tokens]; returns each layer's counts.

    Raises:
        ModelError: The model has no predictors.
    """
    check_has_predictors(model)
    counter = _LogitCounter(model)
    with observe(model, counter):
        for window in windows:
            model(input_ids=window[None].to(model.device), use_cache=False)
    counts = counter.counts.cpu()
    return [LogitCounts(active=layer[1::2], inactive=layer[0::2]) for layer in counts]


def _above(counts: Tensor) -> Tensor:
    """Returns, for each edge, how many logits lie above it: [edges], float64."""
    return (counts.sum() - counts.cumsum(0))[:-1].double()
