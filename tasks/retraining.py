"""Tasks around the champion: one retraining at a time, the gate, the promotion, and how a run ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.events import Event, Resource, emit_event
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from tasks.evaluation import evaluate
from tasks.stage import StageResult, stage_task
from turbosparse.errors import CandidateRejected
from turbosparse.promotion import Lease, RetrainingUnderWay
from turbosparse.promotion.lease import holding_lease
from turbosparse.stages import Run, champion_run, promote_candidate

PROMOTED_EVENT = "turbosparse.champion.promoted"
NEW_DATA_EVENT = "turbosparse.data.new"

judge = stage_task("verdict", retries=1)
"""Champion's and candidate's results → whether the gate holds, and why not."""


@contextmanager
def only_retraining(run: Run) -> Iterator[Lease]:
    """Holds the root's lease inside the block; a flow run that is run again takes over its own.

    Raises:
        RetrainingUnderWay: Another retraining of this root runs.
    """
    with holding_lease(run.store.root, f"flow run {flow_run.id}", run.config.retrain.lease_seconds) as lease:
        yield lease


def evaluate_champion(run: Run) -> StageResult:
    """Measures the champion on what the candidate is measured on; it is reused from the second time on."""
    return evaluate(champion_run(run))


@task(name="promote", task_run_name="promote-{run.preset}", cache_policy=NO_CACHE, persist_result=False)
def promote(run: Run, lease: Lease) -> None:
    """Moves the pointer, if the lease is still ours and nobody moved it meanwhile."""
    lease.check()
    promotion = promote_candidate(run)
    uri = f"{run.store.root}/{promotion.champion}"
    get_run_logger().info("promotion %d: %s is the champion", promotion.number, uri)
    create_markdown_artifact(f"# Champion {promotion.number}\n\n`{uri}`\n", key="champion", description=uri)
    resource = {"prefect.resource.id": f"turbosparse.root.{run.store.root}", "turbosparse.champion": uri}
    emit_event(event=PROMOTED_EVENT, resource=resource, payload=promotion.model_dump(mode="json"))


def announce_new_data(corpora: str) -> None:
    """Sends the event that a deployment's trigger starts a retraining on; it has arrived when this returns.

    Args:
        corpora: path or URI of the folder that has received text.

    Raises:
        httpx.HTTPError: The server can't be reached, or refuses it.
    """
    event = Event(
        event=NEW_DATA_EVENT,
        resource=Resource.model_validate({"prefect.resource.id": f"turbosparse.corpora.{corpora}"}),
        occurred=datetime.now(UTC),
    )
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json")])


def rejected(verdict: StageResult) -> State[Any]:
    """Ends the run as failed, in a state named Rejected whose message says why."""
    error = CandidateRejected(verdict.uri, verdict.metrics["reasons"])
    return Failed(name="Rejected", message=str(error), data=error)


def skipped(error: RetrainingUnderWay) -> State[Any]:
    """Ends the run as cancelled, in a state named Skipped whose message says who runs."""
    return Cancelled(name="Skipped", message=str(error), data=error)


def nothing_new(reason: str) -> State[Any]:
    """Ends the run as completed, in a state named NothingNew, with no result."""
    get_run_logger().info("nothing to learn: %s", reason)
    return Completed(name="NothingNew", message=reason, data={})
