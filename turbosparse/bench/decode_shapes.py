"""Models of true widths whose active neurons are known beforehand: what the decoding benchmark runs on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.layout import on_meta
from turbosparse.model.mixtral import TurboSparseMixtralBlock

NUM_SETS = 8
"""Tokens, each with active neurons of its own in every layer and expert."""
SWITCH = 0.25
"""A weight on a token's own column; the other columns' noise is a tenth of what it decides."""
TOKEN = 64.0
BLOCK_VALUES = 1_048_573
"""A prime: rows of one matrix all differ."""


@dataclass(frozen=True)
class Shape:
    """A model to measure: its widths, how many of its layers are made, and its sparsity."""

    active_ratio: float
    predictor_rank: int
    num_measured_layers: int
    """Layers that are made; a whole model's figures are derived from theirs."""
    num_layers: int = 32
    hidden_size: int = 4_096
    intermediate_size: int = 14_336
    num_heads: int = 32
    num_kv_heads: int = 8
    vocab_size: int = 32_000
    num_experts: int | None = None
    """Experts that are made per layer, of which a token is routed to 2; None: a dense model."""

    @property
    def gate_open_ratio(self) -> float:
        """Neurons whose gate is above zero: gate and up let through the same share, independently."""
        return float(self.active_ratio**0.5)

    def config(self) -> TurboSparseMistralConfig | TurboSparseMixtralConfig:
        """Returns the configuration of the layers that are made."""
        values: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_measured_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.hidden_size // self.num_heads,
            "sliding_window": None,
            "predictor_rank": self.predictor_rank,
        }
        if self.num_experts is None:
            return TurboSparseMistralConfig(**values)
        return TurboSparseMixtralConfig(**values, num_local_experts=self.num_experts, num_experts_per_tok=2)


# As in the preset: about the mean of the released ranks.
MISTRAL = Shape(active_ratio=0.10, predictor_rank=1_280, num_measured_layers=3)
# Four experts a layer are enough to rotate through, and fit.
MIXTRAL = Shape(active_ratio=0.15, predictor_rank=1_024, num_measured_layers=1, num_experts=4)


@torch.no_grad()
def steered_model(shape: Shape, seed: int = 0) -> PreTrainedModel:
    """Returns a bf16 model of random weights in which token j < NUM_SETS activates known neurons.

    Token j's embedding is large in column j alone, of the first NUM_SETS columns; no layer writes to
    these. So the sign of gate[:, j] decides which neurons' gates open at token j, up[:, j] which of them
    are active, and a predictor that reads column j knows them. Everything is computed as in any model.
    """
    model = on_meta(shape.config()).to(torch.bfloat16).to_empty(device="cpu").eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(BLOCK_VALUES, generator=generator)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
        else:
            fill_repeatedly(parameter, block * (2e-4 if "down_proj" in name else 0.02))
    _steer_tokens(model.model.embed_tokens.weight)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[:NUM_SETS] = 0
        _steer_layer(layer.mlp, shape, generator)
    return model


def fill_repeatedly(tensor: Tensor, block: Tensor) -> None:
    """Fills a tensor with a block's values over and over: new random ones would take longer than the rest."""
    flat = tensor.view(-1)
    whole = len(flat) // len(block) * len(block)
    flat[:whole].view(-1, len(block)).copy_(block.expand(whole // len(block), -1))
    flat[whole:] = block[: len(flat) - whole]


def _steer_tokens(embeddings: Tensor) -> None:
    embeddings[:NUM_SETS].mul_(50)  # to a standard deviation of 1
    embeddings[:NUM_SETS, :NUM_SETS] = TOKEN * torch.eye(NUM_SETS)


def _steer_layer(ffn: Any, shape: Shape, generator: torch.Generator) -> None:
    if not isinstance(ffn, TurboSparseMixtralBlock):
        weights = ffn.gate_proj.weight, ffn.up_proj.weight, ffn.down_proj.weight
        _steer(weights, (ffn.predictor.fc1.weight, ffn.predictor.fc2.weight), shape, generator)
        return
    experts: Any = ffn.experts
    _route(ffn.gate.weight)
    for number in range(experts.num_experts):
        gate, up = experts.gate_up_proj[number].chunk(2)
        predictor = experts.predictor.fc1[number], experts.predictor.fc2[number]
        _steer((gate, up, experts.down_proj[number]), predictor, shape, generator)


def _route(router: Tensor) -> None:
    """Sends token j to experts j and j + 1, counted round."""
    router[:, :NUM_SETS] = -SWITCH
    for token in range(NUM_SETS):
        router[[token % len(router), (token + 1) % len(router)], token] = SWITCH


def _steer(
    weights: tuple[Tensor, Tensor, Tensor],
    predictor: tuple[Tensor, Tensor],
    shape: Shape,
    generator: torch.Generator,
) -> None:
    gate, up, down = weights
    fc1, fc2 = predictor
    num_open = round(shape.gate_open_ratio * shape.intermediate_size)
    num_active = round(shape.active_ratio * shape.intermediate_size)
    down[:NUM_SETS] = 0
    fc1[:, :NUM_SETS] = 0
    fc1[:NUM_SETS, :NUM_SETS] = torch.eye(NUM_SETS)
    for matrix in (gate, up, fc2):
        matrix[:, :NUM_SETS] = -SWITCH
    for token in range(NUM_SETS):
        shuffled = torch.randperm(shape.intermediate_size, generator=generator)
        gate[shuffled[:num_open], token] = SWITCH
        up[shuffled[:num_active], token] = SWITCH
        fc2[shuffled[:num_active], token] = SWITCH
