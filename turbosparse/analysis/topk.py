"""Models at a chosen sparsity: only the largest activations of each token reach the down projection."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from turbosparse.analysis.taps import tapped
from turbosparse.errors import DataError, ModelError


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text."""

    perplexity: float
    """exp of the mean loss per predicted token."""
    num_predicted_tokens: int


@contextmanager
def topk_mask(model: PreTrainedModel, kept_ratio: float) -> Iterator[None]:
    """Keeps, inside the block, each token's `kept_ratio` largest activations of every FFN and expert.

    Args:
        model: ours, or one of transformers' that `gated_units` knows.
        kept_ratio: k over the intermediate size, in (0, 1]; 1 - kept_ratio is the sparsity.

    Raises:
        DataError: kept_ratio is not in (0, 1].

    Reference: Equations 3 and 4, and Section 4 (per expert), of the paper.
    """
    if not 0 < kept_ratio <= 1:
        raise DataError("kept_ratio", kept_ratio, "a fraction in (0, 1]", "give 1 - sparsity")
    with tapped(model, lambda seen: keep_largest(seen.combined, kept_ratio)):
        yield


def keep_largest(combined: Tensor, kept_ratio: float) -> Tensor:
    """Returns `combined` with each row's k largest magnitudes as they are and zeros elsewhere.

    k is kept_ratio times the row's length, rounded, at least 1; ties are broken so that k are kept.

    Args:
        combined: [tokens, intermediate].
        kept_ratio: in (0, 1].

    Reference: Equation 3 of the paper.
    """
    num_kept = max(1, round(kept_ratio * combined.shape[-1]))
    kept = combined.abs().topk(num_kept, dim=-1, sorted=False).indices
    mask = torch.zeros_like(combined).scatter_(-1, kept, 1)
    return combined * mask


@torch.no_grad()
def measure_perplexity(model: PreTrainedModel, windows: Iterable[Tensor]) -> Perplexity:
    """Returns the perplexity per token, each window [tokens] predicted on its own.

    Raises:
        ModelError: The loss is not finite.
    """
    device = next(model.parameters()).device
    loss, num_predicted = 0.0, 0
    for window in windows:
        ids = window.to(device)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        loss += float(cross_entropy(logits, ids[1:], reduction="sum"))
        num_predicted += len(ids) - 1
    assert num_predicted, "windows without a token to predict"
    if not math.isfinite(loss):
        raise ModelError("loss", loss, "a finite number", "check the model: its activations overflow")
    return Perplexity(math.exp(loss / num_predicted), num_predicted)
