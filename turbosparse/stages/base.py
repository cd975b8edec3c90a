"""A SwiGLU model trained on the prepared corpus: conversion needs something to lose."""

from typing import Any

from turbosparse.artifacts import Workspace
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.model.convert import initial_model
from turbosparse.model.folder import save_model
from turbosparse.progress import Listener
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require
from turbosparse.stages.training import TrainingInputs, run_training


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Trains from seeded initial weights as `convert.base` says.

    Raises:
        TrainingError: A rank failed.
    """
    recipe = run.config.convert.base
    assert recipe is not None
    corpus = require(run, Specs(run).prepare).folder()
    start = workspace.state / "initial"
    save_model(initial_model(run.config.model, load_tokenizer(corpus / "tokenizer"), "swiglu"), start)
    return run_training(run, "base", recipe, TrainingInputs(start, corpus), workspace, listener)
