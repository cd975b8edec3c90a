"""What the training stages share: from a recipe to a model folder, a history and a loss curve."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from turbosparse.artifacts import Workspace, origin_of
from turbosparse.config import PredictorConfig, TrainConfig
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.progress import Listener, OnProgress, Progress
from turbosparse.reports.training_plots import plot_training
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require
from turbosparse.train.callbacks.profiling import TRACE_NAME
from turbosparse.train.checkpoints import Checkpoint, CheckpointStore, assemble_model
from turbosparse.train.credentials import check_wandb
from turbosparse.train.history import read_history, summarise
from turbosparse.train.job import TrainJob
from turbosparse.train.launch import Program, open_launcher
from turbosparse.train.launch.protocol import Event
from turbosparse.train.state import CONFIG_NAMES, HISTORY_NAME, MODEL_PREFIX

SHOWN = ("loss", "tokens_per_second", "mfu", "gradient_norm", "zero_activation_ratio", "predictor_recall")

StageName = Literal["base", "pretrain", "finetune"]


@dataclass(frozen=True)
class TrainingInputs:
    """What a training starts from."""

    model_folder: Path
    data_folder: Path
    """Shards and tokenizer/."""
    vocab_size: int | None = None
    """Widens the vocabulary to this many entries first."""
    predictor: PredictorConfig | None = None
    """Predictors that train beside the model."""
    teacher_folder: Path | None = None
    """The original model, where the recipe distils."""


def run_training(
    run: Run,
    name: StageName,
    recipe: TrainConfig,
    inputs: TrainingInputs,
    workspace: Workspace,
    listener: Listener,
) -> dict[str, Any]:
    """Trains in processes of its own; fills the workspace with model/, history.jsonl, history.png.

    Returns:
        first_loss, last_loss, tokens_per_second and mfu (the median step's), zero_activation_ratio, ….

    Raises:
        TurboSparseError: Model, data, checkpoints and ranks do not fit each other.
        TrainingError: A rank failed; run again, training resumes after its last checkpoint.
    """
    check_wandb(run.placement.training.wandb)
    job = _job(run, name, recipe, inputs, workspace)
    checkpoints = CheckpointStore(job.checkpoints, job.identity)
    if _finished(checkpoints, recipe) is None:
        program = Program(job.name, job.identity, job.model_dump_json(), job.state_folder)
        launcher = open_launcher(run.placement)
        launcher.launch(program, _as_progress(job, listener.on_progress), listener.on_log)
    result = _finished(checkpoints, recipe)
    assert result is not None, "training ended without its last checkpoint"
    assemble_model(result, MODEL_PREFIX, workspace.folder / "model", CONFIG_NAMES)
    copy_tokenizer(inputs.data_folder / "tokenizer", workspace.folder / "model")
    return _collect(job, result, workspace.folder)


def _job(
    run: Run, name: StageName, recipe: TrainConfig, inputs: TrainingInputs, workspace: Workspace
) -> TrainJob:
    place = run.placement
    num_ranks = place.num_ranks_total
    # Ranks of another machine don't see what this one has fetched.
    origin = partial(origin_of, run.store) if place.launcher == "jobset" else str
    rank_batch = recipe.batch_size_sequences // num_ranks
    # Only where tasks are evaluated meanwhile: pods fetch it.
    corpus = require(run, Specs(run).prepare).folder() if place.training.evaluation else None
    interval = place.checkpoint_interval_steps or min(max(10, recipe.num_steps // 20), 250)
    return TrainJob(
        name=name,
        identity=getattr(Specs(run), name).identity,
        recipe=TrainConfig(**recipe.model_dump(include=set(TrainConfig.model_fields))),
        model_folder=origin(inputs.model_folder),
        data_folder=origin(inputs.data_folder),
        shards=run.store.place("tokens"),
        validation_folder=None if name == "finetune" else origin(inputs.data_folder),
        evaluation_data=place.evaluation_data,
        held_back_folder=origin(corpus) if corpus else None,
        state_folder=str(workspace.state),
        checkpoints=f"{workspace.state_uri}/checkpoints",
        predictor=inputs.predictor,
        vocab_size=inputs.vocab_size,
        teacher_folder=origin(inputs.teacher_folder) if inputs.teacher_folder else None,
        num_ranks=num_ranks,
        device_batch_size_sequences=place.device_batch_size_sequences or rank_batch,
        checkpoint_interval_steps=interval,
        hardware=place.training,
    )


def _finished(checkpoints: CheckpointStore, recipe: TrainConfig) -> Checkpoint | None:
    """Returns the checkpoint of the last step, which holds the result."""
    latest = checkpoints.latest()
    return latest if latest is not None and latest.step == recipe.num_steps else None


def _as_progress(job: TrainJob, on_progress: OnProgress) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        values = {key: event.values[key] for key in SHOWN if event.values[key] is not None}
        values |= event.values["task_results"] or {}
        on_progress(Progress(job.name, event.values["step"], job.recipe.num_steps, "steps", values))

    return on_event


def _collect(job: TrainJob, result: Checkpoint, folder: Path) -> dict[str, Any]:
    (folder / HISTORY_NAME).write_bytes(result.file(HISTORY_NAME))
    if TRACE_NAME in result.manifest.files:
        (folder / TRACE_NAME).write_bytes(result.file(TRACE_NAME))
    _keep_unsent(Path(job.state_folder), folder)
    history = read_history(folder / HISTORY_NAME)
    plot_training(history, job.name, folder / "history.png")
    return summarise(history, job.recipe.num_steps)


def _keep_unsent(state: Path, folder: Path) -> None:
    """Keeps what W&B has not received beyond the state's end: `wandb sync` sends it."""
    for run in sorted(state.glob("wandb/wandb/*run-*/run-*.wandb")):
        kept = folder / "wandb" / run.parent.name / run.name
        kept.parent.mkdir(parents=True)
        shutil.copyfile(run, kept)
