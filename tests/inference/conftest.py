"""Tiny models of both architectures, and an FFN's weights."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

from turbosparse.model.folder import as_turbosparse

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


@pytest.fixture(params=["mistral", "mixtral"])
def model(request):
    torch.manual_seed(0)
    source = (
        MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))
        if request.param == "mistral"
        else MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4))
    )
    return as_turbosparse(source, "drelu").eval()
