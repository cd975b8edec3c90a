"""TurboSparse-Mistral: Mistral with a choice of activation and a predictor beside each FFN."""

from typing import Any

from torch import Tensor, nn
from transformers import MistralForCausalLM, MistralModel
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

from .configuration import TurboSparseMistralConfig
from .drelu import ACTIVATIONS
from .observe import FFNActivations, ObservableFFN
from .predictor import Predictor


class GatedFFN(ObservableFFN):
    """down(activation(gate(x), up(x))), with an optional predictor of the active neurons."""

    def __init__(self, config: TurboSparseMistralConfig, layer: int) -> None:
        super().__init__()
        hidden_size, intermediate_size = config.hidden_size, config.intermediate_size
        self.layer = layer
        self.activation = ACTIVATIONS[config.activation]
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.predictor: Predictor | None = None
        if config.predictor_rank is not None:
            self.predictor = Predictor(hidden_size, intermediate_size, config.predictor_rank)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Maps `x` [..., hidden] to [..., hidden].

        `residual` [..., hidden] is the stream before the FFN's RMSNorm: it is what the predictor
        reads in the released TurboSparse-Mistral, and what PowerInfer gives it.
        """
        combined = self.activation(self.gate_proj(x), self.up_proj(x))
        if self.observer is not None:
            self.observer(self._activations(combined, residual))
        output: Tensor = self.down_proj(combined)
        return output

    def _activations(self, combined: Tensor, residual: Tensor) -> FFNActivations:
        predictor = self.predictor
        predict = None if predictor is None else (lambda: predictor(residual.detach().flatten(0, -2)))
        return FFNActivations(self.layer, None, combined.flatten(0, -2), predict)


class TurboSparseMistralDecoderLayer(MistralDecoderLayer):
    """Mistral's layer, with the residual stream handed to the FFN beside its normalised form."""

    def __init__(self, config: TurboSparseMistralConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.mlp = GatedFFN(config, layer_idx)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Maps the residual stream [batch, seq, hidden] through attention and FFN."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        residual = hidden_states + attended
        output: Tensor = residual + self.mlp(self.post_attention_layernorm(residual), residual)
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
