"""The models that a table or figure is about, made at the request's scale where none are given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from turbosparse.artifacts import Artifact
from turbosparse.config import Activation
from turbosparse.data.layout import HELD_BACK_NAME
from turbosparse.reproduce.common import PRESETS, Request, Scale, is_dry, labelled_folders
from turbosparse.reproduce.study import labelled
from turbosparse.stages import Run, StageName, make, open_run, stages_of
from turbosparse.stages.convert import source_folder

MOE_PRESETS: dict[Scale, str] = {"tiny": "tiny-moe", "7b": "mixtral-8x7b"}


@dataclass(frozen=True)
class Wanted:
    """A model of the paper's method."""

    label: str
    stage: Literal["original", "pretrain", "finetune"]
    """The SwiGLU model before conversion, the recovered or the tuned one."""
    is_moe: bool = False
    activation: Activation = "drelu"
    """After conversion."""


ORIGINAL = Wanted("SwiGLU", "original")
RELU = Wanted("ReLU", "pretrain", activation="reglu")
SHIFTED_RELU = Wanted("shifted ReLU", "pretrain", activation="shifted-relu")
TUNED = Wanted("TurboSparse", "finetune")
MOE_ORIGINAL = Wanted("SwiGLU MoE", "original", is_moe=True)
MOE_TUNED = Wanted("TurboSparse MoE", "finetune", is_moe=True)


@dataclass(frozen=True)
class Model:
    """A model folder, and the artifact it lies in."""

    label: str
    folder: str
    artifact: Artifact | None = None
    """None: a folder that the user gave."""


@dataclass(frozen=True)
class Given:
    """What a table or figure is measured on."""

    request: Request
    """With its models and its text."""
    models: tuple[Model, ...]
    notes: tuple[str, ...] = ()
    """Which models there are not, and what the text is, for the reader."""
    held_back: Path | None = None
    """What the corpus of models made here keeps back: the local tasks are made of it."""


def given_or_made(request: Request, wanted: Sequence[Wanted]) -> Given:
    """Returns the request's models and text, or those that its scale makes.

    Where no text is given, it is what the corpus of the first model made here holds back.

    Raises:
        TurboSparseError: A model can't be made as requested.
        TrainingError: A training process failed.
    """
    if request.models:
        models = tuple(Model(label, path) for label, path in labelled_folders(request.models).items())
        return Given(request, models)
    made, notes = [], []
    for one in wanted:
        if one.is_moe and request.scale not in MOE_PRESETS:
            notes.append(f"Not measured: {one.label}: scale {request.scale} has no mixture of experts.")
        else:
            made.append(_make(request, one))
    held_back = held_back_text(request)
    if request.text is None:
        notes.append("Text: the documents that the corpus keeps back.")
    labelled_models = [f"{model.label}={model.folder}" for model in made]
    filled = replace(request, models=labelled_models, text=request.text or held_back)
    return Given(filled, tuple(made), tuple(notes), held_back)


def held_back_text(request: Request) -> Path:
    """Returns the documents that the corpus of the scale's dense model keeps back."""
    return make(_open(request, ORIGINAL), "prepare", request.listener).folder() / HELD_BACK_NAME


def make_until(run: Run, last: StageName, request: Request, label: str) -> Artifact:
    """Returns a stage's artifact, it and all before it found in the store or made now."""
    listener = labelled(request.listener, label)
    stages = stages_of(run, "pipeline")
    made = [make(run, stage, listener) for stage in stages[: stages.index(last) + 1]]
    return made[-1]


def _make(request: Request, wanted: Wanted) -> Model:
    run = _open(request, wanted)
    if wanted.stage != "original" or run.config.convert.source == "random":
        # A model that starts from random weights has no original: it is trained with SwiGLU instead.
        last: StageName = "pretrain" if wanted.stage == "original" else wanted.stage
        artifact = make_until(run, last, request, wanted.label)
        return Model(wanted.label, str(artifact.folder() / "model"), artifact)
    if run.config.convert.source == "folder":
        return Model(wanted.label, str(source_folder(run)))
    artifact = make_until(run, "base", request, wanted.label)
    return Model(wanted.label, str(artifact.folder() / "model"), artifact)


def _open(request: Request, wanted: Wanted) -> Run:
    preset = (MOE_PRESETS if wanted.is_moe else PRESETS)[request.scale]
    source = request.moe_source if wanted.is_moe else request.placement.source
    placement = request.placement.model_copy(update={"source": source})
    run = open_run(preset, dict(request.overrides), is_dry(request), placement)
    is_trained_original = wanted.stage == "original" and run.config.convert.source == "random"
    changes: dict[str, Any] = {"activation": "swiglu" if is_trained_original else wanted.activation}
    convert = run.config.convert.model_copy(update=changes)
    return replace(run, config=run.config.model_copy(update={"convert": convert}))
