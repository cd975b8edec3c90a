"""What every flow does first: from its parameters to a run that was checked completely."""

import os
import signal

from prefect import get_run_logger

from tasks.credentials import use_access
from turbosparse.config import Overrides, Placement
from turbosparse.processes import die_with_parent
from turbosparse.stages import Run, open_run

FLOW_RUN_ID = "PREFECT__FLOW_RUN_ID"
"""A worker sets it in the processes that it starts."""


def open_request(preset: str, overrides: Overrides | None, dry_run: bool, placement: Placement | None) -> Run:
    """Resolves and checks what a flow was asked for; credentials are in the environment from here on.

    Raises:
        TurboSparseError: Anything about it can't work; the message says what to do.
    """
    if FLOW_RUN_ID in os.environ:
        # A worker that was killed reports nothing: its run ends with it, and can be retried.
        die_with_parent(signal.SIGTERM)
    place = placement or Placement()
    use_access(place.access)
    run = open_run(preset, overrides.tree() if overrides else {}, dry_run, place)
    for note in run.notes:
        get_run_logger().info("changed to fit: %s", note)
    return run
