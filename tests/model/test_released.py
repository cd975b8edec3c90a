"""The released TurboSparse models' folders, at a tiny width: read, computed with, written."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import relu
from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

from turbosparse.errors import ArtifactError, ModelError
from turbosparse.export.huggingface import reload_exported
from turbosparse.model.convert import check_convertible, with_predictors
from turbosparse.model.folder import as_turbosparse, check_model_folder, load_model, save_model
from turbosparse.model.rewrite import write_native, write_released
from turbosparse.model.shards import SINGLE_FILE

HIDDEN, INTERMEDIATE, EXPERTS, RANKS = 32, 48, 4, (4, 6)
COMMON = {
    "vocab_size": 96,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "rope_theta": 20_000.0,
    "hidden_act": "relu",
    "torch_dtype": "float32",
}
RELEASED = {
    "bamboo": COMMON | {"architectures": ["BambooForCausalLM"]},
    "turbosparsemixtral": COMMON | {"num_local_experts": EXPERTS, "num_experts_per_tok": 2},
}
SHAPES = {
    "model.embed_tokens.weight": (96, HIDDEN),
    "model.norm.weight": (HIDDEN,),
    "lm_head.weight": (96, HIDDEN),
}
LAYER_SHAPES = {
    "input_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "self_attn.k_proj.weight": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj.weight": (HIDDEN // 2, HIDDEN),
    "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
}


def released_shapes(model_type: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of a released checkpoint, written out independently of the code under test."""
    shapes = dict(SHAPES)
    wide, narrow = (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)
    for layer, rank in enumerate(RANKS):
        predictor = {"predictor.fc1.weight": (rank, HIDDEN), "predictor.fc2.weight": (INTERMEDIATE, rank)}
        ffn = {"mlp.gate_proj.weight": wide, "mlp.up_proj.weight": wide, "mlp.down_proj.weight": narrow}
        ffn |= {f"mlp.{name}": shape for name, shape in predictor.items()}
        if model_type == "turbosparsemixtral":
            ffn = {"block_sparse_moe.gate.weight": (EXPERTS, HIDDEN)}
            expert = {"w1.weight": wide, "w2.weight": narrow, "w3.weight": wide} | predictor
            for number in range(EXPERTS):
                prefix = f"block_sparse_moe.experts.{number}"
                ffn |= {f"{prefix}.{name}": shape for name, shape in expert.items()}
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in (LAYER_SHAPES | ffn).items()}
    return shapes


@pytest.fixture(params=RELEASED)
def model_type(request):
    return request.param


@pytest.fixture
def released(model_type, tmp_path):
    """A folder as released: its own modelling code named in config.json, two shards, an index."""
    folder = tmp_path / "released"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.2
        for name, shape in released_shapes(model_type).items()
    }
    code = {"auto_map": {"AutoConfig": "modelling.Config", "AutoModelForCausalLM": "modelling.Model"}}
    config = RELEASED[model_type] | {"model_type": model_type} | code
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modelling.py").write_text("raise SystemExit('code from a model folder ran')")
    names, weight_map = sorted(tensors), {}
    for shard, part in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        save_file({name: tensors[name] for name in part}, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def tokens():
    return torch.randint(0, 96, (2, 24), generator=torch.Generator().manual_seed(1))


def tensors_on_disk(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def change(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def ours(model_type: str, **config):
    """One of our models that the released layout can say, unless `config` changes that."""
    shape = {name: value for name, value in COMMON.items() if name not in ("hidden_act", "torch_dtype")}
    theirs = (
        MistralForCausalLM(MistralConfig(**shape))
        if model_type == "bamboo"
        else MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=EXPERTS))
    )
    model = with_predictors(as_turbosparse(theirs, "drelu"), rank=list(RANKS), seed=0)
    for name, value in config.items():
        setattr(model.config, name, value)
    return model


def test_every_tensor_of_a_released_folder_is_where_it_belongs(released, model_type):
    model, theirs = load_model(released).state_dict(), tensors_on_disk(released)
    used = set()

    def same(tensor, name):
        used.add(name)
        assert torch.equal(tensor, theirs[name]), name

    for name, tensor in model.items():
        layer, is_ffn, suffix = name.partition(".mlp.")
        if model_type == "bamboo" or not is_ffn:
            same(tensor, name)
        elif suffix == "gate.weight":
            same(tensor, f"{layer}.block_sparse_moe.gate.weight")
        else:
            for number, expert in enumerate(tensor):
                prefix = f"{layer}.block_sparse_moe.experts.{number}"
                if suffix == "experts.gate_up_proj":
                    same(expert[:INTERMEDIATE], f"{prefix}.w1.weight")
                    same(expert[INTERMEDIATE:], f"{prefix}.w3.weight")
                elif suffix == "experts.down_proj":
                    same(expert, f"{prefix}.w2.weight")
                else:
                    same(expert, f"{prefix}.predictor.{suffix.rsplit('.')[-1]}.weight")
    assert used == theirs.keys()


def test_the_configuration_is_read_without_running_the_folders_code(released, model_type):
    config = load_model(released).config
    assert (config.activation, config.predictor_rank) == ("drelu", list(RANKS))
    assert config.predictor_input == ("pre_norm" if model_type == "bamboo" else "post_norm")
    assert config.rope_parameters["rope_theta"] == 20_000.0
    assert not hasattr(config, "auto_map")


def drelu_ffn(x, tensors, gate: str, up: str, down: str) -> torch.Tensor:
    return (relu(x @ tensors[gate].T) * relu(x @ tensors[up].T)) @ tensors[down].T


def released_ffn(x: torch.Tensor, tensors: dict[str, torch.Tensor], model_type: str) -> torch.Tensor:
    """The second layer's FFN from the released tensors: w1 is gate, w3 up, w2 down; two experts a token."""
    if model_type == "bamboo":
        mlp = "model.layers.1.mlp"
        return drelu_ffn(
            x, tensors, f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight", f"{mlp}.down_proj.weight"
        )
    moe = "model.layers.1.block_sparse_moe"
    weights, routed = (x @ tensors[f"{moe}.gate.weight"].T).softmax(-1).topk(2)
    weights = torch.zeros(len(x), EXPERTS).scatter(1, routed, weights / weights.sum(-1, keepdim=True))
    experts = [
        [f"{moe}.experts.{number}.{w}.weight" for w in ("w1", "w3", "w2")] for number in range(EXPERTS)
    ]
    outputs = torch.stack([drelu_ffn(x, tensors, *names) for names in experts], dim=1)
    return (weights[..., None] * outputs).sum(dim=1)


def test_the_ffn_computes_as_the_released_code_says(released, model_type, tokens):
    model, seen = load_model(released), []
    layer = model.model.layers[1]
    layer.post_attention_layernorm.register_forward_hook(lambda module, args, output: seen.append(output))
    layer.mlp.register_forward_hook(lambda module, args, output: seen.append(output))
    model(tokens)
    x, output = (tensor.flatten(0, 1) for tensor in seen)
    torch.testing.assert_close(output, released_ffn(x, tensors_on_disk(released), model_type))


def test_written_as_released_a_folder_has_exactly_the_released_names(model_type, tmp_path):
    model = ours(model_type)
    save_model(model, tmp_path / "ours")
    write_released(tmp_path / "ours", tmp_path / "released", shard_bytes=20_000)
    written = tensors_on_disk(tmp_path / "released")
    assert {name: tuple(tensor.shape) for name, tensor in written.items()} == released_shapes(model_type)
    assert len(list((tmp_path / "released").glob("*.safetensors"))) > 1
    config = json.loads((tmp_path / "released" / "config.json").read_text())
    assert config["model_type"] == model_type
    assert config.items() >= COMMON.items()
    assert not {"auto_map", "activation", "predictor_rank", "rope_parameters", "dtype"} & config.keys()


def test_ours_to_released_and_back_is_bit_for_bit(model_type, tokens, tmp_path):
    model = ours(model_type).to(torch.bfloat16).eval()
    save_model(model, tmp_path / "ours")
    write_released(tmp_path / "ours", tmp_path / "released", shard_bytes=20_000)
    config = write_native(tmp_path / "released", tmp_path / "back", shard_bytes=30_000)
    before, after = tensors_on_disk(tmp_path / "ours"), tensors_on_disk(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert config.predictor_rank == list(RANKS)
    expected = load_model(tmp_path / "ours")(tokens).logits
    for folder in ("released", "back"):
        loaded = load_model(tmp_path / folder)
        assert loaded.dtype == torch.bfloat16
        assert torch.equal(loaded(tokens).logits, expected)


def test_released_to_ours_and_back_is_bit_for_bit(released, model_type, tmp_path):
    write_native(released, tmp_path / "ours")
    write_released(tmp_path / "ours", tmp_path / "back")
    before, after = tensors_on_disk(released), tensors_on_disk(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (released, tmp_path / "back"))
    unchanged = old.keys() - {"auto_map", "architectures"}
    assert {name: new[name] for name in unchanged} == {name: old[name] for name in unchanged}


def test_our_layout_of_a_released_folder_is_ours_for_auto_classes(released, tokens, tmp_path):
    write_native(released, tmp_path / "ours")
    reloaded = reload_exported(tmp_path / "ours")
    torch.testing.assert_close(reloaded(tokens).logits, load_model(released)(tokens).logits)


def test_a_dense_release_without_predictors_is_read_and_written(tmp_path):
    """The base model that PowerInfer's converter reads has its predictors in a folder of their own."""
    torch.manual_seed(0)
    model = as_turbosparse(MistralForCausalLM(MistralConfig(**COMMON | {"hidden_act": "silu"})), "drelu")
    save_model(model, tmp_path / "ours")
    write_released(tmp_path / "ours", tmp_path / "released")
    assert not any("predictor" in name for name in tensors_on_disk(tmp_path / "released"))
    assert load_model(tmp_path / "released").config.predictor_rank is None


@pytest.mark.parametrize("model_type", ["bamboo"], indirect=True)
def test_predictors_in_some_layers_only_are_refused(released):
    content = load_file(released / "a.safetensors") | load_file(released / "b.safetensors")
    kept = {name: tensor for name, tensor in content.items() if "layers.1.mlp.predictor" not in name}
    save_file(kept, released / SINGLE_FILE, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.predictor\.fc1.*in every layer"):
        load_model(released)


@pytest.mark.parametrize("model_type", ["turbosparsemixtral"], indirect=True)
def test_an_expert_without_its_predictor_is_named(released):
    content = load_file(released / "a.safetensors") | load_file(released / "b.safetensors")
    del content["model.layers.1.block_sparse_moe.experts.3.predictor.fc2.weight"]
    save_file(content, released / SINGLE_FILE, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing.*layers\.1\..*experts\.3\.predictor\.fc2"):
        load_model(released)


@pytest.mark.parametrize("model_type", ["bamboo"], indirect=True)
def test_a_dense_release_with_another_activation_is_refused(released):
    change(released, hidden_act="silu")
    with pytest.raises(ModelError, match=r"hidden_act: 'silu'.*relu"):
        load_model(released)


def test_a_released_folder_is_not_converted_again(released):
    assert check_model_folder(released)["vocab_size"] == 96
    with pytest.raises(ModelError, match="activation: 'drelu'"):
        check_convertible(released)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation": "reglu"}, "activation: 'reglu'.*drelu"),
        ({"predictor_threshold": 0.5}, r"predictor_threshold: .*0\.5"),
        ({"predictor_threshold": [0.0, 0.5]}, r"predictor_threshold: .*0\.5"),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type: 'linear'",
        ),
    ],
)
def test_what_the_released_layout_cannot_say_is_refused(model_type, config, message, tmp_path):
    save_model(ours(model_type, **config), tmp_path / "ours")
    with pytest.raises(ModelError, match=message):
        write_released(tmp_path / "ours", tmp_path / "released")
    assert not (tmp_path / "released").exists()


def test_predictors_that_read_elsewhere_than_the_released_ones_are_refused(model_type, tmp_path):
    other = "post_norm" if model_type == "bamboo" else "pre_norm"
    save_model(ours(model_type, predictor_input=other), tmp_path / "ours")
    with pytest.raises(ModelError, match=f"predictor_input: '{other}'"):
        write_released(tmp_path / "ours", tmp_path / "released")


def test_our_own_folder_is_not_taken_for_a_released_one(model_type, tmp_path):
    save_model(ours(model_type), tmp_path / "ours")
    with pytest.raises(ModelError, match=r"model_type: 'turbosparse_.*bamboo, turbosparsemixtral"):
        write_native(tmp_path / "ours", tmp_path / "again")


def test_nothing_is_written_over(released, tmp_path):
    with pytest.raises(ArtifactError, match="an empty or new folder"):
        write_native(released, released)
