"""The regulariser that buys zero activations."""

import math

import torch
from torch import Tensor

from turbosparse.config.levers import SparsityPenaltyConfig
from turbosparse.model.observe import FFNActivations


class SparsityPenalty:
    """Collects the FFNs' activations of one microbatch and makes one term of the loss of them."""

    def __init__(self, config: SparsityPenaltyConfig) -> None:
        self._config = config
        self._weight = 0.0
        self._sums: list[Tensor] = []
        self._num_activations = 0

    def start_step(self, progress_ratio: float) -> None:
        """Sets the weight for a point of the training, in [0, 1)."""
        self._weight = self._config.weight * warmed_up(progress_ratio, self._config.warmup_ratio)

    def __call__(self, activations: FFNActivations) -> None:
        """Takes one FFN's activations [tokens, intermediate], their graph attached."""
        combined = activations.combined
        self._sums.append(combined.abs().sum(dtype=torch.float32))
        self._num_activations += combined.numel()

    def loss(self) -> Tensor:
        """Returns weight times the microbatch's mean |h|, a scalar, fp32, and forgets the microbatch."""
        assert self._sums, "no FFN was observed: the penalty would be without effect"
        mean = torch.stack(self._sums).sum() / self._num_activations
        self._sums, self._num_activations = [], 0
        return self._weight * mean


def warmed_up(progress_ratio: float, warmup_ratio: float) -> float:
    """Returns the share of the full weight at a point of the training: half a sine wave, then 1.

    Reference: ProSparse, Section 3.2.
    """
    if progress_ratio >= warmup_ratio:
        return 1.0
    return 0.5 * (1 - math.cos(math.pi * progress_ratio / warmup_ratio))
