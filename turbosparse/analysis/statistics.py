"""The paper's activation analysis in one pass over text, in memory that does not grow with it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.analysis.activity import ActivityCounter, FFNActivity, expert_order
from turbosparse.analysis.histogram import Histogram
from turbosparse.analysis.taps import Expert, GatedActivations, gated_units, tapped
from turbosparse.errors import DataError, ModelError

Part = Literal["gate", "up", "combined"]
PARTS: tuple[Part, ...] = ("gate", "up", "combined")
HOT_SHARE = 0.8
"""Hot neurons are the fewest that make up this share of the activations, as PowerInfer has it."""


@dataclass(frozen=True)
class AnalysisPlan:
    """What a pass collects beside the counts."""

    near_zero_threshold: float = 0.1
    """|h| at most this times the root mean square of the token's h counts as near zero.

    Relative, since h differs by orders of magnitude between models and layers, so that no absolute
    threshold means the same in two of them. Setting all near-zero neurons to zero changes a token's h
    by at most this share of its norm, whatever the distribution: n values below t rms sum, squared, to
    less than t^2 times the whole. The paper gives 40% for SwiGLU (Table 1), which is hardly ever exactly
    zero, and does not say how it counted.
    """
    other_thresholds: tuple[float, ...] = (0.01, 0.02, 0.05, 0.2, 0.3)
    """Counted in the same pass, to show how the share depends on the threshold."""
    with_histograms: bool = True

    @property
    def thresholds(self) -> tuple[float, ...]:
        """All thresholds, ascending."""
        return tuple(sorted({self.near_zero_threshold, *self.other_thresholds}))


@dataclass
class UnitStatistics:
    """What one FFN, or one expert on the tokens routed to it, did over a text."""

    layer: int
    expert: Expert
    neuron_counts: Tensor
    """Tokens that made each neuron non-zero: [intermediate], int64, on the CPU."""
    near_zero: dict[float, int]
    """Activations at or below each relative threshold, exact zeros included."""
    num_tokens: int = 0
    histograms: dict[Part, Histogram] = field(default_factory=dict)

    @property
    def num_activations(self) -> int:
        """Neurons times tokens."""
        return self.num_tokens * len(self.neuron_counts)


@dataclass(frozen=True)
class Analysis:
    """What a model's FFNs did over a text."""

    plan: AnalysisPlan
    num_tokens: int
    units: dict[tuple[int, Expert], UnitStatistics]
    activity: ActivityCounter
    """Exact zeros and, where there are predictors, their hits."""

    def layers(self) -> list[FFNActivity]:
        """Returns every layer's activity, experts pooled."""
        return self.activity.layers()

    def units_of(self, layer: int) -> list[UnitStatistics]:
        """Returns a layer's FFN, or all its experts."""
        keys = sorted((key for key in self.units if key[0] == layer), key=expert_order)
        return [self.units[key] for key in keys]

    def near_zero_ratio(self, layer: int, threshold: float | None = None) -> float:
        """Returns the share of a layer's activations at or below a threshold of the plan, in [0, 1]."""
        units = self.units_of(layer)
        wanted = self.plan.near_zero_threshold if threshold is None else threshold
        return sum(unit.near_zero[wanted] for unit in units) / sum(unit.num_activations for unit in units)

    def hot_neuron_ratio(self, layer: int) -> float | None:
        """Returns the share of a layer's neurons, all experts', that are hot; None if none was active."""
        return hot_neuron_ratio(torch.cat([unit.neuron_counts for unit in self.units_of(layer)]))

    def histogram(self, part: Part, units: Iterable[UnitStatistics] | None = None) -> Histogram:
        """Returns one histogram of a part over some units, or over all of them."""
        pooled = Histogram()
        for unit in self.units.values() if units is None else units:
            pooled.merge(unit.histograms[part])
        return pooled

    def neuron_counts(self) -> dict[str, Tensor]:
        """Returns activation counts [intermediate], int64, by `activation_{layer}[.expert_{n}]`.

        n is `shared` for a shared expert. PowerInfer splits a dense layer's neurons between GPU and CPU
        by its counts.
        """
        return {
            f"activation_{layer}" + ("" if expert is None else f".expert_{expert}"): unit.neuron_counts
            for (layer, expert), unit in sorted(self.units.items(), key=lambda item: expert_order(item[0]))
        }

    def experts(self) -> list[dict[str, Any]]:
        """Returns every expert's activity, near-zero and hot-neuron share; empty for dense models."""
        rows = self.activity.experts()
        for row in rows:
            unit = self.units[row["layer"], row["expert"]]
            row["num_tokens"] = unit.num_tokens
            row["near_zero_activation_ratio"] = (
                unit.near_zero[self.plan.near_zero_threshold] / unit.num_activations
            )
            row["hot_neuron_ratio"] = hot_neuron_ratio(unit.neuron_counts)
        return rows


@torch.no_grad()
def analyse(model: PreTrainedModel, windows: Iterable[Tensor], plan: AnalysisPlan | None = None) -> Analysis:
    """Runs `model` over windows of token ids [tokens] and returns what its FFNs did.

    Raises:
        DataError: There is no window.
        ModelError: An FFN of unknown form, or activations that are not finite.

    Reference: Sections 3.1, 4 and 6.2 of the paper; Figures 3, 5 (b), 6 and 7.
    """
    plan = plan or AnalysisPlan()
    collector = _Collector(plan, ActivityCounter(model.config), _empty_units(model, plan))
    device = next(model.parameters()).device
    num_tokens = 0
    with tapped(model, collector):
        for window in windows:
            model(input_ids=window[None].to(device), use_cache=False)
            num_tokens += len(window)
    if not num_tokens:
        raise DataError("text", "no windows", "text of at least one token", "give another text")
    return Analysis(plan, num_tokens, collector.units, collector.activity)


def hot_neuron_ratio(neuron_counts: Tensor, share: float = HOT_SHARE) -> float | None:
    """Returns the smallest share of neurons that makes up `share` of all activations; None of none.

    Args:
        neuron_counts: activations by neuron, [neurons], int64.
        share: of the activations, in (0, 1].
    """
    total = int(neuron_counts.sum())
    if not total:
        return None
    running = neuron_counts.sort(descending=True).values.cumsum(0)
    num_hot = int((running < share * total).sum()) + 1
    return num_hot / len(neuron_counts)


def _empty_units(model: PreTrainedModel, plan: AnalysisPlan) -> dict[tuple[int, Expert], UnitStatistics]:
    """Returns statistics for every FFN and expert, those that no token will reach included."""
    keys: list[tuple[int, Expert, int]] = []
    for unit in gated_units(model):
        experts: Iterable[Expert] = range(len(unit.module.down_proj)) if unit.num_routed else [unit.expert]
        keys += [(unit.layer, expert, unit.intermediate_size) for expert in experts]
    return {
        (layer, expert): UnitStatistics(
            layer,
            expert,
            neuron_counts=torch.zeros(intermediate_size, dtype=torch.int64),
            near_zero=dict.fromkeys(plan.thresholds, 0),
            histograms={part: Histogram() for part in PARTS} if plan.with_histograms else {},
        )
        for layer, expert, intermediate_size in keys
    }


class _Collector:
    """Adds up what every tapped FFN computes."""

    def __init__(
        self,
        plan: AnalysisPlan,
        activity: ActivityCounter,
        units: dict[tuple[int, Expert], UnitStatistics],
    ) -> None:
        self.plan = plan
        self.activity = activity
        self.units = units

    def __call__(self, seen: GatedActivations) -> None:
        unit = self.units[seen.layer, seen.expert]
        self.activity(seen)
        unit.num_tokens += len(seen.combined)
        unit.neuron_counts += (seen.combined != 0).sum(0).cpu()
        self._count_near_zero(unit, seen)
        if self.plan.with_histograms:
            for part in PARTS:
                unit.histograms[part].add(getattr(seen, part))

    def _count_near_zero(self, unit: UnitStatistics, seen: GatedActivations) -> None:
        size = seen.combined.float().abs()
        rms = size.square().mean(-1, keepdim=True).sqrt()
        if not rms.isfinite().all():
            raise ModelError(
                f"activations of layer {unit.layer}", "not finite", "finite numbers", "check the weights"
            )
        for threshold in self.plan.thresholds:
            unit.near_zero[threshold] += int((size <= threshold * rms).sum())
