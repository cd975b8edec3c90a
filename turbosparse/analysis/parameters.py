"""Parameters that one decoded token makes the machine read."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from turbosparse.analysis.activity import FFNActivity
from turbosparse.model.mixtral import GatedExperts
from turbosparse.model.observe import ObservableFFN


@dataclass(frozen=True)
class ActivatedParameters:
    """Parameters read per decoded token."""

    attention: int
    """Attention projections and norms, all of them."""
    ffn: int
    """Gate, up and down rows of neurons above zero, in the routed experts; the router."""
    predictor: int
    """All of a dense predictor; those of the routed experts in Mixtral."""
    embeddings: int
    """One input row, and the whole output projection."""

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return self.attention + self.ffn + self.predictor + self.embeddings


def activated_parameters(model: PreTrainedModel, layers: list[FFNActivity]) -> ActivatedParameters:
    """Counts what one token reads, with each layer's measured share of active neurons.

    Reference: the "# Activate Params" rows of Table 6.
    """
    attention = ffn = predictor = 0
    for layer, activity in zip(model.model.layers, layers, strict=True):
        gated: Any = next(module for module in layer.mlp.modules() if isinstance(module, ObservableFFN))
        routed_share = _routed_share(model, gated)
        predictor_size = 0 if gated.predictor is None else _size(gated.predictor)
        gated_size = _size(gated) - predictor_size
        predictor += round(predictor_size * routed_share)
        ffn += round(gated_size * routed_share * activity.true_active_ratio)
        ffn += _size(layer.mlp) - _size(gated)
        attention += _size(layer) - _size(layer.mlp)
    attention += _size(model.model.norm)
    embeddings = model.config.hidden_size + model.lm_head.weight.numel()
    return ActivatedParameters(attention, ffn, predictor, embeddings)


def _routed_share(model: PreTrainedModel, gated: nn.Module) -> float:
    if not isinstance(gated, GatedExperts):
        return 1.0
    return float(model.config.num_experts_per_tok / gated.num_experts)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
