"""Model and tokenizer folders with changed files: loaded, or refused by a message."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st
from mutations import fuzzed, mutated_bytes, mutated_trees, success_or_refusal
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from turbosparse.data.tokenizer import load_tokenizer, train_tokenizer
from turbosparse.model.convert import convert_model
from turbosparse.model.folder import load_model, open_folder

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def original(request, tmp_path_factory) -> Path:
    """A SwiGLU model's folder, as transformers writes it."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "llama":
        LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    else:
        sizes = SIZES | {"num_local_experts": 2, "num_hidden_layers": 1}
        MixtralForCausalLM(MixtralConfig(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(original, tmp_path_factory) -> Path:
    """The same folder, to be changed."""
    folder = tmp_path_factory.mktemp("copies") / "model"
    shutil.copytree(original, folder)
    return folder


def use(folder: Path) -> None:
    """Does with a model folder what commands do with it."""
    open_folder(folder)
    load_model(folder)
    target = folder.with_name("converted")
    try:
        convert_model(folder, target)
        open_folder(target)
    finally:
        shutil.rmtree(target, ignore_errors=True)
        assert [path.name for path in folder.parent.iterdir()] == ["model"], "something half-made is left"


@fuzzed(st.data(), share=0.6)
def test_a_configuration_of_other_values(original, copy, data):
    tree = json.loads((original / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(data.draw(mutated_trees(tree))))
    with success_or_refusal():
        use(copy)


@pytest.mark.parametrize("field", [*SIZES, "rope_theta", "head_dim", "num_local_experts", "rms_norm_eps"])
@pytest.mark.parametrize("value", [0, -1, 2**20, 10**9, 2**62, 0.5, None, "8", [8], float("nan")])
def test_a_size_that_no_weight_has(original, copy, field, value):
    """A model of a billion layers must be refused before anybody begins to build it."""
    tree = json.loads((original / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(tree | {field: value}))
    with success_or_refusal():
        use(copy)


@fuzzed(st.data(), share=0.6)
def test_weights_of_other_bytes(original, copy, data):
    content = (original / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    changed = data.draw(mutated_bytes(content[:header]))
    (copy / "model.safetensors").write_bytes(changed + content[header:])
    with success_or_refusal():
        use(copy)


@fuzzed(st.data(), share=0.6)
def test_a_header_of_other_values(original, copy, data):
    content = (original / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    text = json.dumps(data.draw(mutated_trees(json.loads(content[8:end])))).encode()
    (copy / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    with success_or_refusal():
        use(copy)


@fuzzed(st.data(), share=0.6)
def test_an_index_of_other_values(original, copy, data):
    shutil.copyfile(original / "model.safetensors", copy / "model-00001-of-00001.safetensors")
    (copy / "model.safetensors").unlink(missing_ok=True)
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    tree = {
        "metadata": {"total_size": 1},
        "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors"),
    }
    (copy / "model.safetensors.index.json").write_text(json.dumps(data.draw(mutated_trees(tree))))
    with success_or_refusal():
        use(copy)


@fuzzed(st.data(), share=0.3)
def test_generation_settings_of_other_values(original, copy, data):
    tree = {"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.5, "transformers_version": "5.17.0"}
    (copy / "generation_config.json").write_text(json.dumps(data.draw(mutated_trees(tree))))
    with success_or_refusal():
        use(copy)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["An owl sees a fox at noon."] * 4, 270).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@fuzzed(st.data(), share=0.6)
def test_a_tokenizer_of_other_values(tokenizer_folder, tmp_path_factory, name, data):
    tree = json.loads((tokenizer_folder / name).read_text())
    copy = tmp_path_factory.mktemp("tokenizers")
    shutil.copytree(tokenizer_folder, copy, dirs_exist_ok=True)
    (copy / name).write_text(json.dumps(data.draw(mutated_trees(tree))))
    with success_or_refusal():
        load_tokenizer(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@fuzzed(st.data(), share=0.3)
def test_a_tokenizer_of_other_bytes(tokenizer_folder, tmp_path_factory, name, data):
    copy = tmp_path_factory.mktemp("tokenizers")
    shutil.copytree(tokenizer_folder, copy, dirs_exist_ok=True)
    (copy / name).write_bytes(data.draw(mutated_bytes((tokenizer_folder / name).read_bytes())))
    with success_or_refusal():
        load_tokenizer(copy)
