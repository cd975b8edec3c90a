"""What Tables 5 and 12 share: a training recipe in the paper, in its preset, at this scale, and as it ran."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from turbosparse.artifacts import Artifact, Store
from turbosparse.config import PipelineConfig, resolve
from turbosparse.reproduce.common import PRESETS, Reproduction, Request, is_dry
from turbosparse.reproduce.differs import describe_hardware
from turbosparse.train.history import StepRecord, read_history

NOT_RUN = "not run here"
NOT_IN_THE_TEXT = "not in the text"


@dataclass(frozen=True)
class RecipeTable:
    """One of the two tables."""

    name: str
    title: str
    paper: Mapping[str, str]
    """By setting; settings that are missing are not in the text."""
    preset: str
    """The preset that is the paper's recipe."""
    notes: tuple[str, ...]


def reproduce_recipe(table: RecipeTable, request: Request) -> Reproduction:
    """Sets the paper's recipe beside its preset, this scale's, and what a run of the root really did.

    Raises:
        ConfigError: The request's changes do not fit the preset.
    """
    of_paper = settings(resolve(table.preset))
    config = resolve(PRESETS[request.scale], request.overrides, is_dry(request))
    artifact = find_run(Store(request.placement.root), config)
    ran = ran_as(artifact) if artifact is not None else {}
    of_scale = settings(config) | {"hardware": describe_hardware()}
    rows = [
        [
            name,
            table.paper.get(name, NOT_IN_THE_TEXT),
            of_paper.get(name, "–"),
            value,
            ran.get(name, "–") if ran else NOT_RUN,
        ]
        for name, value in of_scale.items()
    ]
    return Reproduction(
        name=table.name,
        title=table.title,
        header=["setting", "paper", f"preset {table.preset}", f"scale {request.scale}", "as it ran"],
        rows=rows,
        measured={
            "preset": of_paper,
            "scale": of_scale,
            "run": None if artifact is None else {"artifact": artifact.uri, **ran},
            "why": f"no pretraining of this recipe lies in {request.placement.root}" if not ran else None,
        },
        paper=dict(table.paper),
        notes=[
            "As it ran: from the history of a pretraining artifact of the root with this scale's recipe.",
            *table.notes,
        ],
    )


def settings(config: PipelineConfig) -> dict[str, str]:
    """Returns a configuration's recipe of continued pretraining, as a table shows it."""
    recipe, length = config.pretrain, config.data.sequence_length
    final = recipe.learning_rate * recipe.final_learning_rate_ratio
    return {
        "sequence length, tokens": f"{length:,}",
        "batch size, sequences": f"{recipe.batch_size_sequences:,}",
        "learning rate": f"{recipe.learning_rate:.3g} → {final:.3g}",
        "warmup steps": f"{recipe.warmup_steps:,}",
        "steps": f"{recipe.num_steps:,}",
        "tokens": f"{recipe.num_steps * recipe.batch_size_sequences * length:,}",
        "optimizer": f"AdamW, β1 {recipe.adam_beta1:g}, β2 {recipe.adam_beta2:g}",
        "schedule": "linear warmup, cosine decay",
        "weight decay": f"{recipe.weight_decay:g}",
        "gradient clipping, norm": f"{recipe.gradient_clip_norm:g}",
    }


def find_run(store: Store, config: PipelineConfig) -> Artifact | None:
    """Returns the newest pretraining in the store that has a configuration's recipe."""
    recipe = config.pretrain.model_dump(mode="json")
    found = [one for one in store.manifests() if one.kind == "pretrain" and one.config == recipe]
    return store.load(found[-1].name) if found else None


def ran_as(artifact: Artifact) -> dict[str, str]:
    """Returns what a training's history says it did."""
    history = read_history(artifact.folder() / "history.jsonl")
    manifest = artifact.manifest
    length = artifact.store.load(manifest.parents["corpus"]).manifest.config["sequence_length"]
    rates = [record.learning_rate for record in history]
    batch = manifest.config["batch_size_sequences"]
    return {
        "sequence length, tokens": f"{length:,}",
        "batch size, sequences": f"{batch:,}",
        "learning rate": f"{max(rates):.3g} → {rates[-1]:.3g}",
        "warmup steps": f"{warmup_steps(history):,}",
        "steps": f"{len(history):,}",
        "tokens": f"{len(history) * batch * length:,}",
        "hardware": f"at {manifest.metrics['tokens_per_second']:,.0f} tokens/s",
    }


def warmup_steps(history: list[StepRecord]) -> int:
    """Returns the steps before the one of the highest learning rate."""
    rates: list[Any] = [record.learning_rate for record in history]
    return rates.index(max(rates))
