"""Continued pretraining recovers what the change of activation lost."""

from typing import Any

from turbosparse.artifacts import Workspace
from turbosparse.progress import Listener
from turbosparse.stages.convert import source_folder
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require
from turbosparse.stages.training import TrainingInputs, run_training


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Trains the converted model, or a retraining the champion's recovered one, on the prepared corpus.

    Raises:
        TrainingError: A rank failed.

    Reference: Section 5 and Table 5 of the paper.
    """
    recipe = run.config.pretrain
    return run_training(
        run,
        "pretrain",
        recipe,
        TrainingInputs(
            model_folder=require(run, Specs(run).pretrain.parents["model"]).folder() / "model",
            data_folder=require(run, Specs(run).prepare).folder(),
            teacher_folder=source_folder(run) if recipe.distillation else None,
        ),
        workspace,
        listener,
    )
