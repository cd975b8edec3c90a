"""Any model is evaluated by the same stage: an artifact of the root, a checkpoint, or a folder."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from turbosparse.artifacts import ArtifactSpec
from turbosparse.config import ModelConfig, Placement
from turbosparse.data.layout import HELD_BACK_NAME, TOKENIZER_NAME
from turbosparse.data.tokenizer import load_tokenizer, train_tokenizer
from turbosparse.errors import DataError
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.model.convert import initial_model
from turbosparse.model.folder import save_model
from turbosparse.stages import make, open_run, require_parents
from turbosparse.stages.specs import Specs
from turbosparse.train.checkpoints import CheckpointStore

MODEL = ModelConfig(
    hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, context_length=64
)
TEXT = "The old owl sees a red fox at noon, and the red fox sees nothing of the old owl at all. "


@pytest.fixture
def open_with(tmp_path):
    """Opens a run whose tuned model is another one, by default none."""

    def opened(evaluated: str | None = None, root: str = "root", **overrides):
        changes = {"evaluate": {"tasks": ["local_text"], "limit": 2, "num_sparsity_tokens": 64}} | overrides
        corpora = tmp_path / "corpora"
        corpora.mkdir(exist_ok=True)
        (corpora / "web.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
        place = Placement(root=str(tmp_path / root), corpora=str(corpora), evaluated_model=evaluated)
        return open_run("tiny", changes, True, place)

    return opened


@pytest.fixture
def model_folder(tmp_path):
    tokenizer_folder, folder = tmp_path / "tokenizer", tmp_path / "model"
    train_tokenizer([TEXT] * 20, 300).save_pretrained(tokenizer_folder)
    save_model(initial_model(MODEL, load_tokenizer(tokenizer_folder), "swiglu"), folder)
    copy_tokenizer(tokenizer_folder, folder)
    return folder


def prepare(run, model_folder: Path | None = None) -> ArtifactSpec:
    """Leaves held-back documents where the run's corpus would be, and a model's tokenizer."""

    def build(workspace):
        row = f'{{"source": "wanjuan-cc", "text": "{TEXT * 3}"}}\n'
        (workspace.folder / HELD_BACK_NAME).write_text(row * 3)
        if model_folder is not None:
            copy_tokenizer(model_folder, workspace.folder / TOKENIZER_NAME)
        return {}

    run.store.produce(Specs(run).prepare, build)
    return Specs(run).prepare


def test_a_folder_is_evaluated_and_its_weights_decide_the_identity(open_with, model_folder):
    prepare(open_with())
    run = open_with(str(model_folder))
    require_parents(run, ["evaluate"])
    found = make(run, "evaluate")
    assert set(found.manifest.parents) == {"corpus"}
    assert found.manifest.metrics["results"]["local_text"]["word_perplexity"] > 1
    assert len(found.manifest.metrics["layers"]) == 2
    assert make(open_with(str(model_folder)), "evaluate").reused
    config = model_folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert Specs(open_with(str(model_folder))).evaluate.identity != found.manifest.identity


def test_an_artifact_is_evaluated_on_what_its_own_corpus_keeps_back(open_with):
    of_artifact = open_with(data={"vocab_size": 300})
    corpus = prepare(of_artifact)

    def build(workspace):
        (workspace.folder / "model").mkdir()
        (workspace.folder / "model" / "config.json").write_text("{}")
        return {}

    spec = ArtifactSpec("pretrain", 1, {}, {"corpus": corpus})
    artifact = of_artifact.store.produce(spec, build)
    evaluated = Specs(open_with(artifact.uri)).evaluate
    assert evaluated.parents["model"].name == artifact.manifest.name
    assert evaluated.parents["corpus"].name == corpus.name != Specs(open_with()).prepare.name


def test_what_has_no_model_is_refused(open_with, tmp_path):
    corpus = open_with().store.load(prepare(open_with()).name)
    with pytest.raises(DataError, match="an artifact with a model"):
        open_with(corpus.uri)
    with pytest.raises(DataError, match=r"below .*/another"):
        open_with(corpus.uri, root="another")
    with pytest.raises(DataError, match=r"placement\.evaluated_model"):
        open_with("nothing")
    with pytest.raises(DataError, match="a training with a checkpoint"):
        open_with(f"{corpus.store.root}/pretrain/{'0' * 16}")


def test_a_training_that_still_runs_is_evaluated_at_its_newest_checkpoint(open_with, model_folder):
    corpus = open_with()
    prepare(corpus, model_folder)
    training = f"{corpus.store.root}/pretrain/{'a' * 16}"
    save_checkpoint(training, 3, model_folder)
    run = open_with(training)
    found = make(run, "evaluate")
    assert found.manifest.inputs["model"] == run.inputs.evaluated_model
    assert found.manifest.metrics["results"]["local_text"]["word_perplexity"] > 1
    save_checkpoint(training, 4, model_folder)
    later = open_with(training)
    assert Specs(later).evaluate.identity != found.manifest.identity
    save_checkpoint(training, 5, model_folder)
    with pytest.raises(DataError, match="training went on"):
        make(later, "evaluate")


def save_checkpoint(training: str, step: int, model_folder: Path) -> None:
    """Leaves a checkpoint as training does, its weights those of a model folder."""
    checkpoints = CheckpointStore(f"{training}/state/checkpoints", training.rpartition("/")[2])
    weights = {
        f"model/{name}": weight for name, weight in load_file(model_folder / "model.safetensors").items()
    }
    names = ("config.json", "generation_config.json")
    files = {name: (model_folder / name).read_bytes() for name in names}
    checkpoints.save(step, weights, {}, files)
