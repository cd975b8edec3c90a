"""A tiny model, corpus and set of conversations for training tests, made once per session."""

from pathlib import Path

import pytest

from turbosparse.config import DataConfig, ModelConfig
from turbosparse.data.conversations import Conversation, Turn
from turbosparse.data.sft import InstructionPlan, build_instructions
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.model.convert import initial_model
from turbosparse.model.folder import save_model

SENTENCES = [
    f"The {a} {b} sees {c} at noon."
    for a in ("old", "red", "big")
    for b in ("fox", "owl")
    for c in "abcdefgh"
]


def sentences(source: str) -> list[str]:
    return [
        " ".join(SENTENCES[(number + step) % len(SENTENCES)] for step in range(30)) + f" {source} {number}"
        for number in range(40)
    ]


@pytest.fixture(scope="session")
def corpus(make_corpus) -> Path:
    config = DataConfig(
        corpora="local",
        mixture={"wanjuan-cc": 75, "github-code": 25},
        num_tokens=128 * 64,
        sequence_length=64,
        vocab_size=320,
        num_held_back_documents=2,
        near_duplicates=False,
    )
    texts = {source: sentences(source) for source in config.mixture}
    return make_corpus(config, texts).folder()


@pytest.fixture(scope="session")
def conversations(tmp_path_factory, corpus) -> Path:
    folder = tmp_path_factory.mktemp("conversations")
    rows = [
        Conversation(
            (Turn("user", f"What does number {n} see?"), Turn("assistant", SENTENCES[n % len(SENTENCES)]))
        )
        for n in range(120)
    ]
    build_instructions(rows, corpus / "tokenizer", InstructionPlan(64, 100, 8), folder)
    return folder


@pytest.fixture(scope="session")
def mistral_folder(tmp_path_factory, corpus) -> Path:
    return _tiny_model("mistral", tmp_path_factory.mktemp("mistral"), corpus)


@pytest.fixture(scope="session")
def mixtral_folder(tmp_path_factory, corpus) -> Path:
    return _tiny_model("mixtral", tmp_path_factory.mktemp("mixtral"), corpus)


@pytest.fixture(params=["mistral", "mixtral"])
def model_folder(request, mistral_folder, mixtral_folder) -> Path:
    return mistral_folder if request.param == "mistral" else mixtral_folder


def _tiny_model(architecture: str, folder: Path, corpus: Path) -> Path:
    config = ModelConfig(
        architecture=architecture,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        context_length=64,
        num_experts=4,
    )
    save_model(initial_model(config, load_tokenizer(corpus / "tokenizer"), "drelu"), folder)
    return folder
