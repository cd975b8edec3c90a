"""Instruction tuning, with one activation predictor per FFN (per expert) trained beside it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from turbosparse.analysis.activity import mean, measure_activity
from turbosparse.artifacts import Workspace
from turbosparse.data.chat import encode
from turbosparse.data.conversations import read_conversations
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.model.folder import check_model_folder, load_model
from turbosparse.progress import Listener
from turbosparse.reports.plots import plot_predictors
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require
from turbosparse.stages.training import TrainingInputs, run_training

PREDICTOR_MEANS = ("recall", "precision", "predicted_active_ratio", "true_active_ratio")


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Tunes the recovered model and measures its predictors on held-back conversations.

    Raises:
        TrainingError: A rank failed.

    Reference: Sections 5 (SFT datasets) and 7 (predictors) of the paper.
    """
    conversations = require(run, Specs(run).instructions)
    data = conversations.folder()
    model = require(run, Specs(run).pretrain).folder() / "model"
    padded_vocab_size = conversations.manifest.metrics["padded_vocab_size"]
    metrics = run_training(
        run,
        "finetune",
        run.config.finetune,
        TrainingInputs(
            model_folder=model,
            data_folder=data,
            vocab_size=max(padded_vocab_size, check_model_folder(model)["vocab_size"]),
            predictor=run.config.finetune.predictor,
        ),
        workspace,
        listener,
    )
    return metrics | _measure_predictors(workspace.folder, data / "held_back.jsonl")


def _measure_predictors(folder: Path, held_back: Path) -> dict[str, Any]:
    model, tokenizer = load_model(folder / "model"), load_tokenizer(folder / "model")
    context = model.config.max_position_embeddings
    windows = [
        torch.tensor(encode(conversation, tokenizer).input_ids[:context])
        for conversation in read_conversations(held_back)
    ]
    activity = measure_activity(model, windows)
    layers = activity.layers()
    plot_predictors(layers, folder / "predictors.png")
    return {
        **{name: mean(layers, name) for name in PREDICTOR_MEANS},
        "num_measured_tokens": sum(len(window) for window in windows),
        "layers": [asdict(layer) for layer in layers],
        "experts": activity.experts(),
    }
