"""Models whose FFNs pass on only what their predictors keep: for training, and for measuring."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.analysis.taps import GatedActivations, tapped
from turbosparse.errors import ModelError


def straight_through(logits: Tensor) -> Tensor:
    """Returns a mask of zeros and ones, [...], whose gradient is the sigmoid's.

    Reference: the released TurboSparse models multiply h by it.
    """
    soft = logits.sigmoid()
    return soft + (soft.round() - soft).detach()


@contextmanager
def predicted_only(model: PreTrainedModel, thresholds: Mapping[int, float] | None = None) -> Iterator[None]:
    """Sets to zero, inside the block, every activation that its predictor does not expect.

    What a decoder computes that reads predicted neurons only, in plain PyTorch, for every token of a
    window at once; dense models and mixtures of experts.

    Args:
        model: one of ours, with predictors.
        thresholds: the logit above which a neuron is kept, by layer; None: the configuration's.

    Raises:
        ModelError: The model has no predictors.
    """
    check_has_predictors(model)

    def keep(seen: GatedActivations) -> Tensor:
        assert seen.predict is not None
        limits = model.config.threshold_of(seen.layer) if thresholds is None else thresholds[seen.layer]
        return torch.where(seen.predict() > limits, seen.combined, 0)

    with tapped(model, keep):
        yield


def check_has_predictors(model: PreTrainedModel) -> None:
    """Refuses a model without predictors.

    Raises:
        ModelError: It has none.
    """
    if getattr(model.config, "predictor_rank", None) is None:
        remedy = "train some (turbosparse run finetune, or turbosparse predictors)"
        raise ModelError("model", type(model).__name__, "one with activation predictors", remedy)
