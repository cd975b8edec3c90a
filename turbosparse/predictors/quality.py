"""What predictors are worth: recall, precision, size and perplexity, which mean something together only."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.analysis.activity import FFNActivity, mean, measure_activity
from turbosparse.analysis.topk import measure_perplexity
from turbosparse.predictors.masks import predicted_only

PREDICTOR_MEANS = ("recall", "precision", "predicted_active_ratio", "true_active_ratio")


def measure_quality(
    model: PreTrainedModel, windows: Sequence[Tensor]
) -> tuple[dict[str, Any], list[FFNActivity]]:
    """Measures a model's predictors, at the thresholds of its configuration, on windows of token ids.

    Returns:
        Figures for JSON: recall, precision, predicted_active_ratio and true_active_ratio (means over
        layers), perplexity_exact, perplexity_predicted, perplexity_ratio, num_measured_tokens, layers,
        experts (those of every expert by itself, on the tokens routed to it; empty in a dense model); and
        the layers' activity.

    Raises:
        ModelError: The model has no predictors, or a loss that is not finite.
    """
    exact = measure_perplexity(model, windows).perplexity
    with predicted_only(model):
        predicted = measure_perplexity(model, windows).perplexity
    activity = measure_activity(model, windows)
    layers = activity.layers()
    return {
        **{name: mean(layers, name) for name in PREDICTOR_MEANS},
        "perplexity_exact": exact,
        "perplexity_predicted": predicted,
        "perplexity_ratio": predicted / exact,
        "num_measured_tokens": sum(len(window) for window in windows),
        "layers": [asdict(layer) for layer in layers],
        "experts": activity.experts(),
    }, layers
