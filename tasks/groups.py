"""A stage's coarse jobs as Prefect tasks: on threads, processes or a Dask cluster."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import as_completed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from turbosparse.config import Placement
from turbosparse.errors import TrainingDiverged, TurboSparseError
from turbosparse.processes import die_with_parent
from turbosparse.scratch import scratch_folder
from turbosparse.workers import Job, MapJobs, Result, map_inline

RETRIES = 2
RETRY_DELAY_SECONDS = 10


def is_worth_retrying(task: Any, task_run: Any, state: State[Any]) -> bool:  # noqa: ARG001 - Prefect's form
    """Says whether a failed task may succeed the next time: bad input and a diverged training will not."""
    try:
        state.result()
    except (TurboSparseError, TrainingDiverged):
        return False
    except Exception:
        return True
    return False


@contextmanager
def group_tasks(placement: Placement) -> Iterator[MapJobs]:
    """Gives what a stage maps its jobs with; workers start at the first job and end with the block.

    With one worker the jobs are done inside the stage's own task.
    """
    if placement.num_workers == 1:
        yield map_inline
        return
    with ExitStack() as stack:
        yield _GroupTasks(placement, stack)


class _Work:
    """One job. No dataclass: Prefect would look for futures in its fields and rebuild it."""

    def __init__(self, function: Callable[[Any], Any], job: Any, name: str) -> None:
        self.function = function
        self.job = job
        self.name = name


@task(
    name="group",
    task_run_name="group-{work.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_worth_retrying,
)
def _do(work: _Work) -> Any:
    return work.function(work.job)


@dataclass
class _GroupTasks:
    """Submits one task for each job to a runner that outlives the call."""

    placement: Placement
    stack: ExitStack
    _runner: TaskRunner[Any] | None = field(default=None, init=False)

    def __call__(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], on_done: Callable[[Result], None]
    ) -> list[Result]:
        """Does the jobs; see `MapJobs`."""
        if self._runner is None:
            self._runner = self.stack.enter_context(_task_runner(self.placement, self.stack))
        named = [(job, f"{number}-of-{len(jobs)}") for number, job in enumerate(jobs, start=1)]
        futures = [self._runner.submit(_do, {"work": _Work(function, *one)}) for one in named]
        for future in as_completed(futures):
            on_done(future.result())
        return [future.result() for future in futures]


def _task_runner(placement: Placement, stack: ExitStack) -> TaskRunner[Any]:
    if placement.workers == "threads":
        return ThreadPoolTaskRunner(max_workers=placement.num_workers)
    if placement.workers == "processes":
        return ProcessPoolTaskRunner(
            max_workers=placement.num_workers,
            initializer=die_with_parent,
            initargs=(signal.SIGKILL, os.getpid()),
        )
    import dask  # noqa: PLC0415 - it and distributed take seconds to import
    from prefect_dask import DaskTaskRunner  # noqa: PLC0415

    if placement.dask_scheduler:
        return DaskTaskRunner(address=placement.dask_scheduler)
    # Else every run would leave Dask's folder among the temporary files.
    scratch = stack.enter_context(scratch_folder("turbosparse-dask-"))
    stack.enter_context(dask.config.set({"temporary-directory": str(scratch)}))
    cluster = {"n_workers": placement.num_workers, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=cluster)
