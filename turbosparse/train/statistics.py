"""What the progress report says of the FFNs: zero activations by layer, and how busy experts are."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from turbosparse.model.observe import FFNActivations


class FFNStatistics:
    """Counts one step's zero activations and routed tokens, on the device: nothing here waits for it."""

    def __init__(self, config: PretrainedConfig, device: torch.device) -> None:
        self._num_layers = config.num_hidden_layers
        self._num_experts = getattr(config, "num_local_experts", 1)
        self._device = device
        self.start_step()

    def start_step(self) -> None:
        """Forgets the step before."""
        shape = (self._num_layers, self._num_experts)
        self._zeros = torch.zeros(shape, dtype=torch.int64, device=self._device)
        self._num_rows = torch.zeros(shape, dtype=torch.int64, device=self._device)
        self._num_activations = torch.zeros(shape, dtype=torch.int64, device=self._device)

    def __call__(self, activations: FFNActivations) -> None:
        """Takes one FFN's activations [tokens, intermediate]."""
        combined = activations.combined.detach()
        place = (activations.layer, activations.expert or 0)
        self._zeros[place] += (combined == 0).sum()
        self._num_rows[place] += len(combined)
        self._num_activations[place] += combined.numel()

    def counts(self) -> Tensor:
        """Returns [3, layers, experts], int64: zeros, activations, tokens. To be summed over ranks."""
        return torch.stack((self._zeros, self._num_activations, self._num_rows))


def zero_activation_layers(counts: Tensor) -> list[float]:
    """Returns each layer's share of zero activations from summed counts [3, layers, experts]."""
    zeros, activations, _ = counts.sum(dim=2).tolist()
    return [zero / total for zero, total in zip(zeros, activations, strict=True)]


def busiest_expert_load(counts: Tensor) -> list[float] | None:
    """Returns, by layer, the busiest expert's tokens over an even share; None in a dense model."""
    tokens = counts[2].double()
    if tokens.shape[1] == 1:
        return None
    loads: list[float] = (tokens.max(dim=1).values / tokens.mean(dim=1)).tolist()
    return loads
