"""What every flow does first: from its parameters to a run that was checked completely."""

import os

from prefect import get_run_logger

from tasks.credentials import use_access
from tasks.server import SECONDS_TO_END_RUNS
from turbosparse.config import Overrides, Placement
from turbosparse.processes import end_with_parent
from turbosparse.stages import Run, open_run

FLOW_RUN_ID = "PREFECT__FLOW_RUN_ID"
"""A worker sets it in the processes that it starts."""


def open_request(preset: str, overrides: Overrides | None, dry_run: bool, placement: Placement | None) -> Run:
    """Resolves and checks what a flow was asked for, in a process that is ready for it.

    Raises:
        TurboSparseError: Anything about it can't work; the message says what to do.
    """
    place = placement or Placement()
    enter(place)
    run = open_run(preset, overrides.tree() if overrides else {}, dry_run, place)
    for note in run.notes:
        get_run_logger().info("changed to fit: %s", note)
    return run


def enter(placement: Placement) -> None:
    """Binds this process to its worker's life, and puts credentials into its environment.

    Raises:
        ConfigError: A block that should hold a credential is not there.
    """
    if FLOW_RUN_ID in os.environ:
        # A worker that was killed reports nothing. Its run ends too, and can be retried.
        end_with_parent(SECONDS_TO_END_RUNS)
    use_access(placement.access)
