"""The study of Appendix A.1: two models that differ in their activation alone, trained on the same text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from turbosparse.artifacts import Artifact
from turbosparse.config import Activation
from turbosparse.errors import ConfigError
from turbosparse.progress import Listener, Progress
from turbosparse.reproduce.common import (
    WINDOW_TOKENS,
    LoadedModel,
    Request,
    loaded_models,
    open_scaled,
)
from turbosparse.stages import Run, make
from turbosparse.train.history import StepRecord, read_history

LABELS: dict[Activation, str] = {"swiglu": "SwiGLU", "drelu": "dReLU"}
"""The two arms."""


@dataclass(frozen=True)
class Arm:
    """A trained model of the study."""

    label: str
    corpus: Artifact
    """What `prepare` made."""
    trained: Artifact
    """What `pretrain` made."""

    @property
    def model_folder(self) -> Path:
        """The trained model and its tokenizer."""
        return self.trained.folder() / "model"

    @property
    def history(self) -> list[StepRecord]:
        """What each optimizer step measured."""
        return read_history(self.trained.folder() / "history.jsonl")

    @property
    def sequence_length(self) -> int:
        """Tokens per training sequence."""
        return int(self.corpus.manifest.config["sequence_length"])

    @property
    def step_tokens(self) -> int:
        """Tokens per optimizer step."""
        return int(self.trained.manifest.config["batch_size_sequences"]) * self.sequence_length

    def as_json(self) -> dict[str, Any]:
        """Returns where the model is and what its training measured."""
        metrics = self.trained.manifest.metrics
        return {
            "artifact": self.trained.uri,
            "corpus": self.corpus.uri,
            "num_steps": self.trained.manifest.config["num_steps"],
            "num_tokens": self.trained.manifest.config["num_steps"] * self.step_tokens,
            "training_loss": metrics["last_loss"],
            "training_tokens_per_second": metrics["tokens_per_second"],
        }


def trained_arms(request: Request) -> list[Arm]:
    """Returns both arms, SwiGLU first: found in the store, or trained now.

    Raises:
        TurboSparseError: The study can't run as requested; nothing was written.
        TrainingError: A training process failed.

    Reference: Section 3.2 and Tables 11 and 12 of the paper.
    """
    runs = open_arms(request)
    corpus = make(runs["SwiGLU"], "prepare", request.listener)
    initial = {label: make(run, "convert", request.listener) for label, run in runs.items()}
    assert _weights(initial["SwiGLU"]) == _weights(initial["dReLU"]), "the arms must start alike"
    return [
        Arm(label, corpus, make(run, "pretrain", labelled(request.listener, label)))
        for label, run in runs.items()
    ]


def open_arms(request: Request) -> dict[str, Run]:
    """Returns each arm's run by label; they share everything but the activation.

    Raises:
        TurboSparseError: The study can't run as requested.
    """
    if request.scale == "7b":
        raise ConfigError("--scale", "7b", "tiny or 300m", "the paper's study is of 300M parameters")
    # Opened once, so that both arms read a hub data set at one commit.
    run = open_scaled(request, {})
    return {label: _with_activation(run, activation) for activation, label in LABELS.items()}


def loaded_arms(request: Request, arms: Sequence[Arm]) -> Iterator[tuple[Arm, LoadedModel]]:
    """Yields each arm with its model, one in memory at a time; windows are no longer than in training."""
    models = [f"{arm.label}={arm.model_folder}" for arm in arms]
    for arm, loaded in zip(arms, loaded_models(replace(request, models=models)), strict=True):
        yield arm, replace(loaded, window_tokens=min(WINDOW_TOKENS, arm.sequence_length))


def labelled(listener: Listener, label: str) -> Listener:
    """Returns a listener that passes progress on under an arm's name."""

    def on_progress(progress: Progress) -> None:
        listener.on_progress(replace(progress, stage=f"{progress.stage}, {label}"))

    return Listener(on_progress, listener.on_log)


def describe_scale(request: Request, arm: Arm) -> str:
    """Returns a line that says what was trained here, beside what the paper trained."""
    return (
        f"Here: scale {request.scale}, {arm.as_json()['num_tokens']:,} tokens per arm in "
        f"{len(arm.history):,} steps; both arms have the same initial weights, sequences, order and "
        "optimizer. The paper: 300M parameters, 5B tokens of FineWeb."
    )


def _with_activation(run: Run, activation: Activation) -> Run:
    convert = run.config.convert.model_copy(update={"activation": activation})
    return replace(run, config=run.config.model_copy(update={"convert": convert}))


def _weights(artifact: Artifact) -> dict[str, str]:
    files = artifact.manifest.files
    return {path: record.sha256 for path, record in files.items() if path.endswith(".safetensors")}
