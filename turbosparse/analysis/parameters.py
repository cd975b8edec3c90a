"""Parameters that one decoded token makes the machine read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from turbosparse.analysis.activity import FFNActivity
from turbosparse.analysis.taps import GatedUnit, gated_units


@dataclass(frozen=True)
class ActivatedParameters:
    """Parameters read per decoded token."""

    attention: int
    """Attention projections and norms, all of them."""
    ffn: int
    """Gate, up and down rows of neurons above zero, in the routed and the shared experts."""
    router: int
    """What chooses and weighs experts, all of it; 0 in a dense model."""
    predictor: int
    """All of a dense predictor; those of the routed experts in Mixtral."""
    embeddings: int
    """One input row, and the whole output projection."""

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(asdict(self).values())

    def as_json(self) -> dict[str, int]:
        """Returns the parts and their total."""
        return asdict(self) | {"total": self.total}


def activated_parameters(model: PreTrainedModel, layers: Sequence[FFNActivity]) -> ActivatedParameters:
    """Counts what one token reads, with each layer's measured share of active neurons.

    Weights are not looked at: a model on the meta device will do.

    Reference: the "# Activate Params" rows of Table 6.
    """
    attention = router = predictor = 0
    ffn = 0.0
    units = gated_units(model)
    for number, (block, activity) in enumerate(zip(model.model.layers, layers, strict=True)):
        mine = [unit for unit in units if unit.layer == number]
        attention += _size(block) - _size(block.mlp)
        router += _size(block.mlp) - sum(_size(unit.module) for unit in mine)
        ffn += activity.true_active_ratio * sum(_gated_size_per_token(unit) for unit in mine)
        predictor += sum(_predictor_size_per_token(unit) for unit in mine)
    attention += _size(model.model.norm)
    embeddings = model.config.hidden_size + model.lm_head.weight.numel()
    return ActivatedParameters(attention, round(ffn), router, predictor, embeddings)


def predictor_parameters(
    hidden_size: int, intermediate_size: int, ranks: Sequence[int], num_routed: int = 1
) -> int:
    """Returns the predictor parameters that a token reads, from the predictors' rank in each layer."""
    return num_routed * sum(rank * (hidden_size + intermediate_size) for rank in ranks)


def _gated_size_per_token(unit: GatedUnit) -> int:
    """Gate row, up row and down column of each neuron."""
    hidden_size = unit.module.down_proj.shape[-2] if unit.num_routed else unit.module.down_proj.out_features
    return 3 * unit.neurons_per_token * int(hidden_size)


def _predictor_size_per_token(unit: GatedUnit) -> int:
    predictor: Any = getattr(unit.module, "predictor", None)
    if predictor is None:
        return 0
    size = _size(predictor)
    return size * unit.num_routed // unit.module.num_experts if unit.num_routed else size


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
