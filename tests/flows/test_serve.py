"""`turbosparse serve`: runs that fail and are retried as the UI does it, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from flows_command import SHORT
from prefect_service import Served, serve, wait_for
from s3_server import ACCESS_KEY, REGION, SECRET_KEY

from tasks.server import RUN_SETTINGS
from turbosparse.artifacts import Store

FORM = {"assignments": [f"{name}={value}" for name, value in SHORT.items()]}
UNTRAINED = {"assignments": [*FORM["assignments"], "convert.source=random", "convert.base=null"]}
"""Converts initial weights: no training, whose imports take most of such a run's time."""
LONG = {"assignments": [*FORM["assignments"], "convert.base.num_steps=5000"]}


class Webhook(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    received: list[dict] = []  # noqa: RUF012 - one server, made anew for each test

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def webhook() -> Iterator[str]:
    """The address of a webhook."""
    server = HTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/canary-path"
    server.shutdown()


@pytest.fixture(scope="module")
def service(tmp_path_factory, webhook) -> Iterator[Served]:
    """A service for all tests of this module."""
    with serve(tmp_path_factory.mktemp("serve"), TURBOSPARSE_WEBHOOK_URL=webhook) as served:
        yield served


@pytest.mark.slow
def test_a_refused_run_says_what_to_do_and_its_retry_ends_well(service):
    # A corpus that no other test makes.
    data = {"data": {"num_held_back_documents": 7}}
    run = service.start("convert", overrides=UNTRAINED | data)
    failed = service.wait(run)
    assert failed["state_type"] == "FAILED"
    assert failed["name"] == "convert-tiny-dry-run"
    assert "Remedy: run turbosparse run prepare --preset tiny" in failed["state"]["message"]
    told = wait_for(lambda: [sent for sent in Webhook.received if "convert-tiny" in sent["text"]], 120)
    assert "Remedy: run turbosparse run prepare" in told[0]["text"]
    assert run in told[0]["url"]

    prepared = service.start("prepare", overrides=UNTRAINED | data)
    assert service.wait(prepared)["state_type"] == "COMPLETED"
    service.set_state(run, "SCHEDULED", "AwaitingRetry")
    retried = service.wait(run, 900, "COMPLETED", "CRASHED")
    assert (retried["state_type"], retried["run_count"]) == ("COMPLETED", 2)
    kinds = [manifest.kind for manifest in Store(str(service.root)).manifests()]
    assert kinds.count("convert") == 1
    assert not Store(str(service.root)).remove_unfinished(), "neither attempt left anything"


@pytest.mark.slow
def test_a_run_shows_its_progress_its_figures_and_its_plots(service):
    run = service.start("prepare", overrides=FORM)
    assert service.wait(run)["state_type"] == "COMPLETED"
    found = {artifact["key"]: artifact for artifact in service.artifacts(run)}
    assert {"prepare-report", "prepare-metrics"} <= set(found)
    assert "data:image/png;base64," in found["prepare-report"]["data"]
    metrics = {row["metric"]: row["value"] for row in json.loads(found["prepare-metrics"]["data"])}
    assert int(metrics["num_tokens"].replace(",", "")) >= 40_000
    tasks = service.post("/task_runs/filter", flow_runs={"id": {"any_": [run]}})
    assert {task["name"] for task in tasks} == {"prepare-tiny", "publish-prepare"}


@pytest.mark.slow
def test_storage_is_reached_by_blocks_whose_secrets_appear_nowhere(service, swift):
    _save_block(service, "right", SECRET_KEY)
    _save_block(service, "wrong", "canary-wrong-secret")
    placement = {"root": "s3://turbosparse/blocks", "access": {"endpoint_url": swift.endpoint}}
    for block, ending in (("missing", "FAILED"), ("wrong", "FAILED"), ("right", "COMPLETED")):
        access = placement["access"] | {"aws_credentials_block": block}
        run = service.start("prepare", overrides=FORM, placement=placement | {"access": access})
        ended = service.wait(run)
        assert ended["state_type"] == ending, ended["state"]["message"]
        if block == "missing":
            assert "placement.access.aws_credentials_block: 'missing'" in ended["state"]["message"]
        if block == "wrong":
            assert "signature you provided" in ended["state"]["message"]
            assert "Remedy: give another --root" in ended["state"]["message"]
        seen = json.dumps([ended, service.logs(run), service.artifacts(run)])
        assert "canary-wrong-secret" not in seen
        assert SECRET_KEY not in seen
    logs = b"".join(path.read_bytes() for path in (service.root / ".prefect").glob("*.log"))
    assert b"canary" not in logs


def _save_block(service: Served, name: str, secret: str) -> None:
    """Saves an AWS Credentials block as the UI's form does."""
    kind = service.get("/block_types/slug/aws-credentials")
    schemas = service.post("/block_schemas/filter", block_schemas={"block_type_id": {"any_": [kind["id"]]}})
    data = {
        "aws_access_key_id": ACCESS_KEY,
        "aws_secret_access_key": secret,
        "region_name": REGION,
    }
    service.post(
        "/block_documents/",
        name=name,
        block_type_id=kind["id"],
        block_schema_id=schemas[0]["id"],
        data=data,
    )


@pytest.mark.long
def test_a_run_that_nobody_hears_of_is_crashed(service, tmp_path):
    own = {"PREFECT_API_URL": f"{service.url}/api", "PREFECT_HOME": str(tmp_path)} | RUN_SETTINGS
    command = [sys.executable, str(Path(__file__).with_name("sleeping_flow.py"))]
    with subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"asleep\n"
        time.sleep(5)  # its first heartbeat is on its way
        process.kill()
    run = service.post("/flow_runs/filter", flow_runs={"name": {"any_": ["zombie"]}})[0]["id"]
    ended = service.wait(run, 400)
    assert (ended["state_type"], ended["state_name"]) == ("CRASHED", "Crashed")
    assert "No heartbeat for 3 minutes" in ended["state"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_no_process_outlives_it_and_the_run_can_go_on(number, tmp_path):
    with serve(tmp_path) as service:
        assert service.wait(service.start("prepare", overrides=FORM))["state_type"] == "COMPLETED"
        run = service.start("convert", overrides=LONG)
        wait_for(lambda: list(service.root.glob("base/*/state/history.jsonl")), 600)
        processes = service.processes()
        assert len(processes) >= 5, "server, worker, flow run, agent and rank"
        os.kill(service.process.pid, number)
        _, alive = psutil.wait_procs(processes, timeout=90)
        assert not alive, [process.cmdline() for process in alive]
        assert not service.processes()
    checkpoints = list(service.root.glob("base/*/state/checkpoints/*"))
    assert checkpoints, "training was given the time for one"
    if number == signal.SIGINT:
        with serve(tmp_path) as again:
            assert again.get(f"/flow_runs/{run}")["state_type"] == "CRASHED"
