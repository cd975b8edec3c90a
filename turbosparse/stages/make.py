"""One stage of a run: found in the store, or built now."""

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from turbosparse.artifacts import Artifact, Workspace
from turbosparse.progress import Listener
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs

StageName = Literal[
    "prepare", "base", "convert", "pretrain", "instructions", "finetune", "evaluate", "verdict", "export"
]


def make(run: Run, stage: StageName, listener: Listener | None = None) -> Artifact:
    """Returns a stage's artifact; its parents must have been made.

    Raises:
        ArtifactError: A parent is missing; the message names the command that makes it.
        TurboSparseError: The stage refuses its input.
        TrainingError: A training process failed.
    """

    def build(workspace: Workspace) -> dict[str, Any]:
        metrics: dict[str, Any] = _module(stage).build(run, workspace, listener or Listener())
        return metrics

    return run.store.produce(getattr(Specs(run), stage), build)


def stages_of(run: Run, flow: str) -> tuple[StageName, ...]:
    """Returns the stages that a flow makes, in their order."""
    base: tuple[StageName, ...] = ("base",) if run.config.convert.source == "base" else ()
    flows: dict[str, tuple[StageName, ...]] = {
        "prepare": ("prepare",),
        "convert": (*base, "convert"),
        "pretrain": ("pretrain",),
        "finetune": ("instructions", "finetune"),
        "evaluate": ("evaluate",),
        "export": ("export",),
    }
    if flow == "retrain":
        recover = () if run.branch else flows["convert"]
        return ("prepare", *recover, "pretrain", *flows["finetune"], "evaluate", "verdict", "export")
    return flows[flow] if flow in flows else tuple(stage for stages in flows.values() for stage in stages)


def preload(run: Run, stages: Iterable[StageName]) -> None:
    """Imports what the stages that are still to be built need.

    For callers who wait for something else meanwhile, such as a server that starts.
    """
    specs = Specs(run)
    for stage in stages:
        if run.store.find(getattr(specs, stage)) is None:
            _module(stage)


def _module(stage: StageName) -> ModuleType:
    # torch, transformers and streaming take half a minute to import together: a stage's module is
    # imported when there is something to build, never to find out that there is not.
    return import_module(f"turbosparse.stages.{stage}")
