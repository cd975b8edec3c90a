"""Sparse decoding computes what dense decoding computes, reading less."""

import pytest
import torch
from torch.nn.functional import relu
from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

from turbosparse.errors import DataError, ModelError
from turbosparse.inference.decode import decode
from turbosparse.inference.modules import decoding
from turbosparse.inference.sparse_ffn import sparse_ffn_exact, sparse_ffn_predicted
from turbosparse.model.convert import with_predictors
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
PROMPT = torch.tensor([1, 17, 42, 5])


@pytest.fixture(params=["mistral", "mixtral"])
def model(request):
    torch.manual_seed(0)
    source = (
        MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))
        if request.param == "mistral"
        else MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4))
    )
    return as_turbosparse(source, "drelu").eval()


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(40, 16, generator=generator) for _ in range(3)]


def test_exact_equals_the_dense_formula(weights):
    gate, up, down_t = weights
    x = torch.randn(16)
    expected = (relu(gate @ x) * relu(up @ x)) @ down_t
    torch.testing.assert_close(sparse_ffn_exact(x, gate, up, down_t), expected, rtol=1e-5, atol=1e-5)


def test_predicted_equals_the_masked_dense_formula(weights):
    gate, up, down_t = weights
    x, neurons = torch.randn(16), torch.tensor([3, 0, 21, 39, 8])
    mask = torch.zeros(40)
    mask[neurons] = 1
    expected = (relu(gate @ x) * relu(up @ x) * mask) @ down_t
    found = sparse_ffn_predicted(x, neurons, gate, up, down_t)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_no_active_neuron_gives_zero(weights):
    gate, up, down_t = weights
    nothing = torch.tensor([], dtype=torch.int64)
    assert not sparse_ffn_predicted(torch.randn(16), nothing, gate, up, down_t).any()
    assert not sparse_ffn_exact(torch.zeros(16), gate, up, down_t).any()


def test_exact_decoding_gives_the_dense_tokens_and_those_of_generate(model):
    dense = decode(model, PROMPT, 24, "dense").tokens
    assert decode(model, PROMPT, 24, "exact").tokens == dense
    generated = model.generate(
        PROMPT[None], attention_mask=torch.ones(1, 4), max_new_tokens=24, do_sample=False, eos_token_id=None
    )
    assert generated[0, 4:].tolist() == dense
    assert len(set(dense)) > 2, "a model that repeats one token would prove nothing"


def test_predictors_decide_what_is_computed(model):
    """With everything kept, decoding is dense; with everything dropped, the FFNs add nothing."""
    with_all = with_predictors(model, rank=4, seed=0).eval()
    with_all.config.predictor_threshold = -1e9
    dense = decode(with_all, PROMPT, 16, "dense").tokens
    assert decode(with_all, PROMPT, 16, "predicted").tokens == dense
    with_all.config.predictor_threshold = 1e9
    assert decode(with_all, PROMPT, 16, "predicted").tokens != dense


def test_a_model_is_itself_again_after_sparse_decoding(model):
    before = [layer.mlp for layer in model.model.layers]
    with pytest.raises(RuntimeError, match="stop"), decoding(model, "exact"):
        raise RuntimeError("stop")
    assert [layer.mlp for layer in model.model.layers] == before


def test_modes_that_a_model_lacks_are_refused(model):
    with pytest.raises(ModelError, match="activation predictors"):
        decode(model, PROMPT, 4, "predicted")
    with pytest.raises(ModelError, match="drelu"):
        decode(as_turbosparse(model, "swiglu"), PROMPT, 4, "exact")


@pytest.mark.parametrize(("prompt", "num_tokens"), [(torch.tensor([], dtype=torch.int64), 4), (PROMPT, 61)])
def test_prompts_that_do_not_fit_are_refused(model, prompt, num_tokens):
    with pytest.raises(DataError, match="at most 64"):
        decode(model, prompt, num_tokens, "dense")
