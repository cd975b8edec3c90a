"""Tiny dReLU models, dense and of experts, with predictors beside their FFNs and text to run them on."""

import pytest
import torch
from transformers import set_seed

from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.mistral import TurboSparseMistralForCausalLM
from turbosparse.model.mixtral import TurboSparseMixtralForCausalLM

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def make(kind: str, **options):
    set_seed(0)
    if kind == "dense":
        return TurboSparseMistralForCausalLM(TurboSparseMistralConfig(**SHAPE, **options)).eval()
    config = TurboSparseMixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2, **options)
    return TurboSparseMixtralForCausalLM(config).eval()


@pytest.fixture(scope="session")
def make_model():
    return make


@pytest.fixture(params=["dense", "experts"])
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    """With predictors of rank 8."""
    return make(kind, predictor_rank=8)


@pytest.fixture
def windows():
    """Eight windows of 24 token ids."""
    tokens = torch.randint(0, 64, (8, 24), generator=torch.Generator().manual_seed(1))
    return list(tokens)
