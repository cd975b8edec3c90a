"""Tiny models of every architecture that is analysed."""

import pytest
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from turbosparse.model.folder import as_turbosparse

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
QWEN = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20, "mlp_only_layers": [0]}
DEEPSEEK = {
    "n_routed_experts": 6,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "moe_intermediate_size": 20,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}


def _mistral():
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))


def _mixtral():
    return MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4))


def _deepseek(model, config):
    return model(config(**SHAPE | {"num_key_value_heads": 4}, **DEEPSEEK))


MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2_moe": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SHAPE, **QWEN, shared_expert_intermediate_size=28)
    ),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **QWEN)),
    "deepseek_v2": lambda: _deepseek(DeepseekV2ForCausalLM, DeepseekV2Config),
    "deepseek_v3": lambda: _deepseek(DeepseekV3ForCausalLM, DeepseekV3Config),
    "our swiglu mistral": lambda: as_turbosparse(_mistral(), "swiglu"),
    "our reglu mistral": lambda: as_turbosparse(_mistral(), "reglu"),
    "our shifted-relu mixtral": lambda: as_turbosparse(_mixtral(), "shifted-relu"),
    "our drelu mistral": lambda: as_turbosparse(_mistral(), "drelu"),
    "our drelu mixtral": lambda: as_turbosparse(_mixtral(), "drelu"),
}


def make(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


@pytest.fixture(params=MODELS)
def model(request):
    return make(request.param)


@pytest.fixture(scope="session")
def make_model():
    return make


@pytest.fixture
def tokens():
    return torch.randint(0, 96, (2, 24), generator=torch.Generator().manual_seed(1))
