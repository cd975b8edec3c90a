"""A flow that trains as the pipeline does, with a worker that no signal moves."""

import json

from prefect import flow, task

from turbosparse.config import Placement
from turbosparse.train.launch import Program, open_launcher


@task
def train(folder: str) -> None:
    """Never ends by itself."""
    job = json.dumps({"does": "ignores_sigterm", "folder": folder})
    program = Program("test", "0123", job, f"{folder}/state", "launch_workers")
    open_launcher(Placement(num_ranks=2)).launch(program, print, print)


@flow
def training(folder: str) -> None:
    """One task."""
    train(folder)
