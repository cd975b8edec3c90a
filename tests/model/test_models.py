"""Our classes are transformers' own, plus an activation and predictors."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import relu
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from turbosparse.analysis.activity import measure_activity
from turbosparse.analysis.parameters import activated_parameters
from turbosparse.errors import ModelError
from turbosparse.model.convert import add_vocabulary, convert_model, with_predictors
from turbosparse.model.folder import as_turbosparse, check_model_folder, load_model, save_model
from turbosparse.model.observe import observe

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SOURCES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4)),
}


@pytest.fixture(params=SOURCES)
def source(request):
    torch.manual_seed(0)
    return SOURCES[request.param]().eval()


@pytest.fixture
def tokens():
    return torch.randint(0, 96, (2, 24), generator=torch.Generator().manual_seed(1))


def test_with_swiglu_logits_and_generation_are_the_originals(source, tokens):
    ours = as_turbosparse(source, "swiglu").eval()
    torch.testing.assert_close(ours(tokens).logits, source(tokens).logits, rtol=0, atol=1e-5)
    generate = {"max_new_tokens": 16, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
    assert ours.generate(tokens, **generate).tolist() == source.generate(tokens, **generate).tolist()


def test_conversion_keeps_every_weight_and_changes_the_output(source, tokens, tmp_path):
    source.save_pretrained(tmp_path / "swiglu")
    convert_model(tmp_path / "swiglu", tmp_path / "drelu")
    converted = load_model(tmp_path / "drelu")
    weights = source.state_dict()
    assert converted.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in converted.state_dict().items())
    assert converted.config.activation == "drelu"
    assert not torch.allclose(converted(tokens).logits, source(tokens).logits)


def test_bfloat16_weights_stay_bit_for_bit(source, tmp_path):
    source.to(torch.bfloat16).save_pretrained(tmp_path / "swiglu")
    converted = convert_model(tmp_path / "swiglu", tmp_path / "drelu")
    assert converted.dtype == torch.bfloat16
    weights = source.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in converted.state_dict().items())


def test_drelu_ffn_is_equation_2(tokens):
    ffn = as_turbosparse(SOURCES["mistral"](), "drelu").model.layers[0].mlp
    x = torch.randn(5, 32)
    expected = (relu(x @ ffn.gate_proj.weight.T) * relu(x @ ffn.up_proj.weight.T)) @ ffn.down_proj.weight.T
    torch.testing.assert_close(ffn(x, x), expected)


def test_experts_with_predictors_equal_transformers_experts(tokens):
    source = SOURCES["mixtral"]()
    ours = with_predictors(as_turbosparse(source, "swiglu"), rank=4, seed=0)
    torch.testing.assert_close(ours(tokens).logits, source(tokens).logits, rtol=0, atol=1e-5)


def test_what_the_predictor_reads_is_the_released_models_input(tokens):
    """Dense: the residual stream before the FFN's norm; experts: what the expert itself reads."""
    model = with_predictors(as_turbosparse(SOURCES["mistral"](), "drelu"), rank=4, seed=0).eval()
    layer, seen, logits = model.model.layers[0], [], []
    layer.post_attention_layernorm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with observe(model, lambda activations: logits.append(activations.predict())):
        model(tokens)
    torch.testing.assert_close(logits[0], layer.mlp.predictor(seen[0].flatten(0, 1)))


def test_predictors_are_named_and_shaped_as_released():
    dense = with_predictors(as_turbosparse(SOURCES["mistral"](), "drelu"), rank=4, seed=0).state_dict()
    assert dense["model.layers.1.mlp.predictor.fc1.weight"].shape == (4, 32)
    assert dense["model.layers.1.mlp.predictor.fc2.weight"].shape == (48, 4)
    moe = with_predictors(as_turbosparse(SOURCES["mixtral"](), "drelu"), rank=4, seed=0).state_dict()
    assert moe["model.layers.1.mlp.experts.predictor.fc1"].shape == (4, 4, 32)
    assert moe["model.layers.1.mlp.experts.predictor.fc2"].shape == (4, 48, 4)


def test_predictors_survive_a_round_trip_through_auto_classes(source, tmp_path):
    model = with_predictors(as_turbosparse(source, "drelu"), rank=4, seed=0)
    save_model(model, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    weights = model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.state_dict().items())


def test_new_vocabulary_rows_are_the_mean_of_the_old(source):
    model = as_turbosparse(source, "drelu")
    old = model.get_input_embeddings().weight.detach().clone()
    add_vocabulary(model, 128)
    weight = model.get_input_embeddings().weight
    assert (model.config.vocab_size, *weight.shape) == (128, 128, 32)
    assert torch.equal(weight[:96], old)
    torch.testing.assert_close(weight[96:], old.mean(0).expand(32, -1))


def test_a_random_drelu_model_is_three_quarters_zero(tokens):
    """Gate and up are independent and symmetric: a quarter of the products is above zero."""
    layers = measure_activity(as_turbosparse(SOURCES["mistral"](), "drelu"), list(tokens)).layers()
    assert all(0.65 < layer.zero_activation_ratio < 0.85 for layer in layers)
    swiglu = measure_activity(as_turbosparse(SOURCES["mistral"](), "swiglu"), list(tokens)).layers()
    assert all(layer.zero_activation_ratio == 0 for layer in swiglu)


def test_activity_counts_equal_a_count_by_hand(tokens):
    model = with_predictors(as_turbosparse(SOURCES["mixtral"](), "drelu"), rank=4, seed=0).eval()
    seen = []
    with observe(model, lambda found: seen.append((found.layer, found.combined, found.predict()))):
        for window in tokens:
            model(window[None])
    activity = measure_activity(model, list(tokens)).layers()[1]
    active = torch.cat([combined.flatten() for layer, combined, _ in seen if layer == 1]) > 0
    predicted = torch.cat([logits.flatten() for layer, _, logits in seen if layer == 1]) > 0
    assert activity.recall == pytest.approx((active & predicted).sum().item() / active.sum().item())
    assert activity.precision == pytest.approx((active & predicted).sum().item() / predicted.sum().item())
    assert activity.predicted_active_ratio == pytest.approx(predicted.float().mean().item())
    assert activity.true_active_ratio == pytest.approx(active.float().mean().item())


def test_activated_parameters_add_up_when_everything_is_active(source, tokens):
    """A SwiGLU model reads all of itself, less the experts not routed to and the embedding's other rows."""
    model = as_turbosparse(source, "swiglu").eval()
    counted = activated_parameters(model, measure_activity(model, list(tokens)).layers())
    total = sum(parameter.numel() for parameter in model.parameters())
    embedding = 96 * 32
    expected = total + 32 - (0 if model.config.tie_word_embeddings else embedding)
    if hasattr(model.config, "num_local_experts"):
        experts = 2 * (4 * 3 * 48 * 32)
        expected -= experts // 2
    assert counted.total == pytest.approx(expected, abs=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: 'gpt2'.*llama, mistral, mixtral"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu'.*silu"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_other_architectures_are_refused_by_name(change, message, tmp_path):
    SOURCES["llama"]().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        check_model_folder(tmp_path)


def test_folders_without_safetensors_or_with_cut_ones_are_refused(tmp_path):
    SOURCES["llama"]().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="whole safetensors file"):
        check_model_folder(tmp_path)
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled ones are never loaded"):
        check_model_folder(tmp_path)


def test_a_converted_model_is_not_converted_again(tmp_path):
    SOURCES["llama"]().save_pretrained(tmp_path / "swiglu")
    convert_model(tmp_path / "swiglu", tmp_path / "drelu")
    with pytest.raises(ModelError, match="activation: 'drelu'"):
        convert_model(tmp_path / "drelu", tmp_path / "again")


def test_missing_weights_are_named(tmp_path):
    SOURCES["mistral"]().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        load_model(tmp_path)


def test_the_real_checkpoint_loads_and_becomes_sparse(stories260k, tmp_path):
    original = LlamaForCausalLM.from_pretrained(stories260k).eval()
    tokens = torch.randint(0, 512, (1, 64), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_model(stories260k)(tokens).logits, original(tokens).logits)
    converted = convert_model(stories260k, tmp_path)
    layers = measure_activity(converted, list(tokens)).layers()
    assert 0.6 < sum(layer.zero_activation_ratio for layer in layers) / len(layers) < 0.9
