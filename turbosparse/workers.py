"""Who does many coarse jobs of one kind: this thread, a few threads, or a few processes.

A `MapJobs` is a value that a run carries; whoever orchestrates the run may bring another one, such
as a cluster's.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol, TypeVar

from turbosparse.processes import die_with_parent

Job = TypeVar("Job")
Result = TypeVar("Result")


class MapJobs(Protocol):
    """Applies a function to jobs; both can be pickled."""

    def __call__(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], on_done: Callable[[Result], None]
    ) -> list[Result]:
        """Returns the results in the jobs' order; `on_done` hears of each as it comes.

        The first job that fails ends the call with its exception; jobs not yet begun are dropped.
        """
        ...


def map_inline(
    function: Callable[[Job], Result], jobs: Sequence[Job], on_done: Callable[[Result], None]
) -> list[Result]:
    """Does the jobs here, one after the other."""
    results = []
    for job in jobs:
        results.append(function(job))
        on_done(results[-1])
    return results


@dataclass(frozen=True)
class Threads:
    """A few threads of this process: enough where the work lies in libraries that release the GIL."""

    num_workers: int

    def __call__(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], on_done: Callable[[Result], None]
    ) -> list[Result]:
        """Does the jobs; see `MapJobs`."""
        with ThreadPoolExecutor(self.num_workers) as executor:
            return _map_on(executor, function, jobs, on_done)


@dataclass(frozen=True)
class Processes:
    """A few fresh processes, which end with this one, be it by SIGKILL."""

    num_workers: int

    def __call__(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], on_done: Callable[[Result], None]
    ) -> list[Result]:
        """Does the jobs; see `MapJobs`."""
        # Spawned, not forked: the parent's threads (torch, pyarrow, Prefect) hold locks.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(self.num_workers, max(len(jobs), 1)),
            mp_context=context,
            initializer=die_with_parent,
            # A spawned process imports for seconds before it gets to ask.
            initargs=(signal.SIGKILL, os.getpid()),
        ) as executor:
            return _map_on(executor, function, jobs, on_done)


def _map_on(
    executor: Executor,
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    on_done: Callable[[Result], None],
) -> list[Result]:
    futures = [executor.submit(function, job) for job in jobs]
    try:
        for future in as_completed(futures):
            on_done(future.result())
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    return [future.result() for future in futures]
