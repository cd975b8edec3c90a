"""Choosing the next token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from turbosparse.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits."""

    temperature: float = 0.0
    """0: the likeliest token; else logits are divided by this."""
    top_k: int | None = None
    """Only this many likeliest tokens can be drawn."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities together reach this can be drawn."""
    seed: int = 0
    """The same seed draws the same tokens."""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigError: One is out of range.
        """
        _check("temperature", self.temperature, self.temperature >= 0, "0 or more")
        _check("top_k", self.top_k, self.top_k is None or self.top_k > 0, "1 or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1")


class Sampler:
    """Draws tokens, one after the other."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.generator = torch.Generator().manual_seed(sampling.seed)

    def choose(self, logits: Tensor) -> Tensor:
        """Returns a token for each of `logits` [sequences, vocabulary]: [sequences], int64."""
        if not self.sampling.temperature:
            return logits.argmax(dim=-1)
        probabilities = allowed_probabilities(logits.float().cpu(), self.sampling)
        drawn = torch.multinomial(probabilities, 1, generator=self.generator).squeeze(1)
        return drawn.to(logits.device)


def allowed_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Returns each token's chance: [sequences, vocabulary], zero for those not to be drawn."""
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    ordered, order = probabilities.sort(dim=-1, descending=True)
    # A token stays while those before it fall short of top_p: the first one always does.
    is_past = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
    probabilities = probabilities.masked_fill(torch.empty_like(is_past).scatter(1, order, is_past), 0.0)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)


def _check(name: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        raise ConfigError(name, value, expected, f"give --{name.replace('_', '-')} such a value")
