"""What launchers have in common: a program for every rank, and where it runs."""

from dataclasses import dataclass
from typing import Protocol

from turbosparse.config import Placement
from turbosparse.errors import ConfigError
from turbosparse.train.launch.command import WORKER
from turbosparse.train.launch.outcome import OnEvent, OnLog


@dataclass(frozen=True)
class Program:
    """What every rank runs: a worker module's `main`, with the path of the job file as its argument."""

    name: str
    """The stage."""
    identity: str
    """The artifact's: the same training is launched under the same name."""
    job: str
    """The job file's JSON."""
    folder: str
    """Where the job file is put; with several nodes of a `local` launcher, a folder that all share."""
    worker: str = WORKER


class Launcher(Protocol):
    """Starts training processes, listens to them, and ends them."""

    def launch(self, program: Program, on_event: OnEvent, on_log: OnLog) -> None:
        """Runs a program to its end on every rank of every node.

        An exception in the caller's thread, such as KeyboardInterrupt, ends every rank: they are told
        to stop, and killed after `preemption_grace_seconds`.

        Args:
            program: What to run.
            on_event: Called for every event of rank 0.
            on_log: Called for every other line of output.

        Raises:
            TurboSparseError: A rank refused its input.
            TrainingPreempted: Training was told to stop; run again, it resumes.
            TrainingError: A rank failed or hung; the message names it and holds the end of the output.
        """


def open_launcher(place: Placement) -> Launcher:
    """Returns the launcher that a placement asks for.

    Raises:
        ConfigError: Its settings are missing.
    """
    if place.launcher == "local":
        from turbosparse.train.launch.local import LocalLauncher  # noqa: PLC0415 - it imports this one

        return LocalLauncher(place)
    from turbosparse.train.launch.jobset import JobSetLauncher  # noqa: PLC0415 - httpx and pydantic models, for clusters only

    if place.jobset is None:
        raise ConfigError(
            "placement.jobset",
            None,
            "namespace, image and more of the JobSet",
            "give a file with them: --placement FILE",
        )
    return JobSetLauncher(place, place.jobset)
