"""Attention of single new tokens over keys and values that lie in one preallocated block per layer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig

from turbosparse.inference.ffn import prepared
from turbosparse.inference.operators import Positions, attend, linear
from turbosparse.inference.quantize import Quantization, Weight


class KVCache:
    """Keys and values of all layers: [layers, 2, sequences, kv heads, slots, head dim]; slot = position."""

    def __init__(self, config: PretrainedConfig, num_sequences: int, num_slots: int, like: Tensor) -> None:
        head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        shape = config.num_key_value_heads, num_slots, head_dim
        # Zeros: a slot behind a mask must not hold NaN.
        self.blocks = like.new_zeros(config.num_hidden_layers, 2, num_sequences, *shape)

    def fill(self, sequence: int, prefilled: DynamicCache, num_tokens: int) -> None:
        """Takes over what the prefill of a prompt of `num_tokens` left, which may be its last window."""
        for block, layer in zip(self.blocks, prefilled.layers, strict=True):
            for kept, states in zip(block, (layer.keys, layer.values), strict=True):
                first = num_tokens - states.shape[2]
                kept[sequence, :, first:num_tokens] = states[0]


class PositionTable:
    """Makes Positions from a table of rotary angles."""

    def __init__(self, rotary: nn.Module, window: int | None, num_slots: int, like: Tensor) -> None:
        angles = rotary(like, torch.arange(num_slots, device=like.device)[None])
        self.cos, self.sin = (angle[0, :, None] for angle in angles)
        self.window = window

    def at(self, slots: list[int]) -> Positions:
        """Returns the positions of one new token per sequence."""
        found = torch.tensor(slots, device=self.cos.device)
        starts = [max(0, slot + 1 - (self.window or slot + 1)) for slot in slots]
        first, end = min(starts), max(slots) + 1
        mask = None
        if len(set(slots)) > 1:
            reached = torch.arange(first, end, device=found.device)
            seen = (reached <= found[:, None]) & (
                reached >= torch.tensor(starts, device=found.device)[:, None]
            )
            mask = seen[:, None, None]
        return Positions(found, first, end, self.cos[found], self.sin[found], mask)


@dataclass(frozen=True)
class Attention:
    """One layer's attention."""

    query: Weight
    key: Weight
    value: Weight
    output: Weight
    head_dim: int

    @classmethod
    def of(cls, attention: Any, quantization: Quantization) -> "Attention":
        """Returns a model's attention module as decoding computes it."""
        projections = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        query, key, value, output = (prepared(projection.weight, quantization) for projection in projections)
        return cls(query, key, value, output, attention.head_dim)

    @property
    def num_bytes(self) -> int:
        """Bytes of weights that one step reads."""
        return sum(weight.num_bytes for weight in (self.query, self.key, self.value, self.output))

    def __call__(self, x: Tensor, block: Tensor, positions: Positions) -> Tensor:
        """Maps `x` [sequences, hidden] to the same shape.

        Args:
            x: one normalised token per sequence.
            block: the layer's part of the cache; the token's key and value are written there.
            positions: of the tokens.
        """
        heads = linear(x, self.query, self.key, self.value).unflatten(1, (-1, self.head_dim))
        return linear(attend(heads, block, positions), self.output)
