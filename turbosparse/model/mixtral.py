"""TurboSparse-Mixtral: Mixtral with a choice of activation and a predictor beside each expert."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm, linear
from transformers import MixtralForCausalLM, MixtralModel
from transformers.initialization import normal_
from transformers.models.mixtral.modeling_mixtral import MixtralDecoderLayer, MixtralTopKRouter

from .configuration import TurboSparseMixtralConfig
from .drelu import activation_of, cast_as_linear_does, gated_linear
from .observe import FFNActivations, ObservableFFN
from .predictor import ExpertPredictors


class GatedExperts(ObservableFFN):
    """The gated FFNs of one layer's experts, as stacked weights under transformers' own names.

    `experts_implementation` chooses how they are computed, as in transformers: `grouped_mm` (the
    default; all experts in one call) or `eager` (one expert after the other).
    """

    def __init__(self, config: TurboSparseMixtralConfig, layer: int) -> None:
        super().__init__()
        hidden_size, intermediate_size = config.hidden_size, config.intermediate_size
        self.config = config
        self.layer = layer
        self.num_experts = config.num_local_experts
        self.activation = activation_of(config)
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden_size, intermediate_size))
        self.predictor: ExpertPredictors | None = None
        if (rank := config.rank_of(layer)) is not None:
            self.predictor = ExpertPredictors(self.num_experts, hidden_size, intermediate_size, rank)

    def forward(
        self,
        x: Tensor,
        routed_experts: Tensor,
        routing_weights: Tensor,
        predictor_input: Tensor | None = None,
    ) -> Tensor:
        """Returns each token's weighted sum over its experts.

        Args:
            x: [tokens, hidden], normalised.
            routed_experts: [tokens, experts per token], int64.
            routing_weights: [tokens, experts per token], summing to 1 per token.
            predictor_input: [tokens, hidden], what the predictors read; None: `x`, as in the released
                TurboSparse-Mixtral.
        """
        read = x if predictor_input is None else predictor_input
        is_grouped = self.config._experts_implementation == "grouped_mm" and self._can_group(x)
        compute = self._all_at_once if is_grouped else self._one_by_one
        return compute(x, routed_experts, routing_weights, read)

    def _one_by_one(self, x: Tensor, routed_experts: Tensor, routing_weights: Tensor, read: Tensor) -> Tensor:
        output = torch.zeros_like(x)
        for expert in routed_experts.unique().tolist():
            token, choice = torch.where(routed_experts == expert)
            gate, up = linear(x[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
            if self.is_observed:
                self.show(partial(self._look_at_one, expert, gate, up, read, token))
            expert_output = gated_linear(self.activation, gate, up, self.down_proj[expert])
            expert_output = expert_output * routing_weights[token, choice, None]
            output.index_add_(0, token, expert_output.to(output.dtype))
        return output

    def _all_at_once(
        self, x: Tensor, routed_experts: Tensor, routing_weights: Tensor, read: Tensor
    ) -> Tensor:
        num_choices = routed_experts.shape[1]
        expert, order = routed_experts.flatten().sort(stable=True)
        token = order // num_choices
        experts = torch.arange(self.num_experts, device=x.device)
        offsets = torch.searchsorted(expert, experts, right=True, out_int32=True)
        rows, weight = cast_as_linear_does(x[token], self.gate_up_proj)
        gate, up = grouped_mm(rows, weight.transpose(1, 2), offs=offsets).chunk(2, dim=-1)
        if self.is_observed:
            self.show(partial(self._look_at_each, offsets, gate, up, read, token))
        choices = gated_linear(self.activation, gate, up, self.down_proj, offsets)
        choices = choices * routing_weights.flatten()[order, None]
        return choices[order.argsort()].unflatten(0, (-1, num_choices)).sum(dim=1).to(x.dtype)

    def _can_group(self, x: Tensor) -> bool:
        """Whether grouped_mm computes in this dtype, on rows of these lengths, on this device."""
        (sample,) = cast_as_linear_does(x)
        is_aligned = all(size * sample.itemsize % 16 == 0 for size in self.down_proj.shape[1:])
        is_known = sample.dtype in (torch.bfloat16, torch.float16, torch.float32)
        is_old_gpu = x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 0)
        return is_aligned and is_known and not is_old_gpu

    def _look_at_one(
        self, expert: int, gate: Tensor, up: Tensor, read: Tensor, token: Tensor
    ) -> list[FFNActivations]:
        return [self._activations(expert, gate, up, read, token)]

    def _look_at_each(
        self, offsets: Tensor, gate: Tensor, up: Tensor, read: Tensor, token: Tensor
    ) -> Iterator[FFNActivations]:
        start = 0
        for expert, end in enumerate(offsets.tolist()):
            if end > start:
                rows = slice(start, end)
                yield self._activations(expert, gate[rows], up[rows], read, token[rows])
            start = end

    def _activations(
        self, expert: int, gate: Tensor, up: Tensor, read: Tensor, token: Tensor
    ) -> FFNActivations:
        def mine() -> Tensor:
            return read.detach()[token]

        predictor = self.predictor
        predict = None if predictor is None else (lambda: predictor(mine(), expert))
        return FFNActivations(self.layer, expert, self.activation(gate, up), predict, token, mine)


class TurboSparseMixtralBlock(nn.Module):
    """Router and experts."""

    def __init__(self, config: TurboSparseMixtralConfig, layer: int) -> None:
        super().__init__()
        self.gate = MixtralTopKRouter(config)
        self.experts = GatedExperts(config, layer)
        self.jitter_noise = config.router_jitter_noise

    def forward(self, hidden_states: Tensor, *predictor_input: Tensor) -> Tensor:
        """Maps [batch, seq, hidden] to the same shape; predictors read a second tensor if there is one."""
        if self.training and self.jitter_noise > 0:
            low, high = 1.0 - self.jitter_noise, 1.0 + self.jitter_noise
            hidden_states = hidden_states * torch.empty_like(hidden_states).uniform_(low, high)
        tokens = hidden_states.flatten(0, -2)
        _, routing_weights, routed_experts = self.gate(tokens)
        read = [tensor.flatten(0, -2) for tensor in predictor_input]
        output: Tensor = self.experts(tokens, routed_experts, routing_weights, *read)
        return output.view_as(hidden_states)


class TurboSparseMixtralDecoderLayer(MixtralDecoderLayer):
    """Mixtral's layer with our experts."""

    def __init__(self, config: TurboSparseMixtralConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.predicts_before_norm = config.predictor_input == "pre_norm"
        self.mlp = TurboSparseMixtralBlock(config, layer_idx)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Maps the residual stream [batch, seq, hidden] through attention and experts."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        residual = hidden_states + attended
        normed = self.post_attention_layernorm(residual)
        output: Tensor = residual + self.mlp(normed, *([residual] if self.predicts_before_norm else []))
        return output


class _OwnExperts:
    """What transformers must be told about the stacked weights: their seeds and implementations."""

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

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """Returns the implementation to use; grouped_mm if none was requested.

        Raises:
            ValueError: The experts are not implemented that way.
        """
        if requested_experts not in (None, "eager", "grouped_mm"):
            raise ValueError(f"experts_implementation: {requested_experts!r}; expected eager or grouped_mm")
        return requested_experts or "grouped_mm"


class TurboSparseMixtralModel(_OwnExperts, MixtralModel):
    """The decoder without its output projection."""

    config_class = TurboSparseMixtralConfig
    _no_split_modules = ["TurboSparseMixtralDecoderLayer"]  # noqa: RUF012 - transformers' own form

    def __init__(self, config: TurboSparseMixtralConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(
            TurboSparseMixtralDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.post_init()


class TurboSparseMixtralForCausalLM(_OwnExperts, MixtralForCausalLM):
    """Hugging Face-native: from_pretrained, save_pretrained and generate work as for Mixtral."""

    config_class = TurboSparseMixtralConfig
    _no_split_modules = ["TurboSparseMixtralDecoderLayer"]  # noqa: RUF012 - transformers' own form

    def __init__(self, config: TurboSparseMixtralConfig) -> None:
        super().__init__(config)
        self.model = TurboSparseMixtralModel(config)
        self.post_init()
