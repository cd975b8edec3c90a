"""One stage of a run: found in the store, or built now."""

from importlib import import_module
from typing import Any, Literal

from turbosparse.artifacts import Artifact, Workspace
from turbosparse.progress import Listener
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs

StageName = Literal[
    "prepare", "base", "convert", "pretrain", "instructions", "finetune", "evaluate", "export"
]


def make(run: Run, stage: StageName, listener: Listener | None = None) -> Artifact:
    """Returns a stage's artifact; its parents must have been made.

    Raises:
        ArtifactError: A parent is missing; the message names the command that makes it.
        TurboSparseError: The stage refuses its input.
        TrainingError: A training process failed.
    """

    def build(workspace: Workspace) -> dict[str, Any]:
        # torch, transformers and streaming take half a minute to import together: a stage's module
        # is imported when there is something to build, never to find out that there is not.
        module = import_module(f"turbosparse.stages.{stage}")
        metrics: dict[str, Any] = module.build(run, workspace, listener or Listener())
        return metrics

    return run.store.produce(getattr(Specs(run), stage), build)
