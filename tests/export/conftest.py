"""Tiny models in folders, as `turbosparse export` is given them."""

import json
from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

from turbosparse.data.chat import add_chat_template
from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.model.configuration import TurboSparseMistralConfig
from turbosparse.model.convert import with_predictors
from turbosparse.model.folder import as_turbosparse, save_model
from turbosparse.model.layout import on_meta

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "sliding_window": None,
}


SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """Checkpoints and tokenizers that are not part of the project, where they are present."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the shared test data")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tokenizer():
    """301 tokens and ChatML's end of turn, 302 in all: a model with 320 rows has 18 too many."""
    tokenizer = train_tokenizer(["some text to learn a few merges from, and some more"] * 9, 300)
    add_chat_template(tokenizer)
    return tokenizer


@pytest.fixture(scope="session")
def make_model():
    """Makes a model of ours with random weights; fields of its configuration by name."""

    def make(architecture="mistral", rank=32, **fields):
        torch.manual_seed(0)
        shape = SHAPE | {name: value for name, value in fields.items() if name in SHAPE}
        if architecture == "mistral":
            source = MistralForCausalLM(MistralConfig(**shape))
        else:
            source = MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=4))
        model = as_turbosparse(source, "drelu")
        if rank is not None:
            model = with_predictors(model, rank=rank, seed=0)
        for name, value in fields.items():
            setattr(model.config, name, value)
        return model.eval()

    return make


@pytest.fixture
def make_folder(tokenizer, make_model, tmp_path):
    """Makes a model folder; fields of the model's configuration by name."""

    def make(name="source", **fields):
        model = make_model(**fields)
        folder = tmp_path / name
        save_model(model, folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def hollow_folder():
    """Makes a tiny model folder one of 1.3 GB, all zeros, which takes no space on the disk."""

    def make(folder):
        config = TurboSparseMistralConfig.from_pretrained(folder)
        config.update({"hidden_size": 1_024, "intermediate_size": 8_192, "num_hidden_layers": 23})
        config.head_dim = 256
        config.dtype = "bfloat16"
        config.save_pretrained(folder)
        tensors, end = {}, 0
        for name, weight in on_meta(config).state_dict().items():
            start, end = end, end + 2 * weight.numel()
            tensors[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [start, end]}
        header = json.dumps(tensors).encode()
        header += b" " * (-len(header) % 8)
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + end)
        return folder

    return make
