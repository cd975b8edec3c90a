"""What training looks at inside the FFNs: how sparse they are, and how well predictors guess it."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from turbosparse.model.observe import FFNActivations


class TrainingObserver:
    """Collects one step's zero-activation ratio and the predictors' loss and recall.

    The predictors' loss is a binary cross-entropy against h > 0, its inputs detached, so predictors
    follow the model without steering it. The released models train through a straight-through mask
    on the language-model loss; alone, that keeps everything: an inactive neuron's mask gets a
    gradient of exactly zero, so nothing ever tells a predictor to let it go.
    """

    def __init__(self, positive_weight: float) -> None:
        self._positive_weight = positive_weight
        self.start_step()

    def start_step(self) -> None:
        """Forgets the step before."""
        self._losses: list[Tensor] = []
        self._weights: list[int] = []
        # zero activations, all activations, active, active and predicted
        self._counts = torch.zeros(4, dtype=torch.float64)

    def __call__(self, activations: FFNActivations) -> None:
        """Takes one FFN's activations [tokens, intermediate]."""
        active = activations.combined.detach() > 0
        self._add_counts(0, activations.combined.detach() == 0, active.numel())
        if activations.predict is not None and torch.is_grad_enabled():
            logits = activations.predict()
            self._losses.append(self._cross_entropy(logits, active))
            self._weights.append(active.numel())
            self._add_counts(2, active, int((active & (logits.detach() > 0)).sum()))

    def predictor_loss(self) -> Tensor | None:
        """Returns the microbatch's mean binary cross-entropy per neuron and token, and forgets it."""
        if not self._losses:
            return None
        total = torch.stack(self._losses).sum() / sum(self._weights)
        self._losses, self._weights = [], []
        return total

    def counts(self) -> Tensor:
        """Returns [zeros, activations, active, active and predicted] since the step's start."""
        return self._counts.clone()

    def _cross_entropy(self, logits: Tensor, active: Tensor) -> Tensor:
        weight = logits.new_tensor(self._positive_weight)
        target = active.to(logits.dtype)
        return binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="sum")

    def _add_counts(self, at: int, mask: Tensor, second: int) -> None:
        self._counts[at] += int(mask.sum())
        self._counts[at + 1] += second
