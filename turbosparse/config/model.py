"""The architecture of a model that starts here; a source model brings its own."""

from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt
from pydantic import model_validator

from turbosparse.config.base import Config
from turbosparse.errors import ConfigError

Activation = Literal["drelu", "reglu", "shifted-relu", "swiglu"]


class ModelConfig(Config):
    """A Mistral (dense) or Mixtral (mixture of experts) decoder."""

    architecture: Literal["mistral", "mixtral"] = "mistral"
    """`mistral`: one FFN per layer; `mixtral`: several experts, of which a router picks some."""
    hidden_size: Annotated[int, Gt(0)]
    """Width of the residual stream."""
    intermediate_size: Annotated[int, Gt(0)]
    """FFN neurons per layer (per expert in Mixtral)."""
    num_layers: Annotated[int, Gt(0)]
    """Decoder layers."""
    num_heads: Annotated[int, Gt(0)]
    """Attention query heads."""
    num_kv_heads: Annotated[int, Gt(0)]
    """Attention key and value heads (grouped-query attention where fewer than query heads)."""
    context_length: Annotated[int, Gt(0)]
    """Longest sequence the positions are made for, in tokens."""
    rope_theta: Annotated[float, Gt(0)] = 10_000.0
    """Base of the rotary position embedding."""
    rms_norm_eps: Annotated[float, Gt(0)] = 1e-5
    """Epsilon of RMSNorm."""
    sliding_window: Annotated[int, Gt(0)] | None = None
    """Attention window in tokens; none: full causal attention."""
    tie_embeddings: bool = False
    """Whether the output projection shares the input embedding's weights."""
    num_experts: Annotated[int, Ge(1)] = 8
    """Experts per layer; used by Mixtral only."""
    num_experts_per_token: Annotated[int, Ge(1)] = 2
    """Experts that the router picks for each token; used by Mixtral only."""
    seed: Annotated[int, Ge(0)] = 17
    """Seeds the initial weights."""

    def decoder_fields(self, vocab_size: int) -> dict[str, Any]:
        """Returns the same as transformers' configurations of Mistral and Mixtral name it."""
        fields = {
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.hidden_size // self.num_heads,
            "max_position_embeddings": self.context_length,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rms_norm_eps": self.rms_norm_eps,
            "sliding_window": self.sliding_window,
            "tie_word_embeddings": self.tie_embeddings,
        }
        if self.architecture == "mistral":
            return fields
        experts = {
            "num_local_experts": self.num_experts,
            "num_experts_per_tok": self.num_experts_per_token,
        }
        return fields | experts

    @model_validator(mode="after")
    def _divides(self) -> Self:
        for field, divisor in (("hidden_size", self.num_heads), ("num_heads", self.num_kv_heads)):
            if getattr(self, field) % divisor:
                raise ConfigError(
                    field,
                    getattr(self, field),
                    f"a multiple of {divisor}",
                    "change it or the heads",
                )
        if self.architecture == "mixtral" and self.num_experts_per_token > self.num_experts:
            raise ConfigError(
                "num_experts_per_token",
                self.num_experts_per_token,
                f"at most num_experts={self.num_experts}",
                "lower it or add experts",
            )
        return self
