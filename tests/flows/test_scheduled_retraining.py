"""A retraining that fires by itself, twice: what was delivered well is promoted, what is spoiled is not."""

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flows_command import SHORT, TURBOSPARSE
from prefect_service import FINAL, Served, serve, wait_for

from turbosparse.artifacts import Store
from turbosparse.promotion import Champions

INTERVAL_SECONDS = 60
SECONDS_TO_END = 1_200.0
SETTINGS = SHORT | {
    "data.mixture": "{wanjuan-cc: 100}",
    "convert.source": "random",
    "pretrain.num_steps": 40,
    "evaluate.limit": 32,
    "retrain.steps_ratio": 1.0,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Served]:
    """A service whose schedules are looked at every few seconds."""
    often = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}
    with serve(tmp_path_factory.mktemp("retrain"), **often) as served:
        yield served


def deliver(texts: list[str], folder: Path) -> None:
    """Puts text in place of what was there."""
    folder.mkdir(exist_ok=True)
    draft = folder / "web.draft"
    draft.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    draft.replace(folder / "web.jsonl")


def good_texts() -> list[str]:
    from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte of English

    return [topics[name] for name in sorted(topics)]


def spoiled_texts() -> list[str]:
    """As much as there was of what no language has."""
    chance = random.Random(17)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789#{}$%&"
    return [
        " ".join("".join(chance.choices(letters, k=chance.randrange(3, 9))) for _ in range(len(text) // 7))
        for text in good_texts()
    ]


def schedule(service: Served, corpora: Path) -> dict[str, Any]:
    """Lets the deployment of `turbosparse serve` fire by itself."""
    deployment = service.deployment("retrain")
    parameters = deployment["parameters"]
    parameters["placement"] |= {"corpora": str(corpora)}
    parameters["overrides"] = {"assignments": [f"{name}={value}" for name, value in SETTINGS.items()]}
    service.request("PATCH", f"/deployments/{deployment['id']}", json={"parameters": parameters})
    fires = [{"schedule": {"interval": INTERVAL_SECONDS}, "active": True}]
    service.request("POST", f"/deployments/{deployment['id']}/schedules", json=fires)
    return deployment


def runs(service: Served, deployment: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = {"deployment_id": {"any_": [deployment["id"]]}}
    return service.post("/flow_runs/filter", flow_runs=wanted, limit=200)


def ended(service: Served, deployment: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Runs in a state of this name; one that failed otherwise ends the wait."""
    found = runs(service, deployment)
    failed = [run for run in found if run["state_type"] in ("FAILED", "CRASHED")]
    wrong = [run["state"] for run in failed if run["state_name"] != "Rejected"]
    assert not wrong, wrong
    return [run for run in found if run["state_type"] in FINAL and run["state_name"] == name]


@pytest.mark.long
@pytest.mark.timeout(3_000)
def test_a_schedule_promotes_what_is_good_and_refuses_what_is_spoiled(service, tmp_path):
    champions, corpora = Champions(str(service.root)), tmp_path / "corpora"
    deliver(good_texts(), corpora)
    deployment = schedule(service, corpora)
    wait_for(lambda: ended(service, deployment, "Completed"), SECONDS_TO_END)
    first = champions.current()
    assert first.number == 1
    assert first.how == "retrained"

    deliver(spoiled_texts(), corpora)
    rejected = wait_for(lambda: ended(service, deployment, "Rejected"), SECONDS_TO_END)[0]
    assert (
        "the champion stays: local_text.word_perplexity over the champion's is"
        in rejected["state"]["message"]
    )
    assert champions.current() == first, "the champion is who it was"
    report = {artifact["key"]: artifact for artifact in service.artifacts(rejected["id"])}["verdict-report"]
    assert "The champion stays." in report["data"]
    assert "**no**" in report["data"]

    scheduled = [run for run in runs(service, deployment) if run["created_by"]["type"] == "SCHEDULE"]
    assert rejected["id"] in [run["id"] for run in scheduled], "nobody started it"
    store = Store(str(service.root))
    recovered = [manifest for manifest in store.manifests() if manifest.kind == "pretrain"]
    assert [manifest.parents["model"].split("/")[0] for manifest in recovered] == ["convert", "pretrain"]
    assert recovered[1].parents["model"] == recovered[0].name, "it went on from the recovered model"


@pytest.mark.long
@pytest.mark.timeout(1_500)
def test_an_announcement_of_new_data_starts_a_run(service):
    deployment = service.deployment("retrain")
    before = {run["id"] for run in runs(service, deployment)}
    command = [TURBOSPARSE, "announce-data", "s3://bucket/corpora"]
    environment = os.environ | {"PREFECT_API_URL": f"{service.url}/api"}
    subprocess.run(command, env=environment, check=True, timeout=300)

    def started() -> list[dict[str, Any]]:
        new = [run for run in runs(service, deployment) if run["id"] not in before]
        return [run for run in new if run["created_by"]["type"] == "AUTOMATION"]

    service.set_state(wait_for(started, SECONDS_TO_END)[0]["id"], "CANCELLED", "Cancelled")
