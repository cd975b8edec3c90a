"""Floating-point operations of training: what MFU and planned hours are counted in.

A multiplication and its addition are two operations. Only matrix products count: norms, activations,
rotations and softmax do not. Attention counts the keys that the causal mask and the sliding window let
a token see, the mean over the sequence; many public figures count all keys of the sequence instead,
which makes their MFU higher (for Mistral-7B at 4,096 tokens by 7%). The FFN counts as it is
trained, dense: zero activations are multiplied too. In Mixtral only the routed experts count.
"""

from typing import Protocol


class Decoder(Protocol):
    """What is asked of a configuration, as transformers names it; Mixtral's has its experts beside."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int | None
    sliding_window: int | None

    def rank_of(self, layer: int) -> int | None:
        """Returns the rank of a layer's predictors; None: it has none."""


def training_flops_per_token(config: Decoder, sequence_length: int) -> int:
    """Returns the operations of forward and backward for one token of a sequence of that many tokens.

    Backward is twice forward: the gradients of weights and those of inputs. Activation checkpointing's
    recomputation does not count, as it is not asked for by the model.
    """
    return 3 * forward_flops_per_token(config, sequence_length)


def forward_flops_per_token(config: Decoder, sequence_length: int) -> int:
    """Returns the operations of one token's forward pass, output projection and predictors included."""
    layers = range(config.num_hidden_layers)
    ffn = sum(_ffn_weights_per_token(config, layer) for layer in layers)
    output_projection = config.hidden_size * config.vocab_size
    weights = ffn + len(layers) * _attention_weights(config) + output_projection
    return 2 * weights + len(layers) * _attention_flops_per_token(config, sequence_length)


def model_flops_utilization(
    flops_per_token: int, tokens_per_second: float, num_devices: int, peak_flops_per_second: float
) -> float:
    """Returns the share of the devices' peak that the model's own operations make up (MFU)."""
    return flops_per_token * tokens_per_second / (num_devices * peak_flops_per_second)


def _ffn_weights_per_token(config: Decoder, layer: int) -> int:
    hidden_size, intermediate_size = config.hidden_size, config.intermediate_size
    expert = 3 * hidden_size * intermediate_size
    if (rank := config.rank_of(layer)) is not None:
        expert += rank * (hidden_size + intermediate_size)
    num_experts = getattr(config, "num_local_experts", None)
    if num_experts is None:
        return expert
    return int(config.num_experts_per_tok) * expert + hidden_size * int(num_experts)  # type: ignore[attr-defined]


def _attention_weights(config: Decoder) -> int:
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    return heads * _head_size(config) * config.hidden_size


def _attention_flops_per_token(config: Decoder, sequence_length: int) -> int:
    """Scores and weighted values: two products with every key that the token sees."""
    window = min(config.sliding_window or sequence_length, sequence_length)
    num_pairs = window * (window + 1) // 2 + (sequence_length - window) * window
    return 4 * config.num_attention_heads * _head_size(config) * num_pairs // sequence_length


def _head_size(config: Decoder) -> int:
    return config.head_dim or config.hidden_size // config.num_attention_heads
