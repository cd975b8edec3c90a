"""The way from SwiGLU to another activation in small steps."""

from typing import Any

import torch
from torch import Tensor, nn

from turbosparse.model.drelu import Activation, swiglu
from turbosparse.model.mistral import GatedFFN
from turbosparse.model.mixtral import GatedExperts


class BlendedActivation:
    """(1 - share) · swiglu(gate, up) + share · target(gate, up)."""

    def __init__(self, target: Activation) -> None:
        self.target = target
        # A tensor, so that a compiled layer reads it anew instead of being compiled anew.
        self.share = torch.zeros(())

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        """Maps gate and up [..., intermediate] to h of the same shape."""
        share = self.share.to(gate.device, gate.dtype)
        return (1 - share) * swiglu(gate, up) + share * self.target(gate, up)


class ActivationSchedule:
    """Puts a blend into every FFN of a model, and takes it out where the way ends."""

    def __init__(self, model: nn.Module, share_of_steps: float) -> None:
        self._ffns: list[Any] = [ffn for ffn in model.modules() if isinstance(ffn, GatedFFN | GatedExperts)]
        self._targets = [ffn.activation for ffn in self._ffns]
        self._blends = [BlendedActivation(target) for target in self._targets]
        self._share_of_steps = share_of_steps

    def start_step(self, progress_ratio: float) -> None:
        """Sets every FFN to a point of the training, in [0, 1); any order of points is fine."""
        share = progress_ratio / self._share_of_steps
        for ffn, target, blend in zip(self._ffns, self._targets, self._blends, strict=True):
            blend.share.fill_(share)
            # The activation itself at the end: its own fast path, and zeros that are exactly zero.
            ffn.activation = blend if share < 1 else target
