"""What every stage's task has in common: one call to `make`, retried, reported, never cached here.

The artifact store alone decides reuse; a reused stage ends in a state named Reused.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import BaseModel

from tasks.groups import group_tasks, is_worth_retrying
from tasks.progress import reporting
from turbosparse.artifacts import Artifact
from turbosparse.processes import keeping_signal_handlers
from turbosparse.stages import Run, StageName, make, preload

RETRY_DELAY_SECONDS = 10


class StageResult(BaseModel):
    """What passes from task to flow: where the artifact is, and what was measured."""

    stage: str
    uri: str
    seconds: float
    """Time that this run spent on it; a reused artifact takes next to none."""
    reused: bool
    metrics: dict[str, Any]
    plots: list[str]
    """URIs of the artifact's PNG files."""
    reports: list[str]
    """URIs of its Markdown reports."""


def stage_task(
    stage: StageName, retries: int, timeout_seconds: float | None = None
) -> Callable[[Run], StageResult]:
    """Returns a stage as a task that is called with a run.

    Args:
        stage: Which stage.
        retries: Attempts after the first; training resumes from its last checkpoint. Bad input is
            never retried.
        timeout_seconds: How long an attempt may take; None: as long as it goes on.
    """

    @task(
        name=stage,
        task_run_name=f"{stage}-{{run.preset}}",
        timeout_seconds=timeout_seconds,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=retries,
        retry_delay_seconds=RETRY_DELAY_SECONDS,
        retry_condition_fn=is_worth_retrying,
    )
    def run_stage(run: Run) -> StageResult | State[StageResult]:
        started = time.monotonic()
        with keeping_signal_handlers():
            preload(run, (stage,))
        with reporting(stage) as listener, group_tasks(run.placement) as map_jobs:
            artifact = make(replace(run, map_jobs=map_jobs), stage, listener)
        result = _result(stage, artifact, time.monotonic() - started)
        return Completed(name="Reused", message=result.uri, data=result) if artifact.reused else result

    def call(run: Run) -> StageResult:
        outcome = run_stage(run)
        result: StageResult = outcome.result() if isinstance(outcome, State) else outcome
        return result

    return call


def _result(stage: str, artifact: Artifact, seconds: float) -> StageResult:
    manifest = artifact.manifest
    folder = f"{artifact.uri}/{manifest.attempt}"
    return StageResult(
        stage=stage,
        uri=artifact.uri,
        seconds=round(seconds, 3),
        reused=artifact.reused,
        metrics=manifest.metrics,
        plots=[f"{folder}/{path}" for path in sorted(manifest.files) if path.endswith(".png")],
        reports=[f"{folder}/{path}" for path in sorted(manifest.files) if path == "report.md"],
    )
