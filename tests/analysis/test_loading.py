"""Folders of transformers' own MoE classes: safetensors only, and no code of theirs runs."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from turbosparse.analysis.loading import load_for_analysis
from turbosparse.errors import ModelError


@pytest.mark.parametrize("name", ["qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3"])
def test_a_folder_loads_as_the_model_it_was(name, make_model, tokens, tmp_path):
    model = make_model(name)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(load_for_analysis(tmp_path)(tokens).logits, model(tokens).logits)


def test_a_swiglu_folder_becomes_our_class(make_model, tmp_path):
    make_model("mixtral").save_pretrained(tmp_path)
    assert load_for_analysis(tmp_path).config.activation == "swiglu"


def test_code_in_the_folder_is_not_run(make_model, tmp_path):
    make_model("qwen2_moe").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    auto_map = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert type(load_for_analysis(tmp_path)).__name__ == "Qwen2MoeForCausalLM"
    assert not (tmp_path / "ran").exists()


def test_missing_and_pickled_weights_are_refused(make_model, tmp_path):
    make_model("qwen2_moe").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.shared_expert.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"shared_expert\.up_proj"):
        load_for_analysis(tmp_path)
    path.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled ones are never loaded"):
        load_for_analysis(tmp_path)


def test_other_architectures_are_refused_by_name(make_model, tmp_path):
    make_model("llama").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "gpt2"}))
    with pytest.raises(ModelError, match="model_type: 'gpt2'"):
        load_for_analysis(tmp_path)
