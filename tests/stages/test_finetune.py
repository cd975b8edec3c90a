"""What fine-tuning adds to training: predictors fitted afterwards, thresholds chosen, everything measured."""

import json

import pytest
import torch

from turbosparse.config import ModelConfig, Placement
from turbosparse.data.conversations import Conversation, Turn
from turbosparse.data.sft import InstructionPlan, build_instructions
from turbosparse.data.sft_stream import conversation_tokens
from turbosparse.data.tokenizer import load_tokenizer, train_tokenizer
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.model.convert import initial_model, with_predictors
from turbosparse.model.folder import load_model, save_model
from turbosparse.progress import Listener
from turbosparse.stages import finetune, open_run
from turbosparse.stages.specs import Specs

MODEL = ModelConfig(
    hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, context_length=128
)


def talk(number: int) -> Conversation:
    question = f"What does the owl number {number} see at noon?"
    return Conversation((Turn("user", question), Turn("assistant", f"It sees {number} red foxes.")))


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """A run whose stages before fine-tuning are done, and whose training leaves the model as it is."""

    def make(predictor: dict):
        overrides = {"finetune": {"predictor": {"threshold": {"num_tokens": 200}, **predictor}}}
        run = open_run("tiny", overrides, True, Placement(root=str(tmp_path / "runs")))
        tokenizer_folder = tmp_path / "tokenizer"
        train_tokenizer(["the owl sees red foxes at noon. It What does number "] * 20, 300).save_pretrained(
            tokenizer_folder
        )

        def instructions(workspace):
            plan = InstructionPlan(128, 200, 20)
            return build_instructions(map(talk, range(120)), tokenizer_folder, plan, workspace.folder)

        made = run.store.produce(Specs(run).instructions, instructions)

        def pretrain(workspace):
            tokenizer = load_tokenizer(made.folder() / "tokenizer")
            save_model(initial_model(MODEL, tokenizer, "drelu"), workspace.folder / "model")
            return {}

        run.store.produce(Specs(run).pretrain, pretrain)
        monkeypatch.setattr(finetune, "run_training", train_nothing)
        return run

    return make


def train_nothing(run, name, recipe, inputs, workspace, listener):
    model, folder = load_model(inputs.model_folder), workspace.folder / "model"
    if inputs.predictor is not None:
        model = with_predictors(model, inputs.predictor.rank, 0)
    save_model(model, folder)
    copy_tokenizer(inputs.data_folder / "tokenizer", folder)
    return {"first_loss": 1.0}


def build(run):
    return run.store.produce(
        Specs(run).finetune, lambda workspace: finetune.build(run, workspace, Listener())
    )


def check(artifact, ranks):
    metrics, folder = artifact.manifest.metrics, artifact.folder()
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["predictor_threshold"] == metrics["thresholds"]
    assert config["predictor_global_threshold"] == metrics["global_threshold"]
    assert metrics["predictor_ranks"] == ranks
    assert {"recall", "precision", "predicted_active_ratio", "true_active_ratio"} <= metrics.keys()
    assert metrics["perplexity_ratio"] == pytest.approx(
        metrics["perplexity_predicted"] / metrics["perplexity_exact"]
    )
    names = {path.name for path in folder.iterdir()}
    assert {"predictors.json", "predictors.png", "trade_off.csv", "trade_off.png"} <= names
    assert load_tokenizer(folder / "model").chat_template is not None
    return metrics


def test_joint_predictors_get_thresholds_and_a_report(make_run):
    metrics = check(build(make_run({"rank": 8})), ranks=[8, 8])
    assert metrics["recall"] > 0.9, "other conversations than those that thresholds were chosen on"
    assert metrics["first_loss"] == 1.0


def test_post_hoc_predictors_are_fitted_to_the_tuned_model(make_run):
    post_hoc = {"num_tokens": 2_000, "num_epochs": 6, "batch_size_tokens": 128}
    sizes = {"rank": None, "parameter_ratio": 0.4, "learning_rate": 1e-2}
    run = make_run({"method": "post_hoc", "post_hoc": post_hoc, **sizes})
    artifact = build(run)
    ranks = artifact.manifest.metrics["predictor_ranks"]
    metrics = check(artifact, ranks)
    assert sum(ranks) * (32 + 64) <= 0.4 * 2 * 3 * 32 * 64
    assert len(metrics["fits"]) == 2
    assert metrics["precision"] > 1.5 * metrics["true_active_ratio"], "it has learned what is active"
    before = load_model(run.store.find(Specs(run).pretrain).folder() / "model").state_dict()
    after = load_model(artifact.folder() / "model").state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_conversations_come_out_of_the_shards_as_they_went_in(make_run):
    run = make_run({"rank": 8})
    folder = run.store.find(Specs(run).instructions).folder()
    tokenizer = load_tokenizer(folder / "tokenizer")
    texts = {tokenizer.decode(tokens, skip_special_tokens=True) for tokens in conversation_tokens(folder)}
    assert len(texts) == 100
    assert all(text.startswith("user\nWhat does") and text.rstrip().endswith("foxes.") for text in texts)
