"""Our classes are transformers' own, plus an activation and predictors."""

import json
from functools import partial
from itertools import combinations

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
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.convert import add_vocabulary, convert_model, with_predictors
from turbosparse.model.folder import as_turbosparse, check_model_folder, load_model, save_model
from turbosparse.model.mistral import TurboSparseMistralForCausalLM
from turbosparse.model.mixtral import GatedExperts, TurboSparseMixtralForCausalLM
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


OURS = {
    "mistral": (TurboSparseMistralForCausalLM, TurboSparseMistralConfig),
    "mixtral": (TurboSparseMixtralForCausalLM, partial(TurboSparseMixtralConfig, num_local_experts=4)),
}


def ours(architecture, **fields):
    torch.manual_seed(0)
    model_class, config_class = OURS[architecture]
    return model_class(config_class(**{**SHAPE, **fields})).eval()


def _given(**fields):
    return {name: value for name, value in fields.items() if value is not None}


def _note(seen, found):
    key = (found.layer, found.expert)
    assert key not in seen, "shown twice"
    seen[key] = (found.combined.detach(), found.predict().detach())


@pytest.fixture(params=SOURCES)
def source(request):
    torch.manual_seed(0)
    return SOURCES[request.param]().eval()


@pytest.fixture
def tokens():
    return torch.randint(0, 96, (2, 24), generator=torch.Generator().manual_seed(1))


def test_with_swiglu_logits_and_generation_are_the_originals(source, tokens):
    model = as_turbosparse(source, "swiglu").eval()
    torch.testing.assert_close(model(tokens).logits, source(tokens).logits, rtol=0, atol=1e-5)
    generate = {"max_new_tokens": 16, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
    assert model.generate(tokens, **generate).tolist() == source.generate(tokens, **generate).tolist()


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
    convert_model(tmp_path / "swiglu", tmp_path / "drelu")
    converted = load_model(tmp_path / "drelu")
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
    model = with_predictors(as_turbosparse(source, "swiglu"), rank=4, seed=0)
    torch.testing.assert_close(model(tokens).logits, source(tokens).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["mistral", "mixtral"])
@pytest.mark.parametrize("predictor_input", [None, "pre_norm", "post_norm"])
def test_predictors_read_what_the_configuration_says(architecture, predictor_input, tokens):
    """By default what the released models' do: before the FFN's norm if dense, after it in experts."""
    default = {"mistral": "pre_norm", "mixtral": "post_norm"}[architecture]
    model = ours(architecture, predictor_rank=4, **_given(predictor_input=predictor_input))
    layer, streams, logits = model.model.layers[0], {}, {}
    norm = layer.post_attention_layernorm
    norm.register_forward_pre_hook(lambda module, args: streams.update(pre_norm=args[0]))
    norm.register_forward_hook(lambda module, args, output: streams.update(post_norm=output))

    def look(found):
        if found.layer == 0:
            logits[found.expert] = found.predict()

    with observe(model, look):
        model(tokens)
    read = streams[predictor_input or default].flatten(0, 1)
    if architecture == "mistral":
        torch.testing.assert_close(logits[None], layer.mlp.predictor(read))
        return
    _, _, routed = layer.mlp.gate(streams["post_norm"])
    for expert, found in logits.items():
        routed_here = read[(routed == expert).any(dim=1)]
        torch.testing.assert_close(found, layer.mlp.experts.predictor(routed_here, expert))


@pytest.mark.parametrize("architecture", ["mistral", "mixtral"])
def test_every_field_survives_a_round_trip(architecture, tokens, tmp_path):
    fields = {
        "activation": "shifted-relu",
        "activation_shift": 0.25,
        "predictor_rank": [3, 5],
        "predictor_input": {"mistral": "post_norm", "mixtral": "pre_norm"}[architecture],
        "predictor_threshold": [-0.5, 1.5],
    }
    model = ours(architecture, **fields)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert {name: getattr(loaded.config, name) for name in fields} == fields
    assert [loaded.config.rank_of(layer) for layer in (0, 1)] == [3, 5]
    assert [loaded.config.threshold_of(layer) for layer in (0, 1)] == [-0.5, 1.5]
    ranks = [weight.shape[-2] for name, weight in loaded.named_parameters() if "predictor.fc1" in name]
    assert ranks == [3, 5]
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)


def test_one_value_serves_every_layer():
    config = TurboSparseMistralConfig(predictor_rank=7, predictor_threshold=0.5)
    assert (config.rank_of(31), config.threshold_of(31)) == (7, 0.5)
    assert TurboSparseMixtralConfig().rank_of(0) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"predictor_rank": [4]}, "predictor_rank: a list of 1 values.*num_hidden_layers=2"),
        ({"predictor_threshold": [0.0] * 3}, "predictor_threshold: a list of 3 values"),
        ({"predictor_rank": [4, 0]}, "above zero"),
    ],
)
def test_wrong_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TurboSparseMixtralConfig(num_hidden_layers=2, **fields)


@pytest.mark.parametrize("architecture", ["mistral", "mixtral"])
def test_activations_differ_where_their_definitions_do(architecture, tokens):
    def logits(activation, **fields):
        return ours(architecture, activation=activation, **fields)(tokens).logits

    torch.testing.assert_close(logits("shifted-relu", activation_shift=0.0), logits("reglu"))
    found = [logits(activation) for activation in ("drelu", "reglu", "shifted-relu", "swiglu")]
    assert not any(torch.allclose(one, other) for one, other in combinations(found, 2))


@pytest.mark.parametrize("activation", ["drelu", "swiglu"])
@pytest.mark.parametrize("intermediate_size", [48, 50], ids=["aligned", "unaligned"])
def test_experts_computed_at_once_equal_one_by_one(activation, intermediate_size, tokens):
    """Gradients too, and what observers see; sizes that grouped_mm can't take are computed one by one."""
    results = {}
    for implementation in ("eager", "grouped_mm"):
        fields = {"activation": activation, "intermediate_size": intermediate_size, "predictor_rank": 4}
        model = ours("mixtral", experts_implementation=implementation, **fields)
        assert model.config._experts_implementation == implementation
        seen = {}
        with observe(model, partial(_note, seen)):
            output = model(tokens, labels=tokens, output_router_logits=True)
        output.loss.backward()
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
        results[implementation] = output.logits, seen, {k: v for k, v in grads.items() if v is not None}
    torch.testing.assert_close(results["grouped_mm"], results["eager"], rtol=0, atol=1e-5)


def test_experts_are_grouped_unless_asked_otherwise(monkeypatch, tokens):
    model = ours("mixtral")
    monkeypatch.setattr(GatedExperts, "_one_by_one", None)
    model(tokens)
    with pytest.raises(ValueError, match="expected eager or grouped_mm"):
        model.set_experts_implementation("batched_mm")
    model.set_experts_implementation("eager")
    with pytest.raises(TypeError):
        model(tokens)


def test_experts_without_tokens_get_no_gradient():
    experts = ours("mixtral").model.layers[0].mlp.experts
    x, weights = torch.randn(6, 32), torch.full((6, 2), 0.5)
    experts(x, torch.tensor([[3, 1]] * 6), weights).square().sum().backward()
    for weight in (experts.gate_up_proj, experts.down_proj):
        assert [bool(grad.any()) for grad in weight.grad] == [False, True, False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_experts_run_in_the_dtype_of_their_weights(dtype, tokens):
    model = ours("mixtral").to(dtype)
    expected = ours("mixtral")(tokens).logits.to(dtype)
    torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=3e-2)


def test_experts_under_autocast_equal_those_one_by_one(tokens):
    found = []
    for implementation in ("eager", "grouped_mm"):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(ours("mixtral", experts_implementation=implementation)(tokens).logits)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-2)


@pytest.mark.parametrize("architecture", ["mistral", "mixtral"])
def test_the_attention_implementation_is_passed_on(architecture, tokens, tmp_path):
    ours(architecture).save_pretrained(tmp_path)
    found = {}
    for implementation in ("eager", "sdpa"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation).eval()
        assert model.model.layers[0].self_attn.config._attn_implementation == implementation
        found[implementation] = model(tokens).logits
    torch.testing.assert_close(found["eager"], found["sdpa"], rtol=0, atol=1e-5)
    assert ours(architecture).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("architecture", ["mistral", "mixtral"])
def test_gradients_under_activation_checkpointing_are_the_same(architecture, tokens):
    grads = []
    for checkpoints in (False, True):
        model = ours(architecture, predictor_rank=4).train()
        if checkpoints:
            model.gradient_checkpointing_enable()
        seen = {}
        with observe(model, partial(_note, seen)):
            model(tokens, labels=tokens, use_cache=False).loss.backward()
        grads.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(grads[0], grads[1])


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


def test_rotary_frequencies_stay_fp32_beside_bfloat16_weights(source, tmp_path):
    source.to(torch.bfloat16).save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded, shared = load_model(tmp_path), as_turbosparse(theirs, "drelu")
    assert loaded.dtype == shared.dtype == torch.bfloat16
    for ours in (loaded, shared):
        assert torch.equal(ours.model.rotary_emb.inv_freq, theirs.model.rotary_emb.inv_freq)


def test_predictors_start_alike_from_one_seed_and_apart_from_each_other(source):
    first, again, other = (with_predictors(as_turbosparse(source, "drelu"), 4, seed) for seed in (0, 0, 1))
    predictors = {name: p for name, p in first.state_dict().items() if ".predictor.fc1" in name}
    assert all(torch.equal(p, again.state_dict()[name]) for name, p in predictors.items())
    assert not any(torch.equal(p, other.state_dict()[name]) for name, p in predictors.items())
    assert len({p.flatten()[0].item() for p in predictors.values()}) == len(predictors) > 1


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
    convert_model(stories260k, tmp_path / "drelu")
    layers = measure_activity(load_model(tmp_path / "drelu"), list(tokens)).layers()
    assert 0.6 < sum(layer.zero_activation_ratio for layer in layers) / len(layers) < 0.9
