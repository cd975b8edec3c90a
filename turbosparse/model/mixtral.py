"""TurboSparse-Mixtral: Mixtral with a choice of activation and a predictor beside each expert."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import MixtralForCausalLM, MixtralModel
from transformers.initialization import normal_
from transformers.models.mixtral.modeling_mixtral import MixtralDecoderLayer, MixtralTopKRouter

from .configuration import TurboSparseMixtralConfig
from .drelu import ACTIVATIONS
from .observe import FFNActivations, ObservableFFN
from .predictor import ExpertPredictors


class GatedExperts(ObservableFFN):
    """The gated FFNs of one layer's experts, as stacked weights under transformers' own names."""

    def __init__(self, config: TurboSparseMixtralConfig, layer: int) -> None:
        super().__init__()
        hidden_size, intermediate_size = config.hidden_size, config.intermediate_size
        self.layer = layer
        self.num_experts = config.num_local_experts
        self.activation = ACTIVATIONS[config.activation]
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden_size, intermediate_size))
        self.predictor: ExpertPredictors | None = None
        if config.predictor_rank is not None:
            self.predictor = ExpertPredictors(
                self.num_experts, hidden_size, intermediate_size, config.predictor_rank
            )

    def forward(self, x: Tensor, routed_experts: Tensor, routing_weights: Tensor) -> Tensor:
        """Returns each token's weighted sum over its experts.

        Args:
            x: [tokens, hidden], normalised; the predictors of the released Mixtral read the same.
            routed_experts: [tokens, experts per token], int64.
            routing_weights: [tokens, experts per token], summing to 1 per token.
        """
        output = torch.zeros_like(x)
        for expert in routed_experts.unique().tolist():
            token, choice = torch.where(routed_experts == expert)
            expert_output = self._expert(expert, x[token]) * routing_weights[token, choice, None]
            output.index_add_(0, token, expert_output.to(output.dtype))
        return output

    def _expert(self, expert: int, x: Tensor) -> Tensor:
        gate, up = linear(x, self.gate_up_proj[expert]).chunk(2, dim=-1)
        combined = self.activation(gate, up)
        if self.observer is not None:
            self.observer(self._activations(expert, combined, x))
        return linear(combined, self.down_proj[expert])

    def _activations(self, expert: int, combined: Tensor, x: Tensor) -> FFNActivations:
        predictor = self.predictor
        predict = None if predictor is None else (lambda: predictor(x.detach(), expert))
        return FFNActivations(self.layer, expert, combined, predict)


class TurboSparseMixtralBlock(nn.Module):
    """Router and experts."""

    def __init__(self, config: TurboSparseMixtralConfig, layer: int) -> None:
        super().__init__()
        self.gate = MixtralTopKRouter(config)
        self.experts = GatedExperts(config, layer)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Maps [batch, seq, hidden] to the same shape."""
        tokens = hidden_states.flatten(0, -2)
        _, routing_weights, routed_experts = self.gate(tokens)
        output: Tensor = self.experts(tokens, routed_experts, routing_weights)
        return output.view_as(hidden_states)


class TurboSparseMixtralDecoderLayer(MixtralDecoderLayer):
    """Mixtral's layer with our experts."""

    def __init__(self, config: TurboSparseMixtralConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.mlp = TurboSparseMixtralBlock(config, layer_idx)


class _InitialisesExperts:
    """Seeds the stacked weights, which transformers' own initialisation does not know."""

    config: TurboSparseMixtralConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc] # the next class is a PreTrainedModel
        if isinstance(module, GatedExperts):
            normal_(module.gate_up_proj, std=self.config.initializer_range)
            normal_(module.down_proj, std=self.config.initializer_range)
        elif isinstance(module, ExpertPredictors):
            normal_(module.fc1, std=self.config.initializer_range)
            normal_(module.fc2, std=self.config.initializer_range)


class TurboSparseMixtralModel(_InitialisesExperts, MixtralModel):
    """The decoder without its output projection."""

    config_class = TurboSparseMixtralConfig
    _no_split_modules = ["TurboSparseMixtralDecoderLayer"]  # noqa: RUF012 - transformers' own form

    def __init__(self, config: TurboSparseMixtralConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(
            TurboSparseMixtralDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.post_init()


class TurboSparseMixtralForCausalLM(_InitialisesExperts, MixtralForCausalLM):
    """Hugging Face-native: from_pretrained, save_pretrained and generate work as for Mixtral."""

    config_class = TurboSparseMixtralConfig
    _no_split_modules = ["TurboSparseMixtralDecoderLayer"]  # noqa: RUF012 - transformers' own form

    def __init__(self, config: TurboSparseMixtralConfig) -> None:
        super().__init__(config)
        self.model = TurboSparseMixtralModel(config)
        self.post_init()
