"""One pass over text that counts zero activations and, where there are predictors, their hits."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.analysis.taps import Expert, GatedActivations
from turbosparse.model.observe import FFNActivations, observe


@dataclass(frozen=True)
class Counts:
    """Neuron activations counted over tokens."""

    activations: int = 0
    active: int = 0
    """Not exactly zero; under dReLU that is above zero."""
    predictions: int = 0
    """Activations that a predictor was asked about."""
    predicted: int = 0
    hits: int = 0
    """Active and predicted."""

    def plus(self, other: "Counts") -> "Counts":
        """Returns the sums, field by field."""
        theirs = asdict(other)
        return replace(self, **{name: value + theirs[name] for name, value in asdict(self).items()})


@dataclass(frozen=True)
class FFNActivity:
    """What one layer's FFN (its experts together) did over a text."""

    layer: int
    zero_activation_ratio: float
    """Share of activations that are exactly zero (Figure 6)."""
    true_active_ratio: float
    """Share of activations that are not."""
    recall: float | None
    """Share of active neurons that the predictor found; None where undefined."""
    precision: float | None
    """Share of predicted neurons that were active; None where undefined."""
    predicted_active_ratio: float | None
    """Share of neurons that the predictor keeps; None without predictors."""


class ActivityCounter:
    """Observes FFNs and counts; memory does not grow with the text."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._counts: dict[tuple[int, Expert], Counts] = {}

    def __call__(self, activations: FFNActivations | GatedActivations) -> None:
        """Takes one FFN's activations [tokens, intermediate]."""
        key = (activations.layer, activations.expert)
        self._counts[key] = self._counts.get(key, Counts()).plus(self._count(activations))

    def layers(self) -> list[FFNActivity]:
        """Returns every layer's activity, experts pooled."""
        pooled: dict[int, Counts] = {}
        for (layer, _), counts in self._counts.items():
            pooled[layer] = pooled.get(layer, Counts()).plus(counts)
        return [_activity(layer, pooled[layer]) for layer in sorted(pooled)]

    def experts(self) -> list[dict[str, Any]]:
        """Returns every expert's activity on the tokens routed to it; empty for dense models."""
        keys = sorted((key for key in self._counts if key[1] is not None), key=expert_order)
        return [{"expert": key[1], **asdict(_activity(key[0], self._counts[key]))} for key in keys]

    def _count(self, activations: FFNActivations | GatedActivations) -> Counts:
        combined = activations.combined
        active = combined != 0
        counts = Counts(combined.numel(), int(active.sum()))
        if activations.predict is None:
            return counts
        predicted = activations.predict() > self._config.threshold_of(activations.layer)
        hits = int((predicted & active).sum())
        return replace(counts, predictions=active.numel(), predicted=int(predicted.sum()), hits=hits)


@torch.no_grad()
def measure_activity(model: PreTrainedModel, windows: Iterable[Tensor]) -> ActivityCounter:
    """Runs `model` over windows of token ids [tokens] and returns what its FFNs did.

    Reference: Section 6.2 and Figure 6 of the paper.
    """
    counter = ActivityCounter(model.config)
    device = next(model.parameters()).device
    with observe(model, counter):
        for window in windows:
            model(input_ids=window[None].to(device), use_cache=False)
    return counter


def expert_order(key: tuple[int, Expert]) -> tuple[int, int, int]:
    """Sorts (layer, expert) by layer, routed experts by number, the shared expert last."""
    layer, expert = key
    return (layer, 0, expert) if isinstance(expert, int) else (layer, 1, 0)


def mean(layers: list[FFNActivity], field: str) -> float:
    """Returns a field's mean over layers; every layer must have measured it."""
    values = [getattr(layer, field) for layer in layers]
    assert values, f"{field}: no layer was measured"
    assert None not in values, f"{field} was not measured in every layer"
    return sum(values) / len(values)


def _activity(layer: int, counts: Counts) -> FFNActivity:
    return FFNActivity(
        layer=layer,
        zero_activation_ratio=1 - counts.active / counts.activations,
        true_active_ratio=counts.active / counts.activations,
        recall=_ratio(counts.hits, counts.active) if counts.predictions else None,
        precision=_ratio(counts.hits, counts.predicted),
        predicted_active_ratio=_ratio(counts.predicted, counts.predictions),
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
