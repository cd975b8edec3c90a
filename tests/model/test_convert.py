"""Conversion from file to file: any SwiGLU folder, every weight bit for bit, in flat memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from turbosparse.errors import ArtifactError, ModelError
from turbosparse.model.convert import check_convertible, convert_model, with_predictors
from turbosparse.model.folder import as_turbosparse, load_model, save_model
from turbosparse.model.shards import SINGLE_FILE

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SOURCES = {
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama, scaled rope": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE)),
    "llama, wide heads": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, head_dim=16)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8, rms_norm_eps=1e-3)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4)),
}
ACTIVATIONS = ("drelu", "reglu", "shifted-relu", "swiglu")


@pytest.fixture(params=SOURCES)
def source(request):
    torch.manual_seed(0)
    return SOURCES[request.param]().eval()


@pytest.fixture
def tokens():
    return torch.randint(0, 96, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def llama(tmp_path):
    """A folder with a Llama, and a function that changes its tensors."""
    torch.manual_seed(0)
    SOURCES["llama, tied"]().save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(folder: Path, **tensors) -> None:
    """Replaces tensors of a single file; None removes one. Dots are double underscores."""
    content = load_file(folder / SINGLE_FILE)
    content |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in content.items() if tensor is not None}
    save_file(kept, folder / SINGLE_FILE, metadata={"format": "pt"})


def tensors_on_disk(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_weight_stays_bit_for_bit_through_many_shards(source, activation, tmp_path):
    source.to(torch.bfloat16).save_pretrained(tmp_path / "source", max_shard_size="20KB")
    converted = convert_model(tmp_path / "source", tmp_path / "ours", activation, shard_bytes=30_000)
    written, weights = tensors_on_disk(tmp_path / "ours"), source.state_dict()
    if source.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    assert written.keys() == weights.keys()
    for name, weight in written.items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight.view(torch.int16), weights[name].view(torch.int16)), name
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    config = load_model(tmp_path / "ours").config
    assert (config.activation, config.sliding_window) == (
        activation,
        getattr(source.config, "sliding_window", None),
    )
    assert converted.num_parameters == source.num_parameters()


def test_as_swiglu_the_folder_computes_and_generates_as_the_source(source, tokens, tmp_path):
    """Through files: rotary scaling, window, epsilons and head sizes come from the written config.json."""
    source.save_pretrained(tmp_path / "source", max_shard_size="20KB")
    convert_model(tmp_path / "source", tmp_path / "ours", "swiglu")
    generate = {"max_new_tokens": 16, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
    expected = source.generate(tokens, **generate).tolist()
    for ours in (
        load_model(tmp_path / "ours"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval(),
    ):
        torch.testing.assert_close(ours(tokens).logits, source(tokens).logits, rtol=0, atol=1e-5)
        assert ours.generate(tokens, **generate).tolist() == expected


def test_fields_of_older_configurations_are_understood(tmp_path, tokens):
    """Before transformers 5: rope_theta and rope_scaling apart, `type` for `rope_type`, torch_dtype."""
    SOURCES["llama, scaled rope"]().save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    values = json.loads(path.read_text())
    rope = values.pop("rope_parameters")
    values["rope_theta"] = rope.pop("rope_theta")
    values["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    values["torch_dtype"] = values.pop("dtype")
    path.write_text(json.dumps(values))
    convert_model(tmp_path / "source", tmp_path / "ours", "swiglu")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "source").eval()
    torch.testing.assert_close(load_model(tmp_path / "ours")(tokens).logits, theirs(tokens).logits)
    without = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    without.load_state_dict(theirs.state_dict())
    assert not torch.allclose(without(tokens).logits, theirs(tokens).logits, atol=1e-3)


def test_mixed_dtypes_stay_mixed(llama, tmp_path):
    norm = torch.randn(32)
    change_tensors(llama, model__embed_tokens__weight=torch.randn(96, 32).half(), model__norm__weight=norm)
    before = load_file(llama / SINGLE_FILE)
    convert_model(llama, tmp_path / "ours")
    after = load_file(tmp_path / "ours" / SINGLE_FILE)
    assert {name: tensor.dtype for name, tensor in after.items()} == {
        name: tensor.dtype for name, tensor in before.items()
    }
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_mixtral_saved_with_stacked_experts_converts_too(tmp_path):
    source = SOURCES["mixtral"]()
    source.save_pretrained(tmp_path / "source", save_original_format=False)
    convert_model(tmp_path / "source", tmp_path / "ours")
    written, weights = tensors_on_disk(tmp_path / "ours"), source.state_dict()
    assert written.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in written.items())


def test_generation_settings_come_along(llama, tmp_path):
    (llama / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    convert_model(llama, tmp_path / "ours")
    assert load_model(tmp_path / "ours").generation_config.eos_token_id == [2, 7]


def test_our_own_swiglu_model_converts_with_its_predictors_of_differing_ranks(tmp_path):
    ours = with_predictors(as_turbosparse(SOURCES["mistral"](), "swiglu"), rank=[4, 6], seed=0)
    save_model(ours, tmp_path / "swiglu")
    convert_model(tmp_path / "swiglu", tmp_path / "drelu")
    loaded = load_model(tmp_path / "drelu")
    assert (loaded.config.activation, loaded.config.predictor_rank) == ("drelu", [4, 6])
    weights = ours.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


def test_what_follows_from_other_tensors_is_left_out(llama, tmp_path):
    """Llamas of 2023 hold rotary frequencies; tied output projections are sometimes written out."""
    embedding = load_file(llama / SINGLE_FILE)["model.embed_tokens.weight"]
    extra = {"model__layers__0__self_attn__rotary_emb__inv_freq": torch.ones(4)}
    extra = {name.replace("rotary__emb", "rotary_emb"): tensor for name, tensor in extra.items()}
    change_tensors(llama, **extra, lm_head__weight=embedding.clone())
    convert_model(llama, tmp_path / "ours")
    written = load_file(tmp_path / "ours" / SINGLE_FILE)
    assert not {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"} & written.keys()
    change_tensors(llama, lm_head__weight=embedding + 1)
    with pytest.raises(ModelError, match=r"lm_head\.weight.*tie_word_embeddings"):
        convert_model(llama, tmp_path / "again")


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, {}, "quantization_config.*gptq"),
        ({"mlp_bias": True}, {}, "mlp_bias"),
        ({"model_type": "qwen2_moe"}, {}, "model_type: 'qwen2_moe'"),
        ({"hidden_size": "wide"}, {}, r"config\.json"),
        (
            {"intermediate_size": 40},
            {},
            r"of another shape.*gate_proj\.weight \[48, 32\] instead of \[40",
        ),
        ({}, {"model__norm__weight": None}, r"missing.*model\.norm\.weight"),
        ({}, {"model__shared_expert__weight": torch.ones(2)}, r"unknown.*model\.shared_expert\.weight"),
    ],
)
def test_what_is_not_a_plain_swiglu_folder_is_refused_by_name_and_nothing_is_written(
    config, tensors, message, llama, tmp_path
):
    change_config(llama, **config)
    change_tensors(llama, **tensors)
    with pytest.raises(ModelError, match=message):
        convert_model(llama, tmp_path / "new" / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]


def test_experts_of_two_dtypes_are_refused(tmp_path):
    SOURCES["mixtral"]().save_pretrained(tmp_path / "source")
    name = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
    content = load_file(tmp_path / "source" / SINGLE_FILE)
    content[name] = content[name].half()
    save_file(content, tmp_path / "source" / SINGLE_FILE)
    with pytest.raises(ModelError, match=r"dtype.*'F16': '.*experts\.2\.w2\.weight'"):
        convert_model(tmp_path / "source", tmp_path / "ours")


def test_a_converted_folder_is_not_converted_again(llama, tmp_path):
    convert_model(llama, tmp_path / "ours")
    with pytest.raises(ModelError, match="activation: 'drelu'"):
        check_convertible(tmp_path / "ours")


def test_nothing_is_written_over(llama, tmp_path):
    target = tmp_path / "ours"
    target.mkdir()
    convert_model(llama, target)
    before = (target / SINGLE_FILE).stat().st_mtime_ns
    with pytest.raises(ArtifactError, match="an empty or new folder"):
        convert_model(llama, target, "reglu")
    assert (target / SINGLE_FILE).stat().st_mtime_ns == before


def test_a_conversion_that_fails_midway_leaves_nothing(llama, tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ArtifactError, match=r"No space left.*free space"):
        convert_model(llama, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]


def test_the_written_folder_has_the_permissions_of_any_other(llama, tmp_path):
    convert_model(llama, tmp_path / "ours")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_real_checkpoint_converts_and_computes_as_itself(stories260k, tmp_path):
    tokens = torch.randint(0, 512, (1, 64), generator=torch.Generator().manual_seed(0))
    original = LlamaForCausalLM.from_pretrained(stories260k).eval()
    convert_model(stories260k, tmp_path / "swiglu", "swiglu")
    torch.testing.assert_close(load_model(tmp_path / "swiglu")(tokens).logits, original(tokens).logits)


MEASURE = """
import sys, threading, time
from pathlib import Path
import psutil
from turbosparse.model.convert import convert_model

peak, process = 0, psutil.Process()

def watch():
    global peak
    while True:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.0005)

threading.Thread(target=watch, daemon=True).start()
for number, folder in enumerate(sys.argv[2:]):
    peak = before = process.memory_info().rss
    convert_model(folder, Path(sys.argv[1]) / str(number), shard_bytes=8_000_000)
    print(peak - before)
"""


def save_layers(folder: Path, num_layers: int, is_moe: bool) -> Path:
    """Saves a model with 8 MB of weights per layer, a shard each."""
    shape = SHAPE | {"hidden_size": 256, "num_hidden_layers": num_layers}
    if is_moe:
        config = MixtralConfig(**shape | {"intermediate_size": 576}, num_local_experts=4)
        MixtralForCausalLM(config).save_pretrained(folder, max_shard_size="8MB")
    else:
        config = LlamaConfig(**shape | {"intermediate_size": 2304})
        LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="8MB")
    assert len(list(folder.glob("*.safetensors"))) >= num_layers
    return folder


def test_memory_does_not_grow_with_the_number_of_shards(llama, tmp_path):
    """4 and 16 shards of 8 MB: a folder four times as large takes less than two shards more.

    The first conversion of a process brings in code that the others find there: it does not count.
    """
    kinds = [(4, False), (16, False), (4, True), (16, True)]
    folders = [save_layers(tmp_path / f"{number}", *kind) for number, kind in enumerate(kinds)]
    command = [sys.executable, "-c", MEASURE, tmp_path / "converted", llama, *folders]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    _, small_dense, large_dense, small_moe, large_moe = map(int, output.split())
    for small, large in ((small_dense, large_dense), (small_moe, large_moe)):
        assert large - small < 16_000_000
        assert large < 32_000_000
