"""An analysis as plain numbers, for JSON."""

from typing import Any

from transformers import PreTrainedModel

from turbosparse.analysis.activity import FFNActivity, mean
from turbosparse.analysis.parameters import activated_parameters
from turbosparse.analysis.statistics import Analysis

PREDICTOR_FIELDS = ("recall", "precision", "predicted_active_ratio", "true_active_ratio")


def report_analysis(model: PreTrainedModel, analysis: Analysis) -> dict[str, Any]:
    """Returns ratios by layer and expert, their means over layers, and activated parameters."""
    layers = analysis.layers()
    near_zero = [analysis.near_zero_ratio(activity.layer) for activity in layers]
    return {
        "zero_activation_ratio": mean(layers, "zero_activation_ratio"),
        "layers": [activity.zero_activation_ratio for activity in layers],
        "near_zero_activation_ratio": sum(near_zero) / len(near_zero),
        "near_zero_layers": near_zero,
        "near_zero_threshold": analysis.plan.near_zero_threshold,
        "near_zero_by_threshold": near_zero_by_threshold(analysis),
        "hot_neuron_layers": [analysis.hot_neuron_ratio(activity.layer) for activity in layers],
        "experts": analysis.experts(),
        "predictors": _predictors(layers),
        "activated_parameters": activated_parameters(model, layers).as_json(),
        "num_tokens": analysis.num_tokens,
    }


def near_zero_by_threshold(analysis: Analysis) -> dict[str, float]:
    """Returns the share of near-zero activations, mean over layers, by relative threshold."""
    numbers = [activity.layer for activity in analysis.layers()]
    return {
        str(threshold): sum(analysis.near_zero_ratio(layer, threshold) for layer in numbers) / len(numbers)
        for threshold in analysis.plan.thresholds
    }


def _predictors(layers: list[FFNActivity]) -> list[dict[str, float | None]] | None:
    """Returns each layer's predictor figures; None where there are no predictors."""
    if all(activity.predicted_active_ratio is None for activity in layers):
        return None
    return [{name: getattr(activity, name) for name in PREDICTOR_FIELDS} for activity in layers]
