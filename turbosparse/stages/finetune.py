"""Instruction tuning, and one activation predictor per FFN (per expert): trained beside it, or after it."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.artifacts import Workspace
from turbosparse.config import PredictorConfig
from turbosparse.data.chat import encode
from turbosparse.data.conversations import read_conversations
from turbosparse.data.sft_stream import conversation_tokens
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.model.device import on_best_device
from turbosparse.model.folder import check_model_folder, load_model, save_model
from turbosparse.predictors.post_hoc import fit_predictors, fitted_records
from turbosparse.predictors.quality import measure_quality
from turbosparse.predictors.ranks import ranks_of
from turbosparse.predictors.states import first_tokens
from turbosparse.predictors.thresholds import choose_thresholds, chosen_values, write_thresholds
from turbosparse.progress import Listener
from turbosparse.reports.predictor_plots import write_predictor_report
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require
from turbosparse.stages.training import TrainingInputs, run_training


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Tunes the recovered model, brings its predictors, and chooses and measures their thresholds.

    Thresholds are chosen on one half of the held-back conversations and measured on the other.

    Raises:
        TrainingError: A rank failed.
        TurboSparseError: Predictors that can't be had in this size, from this text, or on this disk.

    Reference: Sections 5 (SFT datasets) and 7 (predictors) of the paper.
    """
    conversations = require(run, Specs(run).instructions)
    data = conversations.folder()
    source = require(run, Specs(run).pretrain).folder() / "model"
    config = _sized(run.config.finetune.predictor, source, data)
    metrics = run_training(
        run,
        "finetune",
        run.config.finetune,
        TrainingInputs(
            model_folder=source,
            data_folder=data,
            vocab_size=max(
                conversations.manifest.metrics["padded_vocab_size"], check_model_folder(source)["vocab_size"]
            ),
            predictor=config if config.method == "joint" else None,
        ),
        workspace,
        listener,
    )
    folder = workspace.folder / "model"
    if config.method == "post_hoc":
        metrics |= _fit(folder, data, config, run.config.finetune.seed, workspace, listener)
    return metrics | _report(folder, data, config)


def _sized(config: PredictorConfig, source: Path, data: Path) -> PredictorConfig:
    """Returns the configuration with ranks, measured where a share of the parameters was asked for."""
    if config.rank is not None:
        return config
    model = load_model(source)
    on_best_device(model)
    # The model does not know the chat template's tokens yet; text it knows is text for this.
    known = (window[window < model.config.vocab_size] for window in conversation_tokens(data))
    ranks = ranks_of(model, first_tokens(known, config.threshold.num_tokens), config)
    return config.model_copy(update={"rank": ranks, "parameter_ratio": None})


def _fit(
    folder: Path,
    data: Path,
    config: PredictorConfig,
    seed: int,
    workspace: Workspace,
    listener: Listener,
) -> dict[str, Any]:
    """Gives the tuned model predictors, fitted to the conversations that it was tuned on."""
    model = load_model(folder)
    on_best_device(model)
    work, draft = workspace.state / "predictors", workspace.state / "with-predictors"
    windows = partial(conversation_tokens, data)
    ranks = ranks_of(model, (), config)
    fitted = fit_predictors(model, windows, config, ranks, work, seed, listener.on_progress)
    save_model(fitted, draft)
    copy_tokenizer(folder, draft)
    shutil.rmtree(folder)
    shutil.move(draft, folder)
    return {"fits": fitted_records(model, work)}


def _report(folder: Path, data: Path, config: PredictorConfig) -> dict[str, Any]:
    model = load_model(folder)
    on_best_device(model)
    windows = _held_back(folder, data / "held_back.jsonl", model)
    num_tokens = config.threshold.num_tokens
    chosen = choose_thresholds(model, list(first_tokens(windows[::2], num_tokens)), config.threshold)
    if not config.threshold.keep_zero:
        write_thresholds(model, chosen, folder)
    quality, layers = measure_quality(model, list(first_tokens(windows[1::2], num_tokens)))
    write_predictor_report(quality, layers, chosen, folder.parent)
    return {**quality, **chosen_values(model)}


def _held_back(folder: Path, held_back: Path, model: PreTrainedModel) -> list[Tensor]:
    tokenizer, context = load_tokenizer(folder), model.config.max_position_embeddings
    return [
        torch.tensor(encode(conversation, tokenizer).input_ids[:context])
        for conversation in read_conversations(held_back)
    ]
