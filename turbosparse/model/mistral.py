"""TurboSparse-Mistral: Mistral with a choice of activation and a predictor beside each FFN."""

from typing import Any

from torch import Tensor, nn
from transformers import MistralForCausalLM, MistralModel
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

from .configuration import TurboSparseMistralConfig
from .drelu import activation_of, gated_linear
from .observe import FFNActivations, ObservableFFN
from .predictor import Predictor


class GatedFFN(ObservableFFN):
    """down(activation(gate(x), up(x))), with an optional predictor of the active neurons."""

    def __init__(self, config: TurboSparseMistralConfig, layer: int) -> None:
        super().__init__()
        hidden_size, intermediate_size = config.hidden_size, config.intermediate_size
        self.layer = layer
        self.activation = activation_of(config)
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.predictor: Predictor | None = None
        if (rank := config.rank_of(layer)) is not None:
            self.predictor = Predictor(hidden_size, intermediate_size, rank)

    def forward(self, x: Tensor, predictor_input: Tensor) -> Tensor:
        """Maps `x` [..., hidden] to [..., hidden]; the predictor reads `predictor_input` [..., hidden]."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        if self.is_observed:
            self.show(lambda: [self._activations(gate, up, predictor_input)])
        if _is_plain(self.down_proj):
            return gated_linear(self.activation, gate, up, self.down_proj.weight)
        output: Tensor = self.down_proj(self.activation(gate, up))
        return output

    def _activations(self, gate: Tensor, up: Tensor, predictor_input: Tensor) -> FFNActivations:
        def read() -> Tensor:
            return predictor_input.detach().flatten(0, -2)

        predictor = self.predictor
        predict = None if predictor is None else (lambda: predictor(read()))
        return FFNActivations(self.layer, None, self.activation(gate, up).flatten(0, -2), predict, read=read)


def _is_plain(module: nn.Linear) -> bool:
    # An adapter, a quantized layer or a hook (tensor parallelism has them) must be called, not read.
    return type(module) is nn.Linear and not module._forward_hooks and not module._forward_pre_hooks


class TurboSparseMistralDecoderLayer(MistralDecoderLayer):
    """Mistral's layer, with what the predictor reads handed to the FFN beside its own input.

    In the released TurboSparse-Mistral, and in PowerInfer, that is the residual stream before the
    FFN's RMSNorm.
    """

    def __init__(self, config: TurboSparseMistralConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.predicts_before_norm = config.predictor_input == "pre_norm"
        self.mlp = GatedFFN(config, layer_idx)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Maps the residual stream [batch, seq, hidden] through attention and FFN."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        residual = hidden_states + attended
        normed = self.post_attention_layernorm(residual)
        output: Tensor = residual + self.mlp(normed, residual if self.predicts_before_norm else normed)
        return output


class TurboSparseMistralModel(MistralModel):
    """The decoder without its output projection."""

    config_class = TurboSparseMistralConfig
    _no_split_modules = ["TurboSparseMistralDecoderLayer"]  # noqa: RUF012 - transformers' own form

    def __init__(self, config: TurboSparseMistralConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(
            TurboSparseMistralDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.post_init()


class TurboSparseMistralForCausalLM(MistralForCausalLM):
    """Hugging Face-native: from_pretrained, save_pretrained and generate work as for Mistral."""

    config_class = TurboSparseMistralConfig
    _no_split_modules = ["TurboSparseMistralDecoderLayer"]  # noqa: RUF012 - transformers' own form

    def __init__(self, config: TurboSparseMistralConfig) -> None:
        super().__init__(config)
        self.model = TurboSparseMistralModel(config)
        self.post_init()
