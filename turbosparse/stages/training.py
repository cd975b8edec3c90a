"""What the training stages share: from a recipe to a model folder, a history and a loss curve."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from turbosparse.artifacts import Workspace
from turbosparse.config import FinetuneConfig, TrainConfig
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.progress import Listener, OnProgress, Progress
from turbosparse.reports.plots import plot_history
from turbosparse.stages.run import Run
from turbosparse.train.history import read_history, summarise
from turbosparse.train.job import TrainJob
from turbosparse.train.launch.local import launch
from turbosparse.train.launch.protocol import Event

SHOWN = ("loss", "tokens_per_second", "zero_activation_ratio", "predictor_recall")


def run_training(
    run: Run,
    name: Literal["base", "pretrain", "finetune"],
    recipe: TrainConfig,
    *,
    model_folder: Path,
    data_folder: Path,
    workspace: Workspace,
    listener: Listener,
    vocab_size: int | None = None,
) -> dict[str, Any]:
    """Trains in processes of its own; fills the workspace with model/, history.jsonl, history.png.

    Returns:
        first_loss, last_loss, tokens_per_second (the median step's), zero_activation_ratio.

    Raises:
        TrainingError: A rank failed.
    """
    place = run.placement
    rank_batch = recipe.batch_size_sequences // place.num_ranks
    job = TrainJob(
        name=name,
        recipe=TrainConfig(**recipe.model_dump(include=set(TrainConfig.model_fields))),
        model_folder=str(model_folder),
        data_folder=str(data_folder),
        shards=run.store.place("tokens"),
        output_folder=str(workspace.folder / "model"),
        state_folder=str(workspace.state),
        predictor=recipe.predictor if isinstance(recipe, FinetuneConfig) else None,
        vocab_size=vocab_size,
        num_ranks=place.num_ranks,
        device_batch_size_sequences=place.device_batch_size_sequences or rank_batch,
        checkpoint_interval_steps=place.checkpoint_interval_steps
        or min(max(10, recipe.num_steps // 20), 250),
    )
    launch(job, _as_progress(job, listener.on_progress), listener.on_log)
    copy_tokenizer(data_folder / "tokenizer", workspace.folder / "model")
    return _collect(job, workspace.folder)


def _as_progress(job: TrainJob, on_progress: OnProgress) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        values = {key: event.values[key] for key in SHOWN if event.values[key] is not None}
        on_progress(Progress(job.name, event.values["step"], job.recipe.num_steps, "steps", values))

    return on_event


def _collect(job: TrainJob, folder: Path) -> dict[str, Any]:
    history = read_history(job.history_path)
    shutil.copyfile(job.history_path, folder / "history.jsonl")
    plot_history(history, job.name, folder / "history.png")
    return summarise(history, job.recipe.num_steps)
