"""A tiny model, corpus and set of conversations for training tests, made once per session."""

from collections.abc import Callable
from pathlib import Path

import pytest

from turbosparse.config import DataConfig, ModelConfig, TrainConfig
from turbosparse.data.conversations import Conversation, Turn
from turbosparse.data.sft import InstructionPlan, build_instructions
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.model.convert import initial_model
from turbosparse.model.folder import save_model
from turbosparse.train.history import read_history
from turbosparse.train.job import TrainJob

RECIPE = TrainConfig(num_steps=6, batch_size_sequences=4, learning_rate=3e-3, warmup_steps=2)

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


@pytest.fixture(scope="session")
def train() -> Callable[[TrainJob], list[float]]:
    """Trains a job here and returns its losses."""
    from turbosparse.train.trainer import train as train_job  # noqa: PLC0415 - Composer takes 25 seconds

    def run(job: TrainJob) -> list[float]:
        Path(job.state_folder).mkdir(parents=True, exist_ok=True)
        train_job(job)
        return [record.loss for record in read_history(job.history_path)]

    return run


@pytest.fixture
def job(mistral_folder, corpus, tmp_path) -> Callable[..., TrainJob]:
    """Makes a job whose state lies in a folder of its own."""

    def make(folder: str = "state", **changes) -> TrainJob:
        fields = {
            "name": "pretrain",
            "identity": "a" * 16,
            "recipe": RECIPE,
            "model_folder": str(mistral_folder),
            "data_folder": str(corpus),
            "shards": str(corpus.parents[2] / "tokens"),
            "state_folder": str(tmp_path / folder),
            "checkpoints": str(tmp_path / folder / "checkpoints"),
            "num_ranks": 1,
            "device_batch_size_sequences": 2,
            "checkpoint_interval_steps": 4,
        }
        return TrainJob(**{**fields, **changes})

    return make
